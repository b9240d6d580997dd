// The comparison: one row for each variant, every mean with its interval on a scale that all rows share.

import { interval, reach } from "../charts/interval.js";
import { h } from "../dom.js";
import { count, estimate, loss, milliseconds, none, probability, share } from "../format.js";
import { FEW, metricsOf } from "../words.js";
import { figure, section, swatch } from "./parts.js";

const FEW_FOR_P99 = 100;

export function variantsView(report, colour) {
  const names = Object.keys(report.variants);
  const metrics = metricsOf(report);
  const scales = new Map(metrics.map(([metric, m]) => [metric, scaleOf(report, metric, m.type)]));
  const errors = reach(names.map((n) => report.variants[n].error_rate), [0, 1]);
  const contested = names.some((n) => report.variants[n].probability_best !== null);
  return section(
    "variants",
    "Variants",
    "Bars are 95% credible intervals; the mark is the mean.",
    h(
      "div",
      { class: "table-scroll" },
      h(
        "table",
        { class: "compare" },
        h("thead", {}, head(metrics, contested, report)),
        h("tbody", {}, names.map((name) => row({ name, report, colour, metrics, scales, errors, contested }))),
      ),
    ),
  );
}

function scaleOf(report, metric, type) {
  const bounded = type === "boolean" || type === "fraction" ? [0, 1] : undefined;
  return reach(Object.values(report.variants).map((v) => v.rewards[metric]), bounded);
}

function head(metrics, contested, report) {
  return h(
    "tr",
    {},
    h("th", { scope: "col" }, "Variant"),
    h("th", { scope: "col", class: "number" }, "Share"),
    h("th", { scope: "col", class: "number" }, "Requests"),
    metrics.map(([metric, m]) =>
      h("th", { scope: "col", key: metric }, metric, h("small", {}, m.goal === "minimize" ? "less is better" : "more is better")),
    ),
    contested && [
      h("th", { scope: "col", key: "best" }, "P(best)", h("small", {}, `in ${report.metric}`)),
      h("th", { scope: "col", class: "number", key: "loss", title: "What choosing this variant would lose against the best, on average" }, "Expected loss"),
    ],
    h("th", { scope: "col" }, "Errors", h("small", {}, "hidden ones too")),
    h("th", { scope: "col", class: "number" }, "Latency", h("small", {}, "p50 · p95 · p99")),
    h("th", { scope: "col", class: "number", title: "Assigned to this variant, answered by another" }, "Fallbacks"),
  );
}

function row({ name, report, colour, metrics, scales, errors, contested }) {
  const v = report.variants[name];
  const hue = colour(name);
  const field = (rest) => `variants.${name}.${rest}`;
  const type = report.metrics[report.metric]?.type ?? "real";
  const few = report.metric in report.metrics && v.rewards[report.metric].observations < FEW;
  return h(
    "tr",
    { key: name, "data-variant": name },
    h("th", { scope: "row" }, h("span", { class: "variant-name" }, swatch(hue), name), role(report, name)),
    h("td", { class: "number", "data-label": "Share" }, figure(`allocation.${name}`, report.allocation[name] ?? 0, shareOf(report, name))),
    h("td", { class: "number", "data-label": "Requests" }, figure(field("assigned"), v.assigned, count(v.assigned))),
    metrics.map(([metric, m]) =>
      h("td", { key: metric, class: "estimate", "data-label": metric }, reward(v.rewards[metric], m.type, scales.get(metric), hue, field(`rewards.${metric}`))),
    ),
    contested && [
      h("td", { key: "best", class: "estimate", "data-label": "P(best)" }, best(v.probability_best, hue, few, field("probability_best"))),
      h("td", { key: "loss", class: `number ${few ? "thin" : ""}`, "data-label": "Expected loss" }, figure(field("expected_loss"), v.expected_loss, loss(v.expected_loss, type))),
    ],
    h("td", { class: "estimate", "data-label": "Errors" }, errorRate(v, errors, hue, field)),
    h("td", { class: "number latency", "data-label": "Latency" }, latency(v, field)),
    h("td", { class: "number", "data-label": "Fallbacks" }, figure(field("fallbacks"), v.fallbacks, count(v.fallbacks))),
  );
}

function role(report, name) {
  const shadow = report.shadows?.[name];
  const roles = [
    name === report.baseline && "baseline",
    name === report.candidate && "candidate",
    shadow !== undefined && `shadow, ${share(shadow)} of requests copied`,
  ].filter(Boolean);
  return roles.length ? h("small", {}, roles.join(" · ")) : null;
}

function shareOf(report, name) {
  return name in report.allocation ? share(report.allocation[name]) : none;
}

function reward(found, type, scale, hue, field) {
  if (!found.count) {
    const waiting = found.waiting ? `${count(found.waiting)} wait for their window's end` : "no rewards yet";
    return h("span", { class: "thin" }, figure(`${field}.count`, 0, waiting));
  }
  const said = estimate(found, type);
  return [
    h("div", { class: "estimate-text" }, figure(`${field}.mean`, found.mean, said.mean), h("small", {}, said.interval)),
    interval(found, scale, hue, `${said.mean}, 95% interval ${said.interval || "not known yet"}`),
    h("small", { class: found.observations < FEW ? "thin" : "" }, figure(`${field}.count`, found.count, count(found.count)), found.count === 1 ? " reward" : " rewards", beside(found), found.observations < FEW && ": too few to tell"),
  ];
}

// What the number of rewards does not say: how many were missing, and how many may be taken for independent.
function beside({ count: all, missing, observations }) {
  const parts = [missing && `${count(missing)} missing`, observations !== all && `${count(Math.round(observations))} independent`].filter(Boolean);
  return parts.length > 0 && ` (${parts.join(", ")})`;
}

function best(p, hue, few, field) {
  if (p === null) return h("span", { class: "thin" }, none);
  return [
    h("div", { class: `estimate-text ${few ? "thin" : ""}` }, figure(field, p, probability(p))),
    h("div", { class: "meter", "aria-hidden": "true" }, h("div", { style: { width: `${p * 100}%`, background: hue } })),
    few && h("small", { class: "thin" }, "too few rewards"),
  ];
}

function errorRate(v, scale, hue, field) {
  if (!v.assigned) return h("span", { class: "thin" }, none);
  const said = estimate(v.error_rate, "boolean");
  return [
    h("div", { class: "estimate-text" }, figure(field("error_rate.mean"), v.error_rate.mean, said.mean), h("small", {}, said.interval)),
    interval(v.error_rate, scale, hue, `${said.mean} errors, 95% interval ${said.interval}`),
    h("small", {}, figure(field("errors"), v.errors, count(v.errors)), ` of ${count(v.assigned)}`),
  ];
}

function latency(v, field) {
  const found = v.latency_ms;
  if (!found) return h("span", { class: "thin" }, none);
  const thin = v.served < FEW_FOR_P99;
  return [
    h(
      "div",
      { class: "quantiles" },
      figure(field("latency_ms.p50"), found.p50, milliseconds(found.p50)),
      figure(field("latency_ms.p95"), found.p95, milliseconds(found.p95)),
      figure(field("latency_ms.p99"), found.p99, milliseconds(found.p99), thin ? "thin" : ""),
    ),
    v.gateway_ms && h("small", {}, `gateway adds ${milliseconds(v.gateway_ms.p50)} · ${milliseconds(v.gateway_ms.p99)}`),
    thin && h("small", { class: "thin" }, `p99 of ${count(v.served)} answers: too few`),
  ];
}
