// One route, from the verdict down to the addresses.

import { palette } from "../colours.js";
import { h } from "../dom.js";
import { count, estimate, milliseconds, share } from "../format.js";
import { standing } from "../words.js";
import { agreementView } from "./agreement.js";
import { chartsView } from "./charts.js";
import { healthView } from "./health.js";
import { learnedView } from "./learned.js";
import { logView } from "./log.js";
import { allocationBar, choices, figure, notice, policyBadge, swatch } from "./parts.js";
import { rolloutView } from "./rollout.js";
import { variantsView } from "./variants.js";

export const RANGES = [
  ["900", "15 min"],
  ["3600", "1 h"],
  ["21600", "6 h"],
  ["86400", "24 h"],
  ["604800", "7 d"],
];

export function routeView(state, ui) {
  const { report, series, events, failures, now } = state;
  const colour = palette(Object.keys(report.variants));
  return [
    head(report),
    report.alarms.map((alarm) => notice("bad", alarm.code.replaceAll("_", " "), alarm.message)),
    summary(report, colour),
    rolloutView(report, now),
    variantsView(report, colour),
    learnedView(report, colour),
    h(
      "div",
      { class: "over-time", key: "over-time" },
      h("h2", {}, "Over time"),
      choices("Period", RANGES, String(ui.choices.range), (v) => ui.onChoice("range", Number(v))),
    ),
    chartsView(report, series, colour, ui),
    agreementView(report, colour),
    healthView(report, colour),
    logView(events, failures, now),
  ];
}

function head(report) {
  return h(
    "div",
    { class: "page-head", key: "head" },
    h("h1", {}, report.route),
    h("div", { class: "badges" }, policyBadge(report.policy), h("span", { class: "note" }, "epoch ", figure("epoch", report.epoch, count(report.epoch)), " · revision ", figure("revision", report.revision, count(report.revision)))),
  );
}

function summary(report, colour) {
  const said = standing(report);
  return h(
    "section",
    { class: `card verdict tone-${said.tone}`, key: "verdict", "aria-label": "Summary" },
    h("div", { class: "verdict-words" }, h("p", { class: "verdict-title", id: "verdict" }, said.title), h("p", { class: "note" }, said.detail)),
    h(
      "div",
      { class: "verdict-traffic" },
      allocationBar(report.allocation, colour, true),
      h(
        "ul",
        { class: "legend" },
        Object.entries(report.allocation).map(([name, p]) => h("li", { key: name }, swatch(colour(name)), name, h("b", {}, share(p)))),
        Object.entries(report.shadows ?? {}).map(([name, p]) => h("li", { key: `s-${name}` }, swatch(colour(name)), name, h("b", {}, `shadow ${share(p)}`))),
      ),
    ),
    facts(report.recent),
  );
}

function facts(found) {
  const rate = estimate(found.error_rate, "boolean");
  const minutes = Math.round(found.seconds / 60);
  const fact = (term, ...value) => h("div", { key: term }, h("dt", {}, term), h("dd", {}, value));
  return h(
    "dl",
    { class: "facts", "aria-label": `Last ${minutes} minutes` },
    fact(`Requests, ${minutes} min`, figure("recent.assigned", found.assigned, count(found.assigned))),
    fact("Errors", figure("recent.error_rate", found.error_rate.mean, rate.mean), h("small", {}, rate.interval)),
    fact("Latency p50 · p99", figure("recent.p50", found.latency_ms?.p50, milliseconds(found.latency_ms?.p50)), " · ", figure("recent.p99", found.latency_ms?.p99, milliseconds(found.latency_ms?.p99))),
    fact("Gateway's own p50 · p99", figure("recent.gateway.p50", found.gateway_ms?.p50, milliseconds(found.gateway_ms?.p50)), " · ", figure("recent.gateway.p99", found.gateway_ms?.p99, milliseconds(found.gateway_ms?.p99))),
  );
}
