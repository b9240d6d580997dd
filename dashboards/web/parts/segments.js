// The variants by segment of the requests: compared in each; of a bandit with features the mean that each is predicted
// to have, and what each column of the features adds to it.

import { useGet } from "../core/data.js";
import { counted, difference, estimate, kind, moment } from "../core/format.js";
import { choose, here } from "../core/router.js";
import { html } from "../vendor/preact.js";
import { choices, figure, section, variantName } from "./basics.js";
import { axis, forest } from "./forest.js";
import { axes, byVariant, cellOf, wanted } from "./scorecard.js";

const EVERY_S = 30;
const OLD_S = 60;
const PATIENCE_MS = 60_000; // months of many segments
const OF_REQUESTS = ["error_rate", "client_error_rate", "latency_p50", "latency_p99"]; // of the newest ones, by the record

export function Segments({ report, colour, now }) {
  if (report.contextual) return [predicted(report, colour), learned(report, colour)];
  return html`<${Compared} report=${report} colour=${colour} now=${now} />`;
}

function Compared({ report, colour, now }) {
  const path = `routes/${encodeURIComponent(report.route)}/segments?${new URLSearchParams({ baseline: report.compared_with })}`;
  const { data, error } = useGet(path, { every: EVERY_S, timeout: PATIENCE_MS });
  if (!data) return section("segments", "By segment", error ? `The segments could not be read: ${error.message}` : "Loading…");
  const metrics = Object.keys(data.segments[0]?.variants[report.compared_with].rewards ?? {});
  const reported = metrics.filter((m) => data.segments.some((one) => Object.values(one.variants).some((v) => v.rewards[m].count)));
  if (!reported.length && !data.latest.requests) return section("segments", "By segment", `No requests by ${report.segments.join(" or ")} yet.`);
  const possible = [...reported, ...OF_REQUESTS];
  const metric = [here().query.metric, report.metric].find((m) => possible.includes(m)) ?? possible[0];
  const latest = OF_REQUESTS.includes(metric);
  const names = Object.keys(report.variants);
  const pages = data.segments.map(({ feature, value, variants }) => {
    const where = `${feature} is ${value ?? "anything else"}`;
    const shown = Object.fromEntries(Object.entries(variants).map(([name, v]) => [name, { ...v, ...v.latest }]));
    const own = { ...report, variants: shown, candidate: null, within: `segments.${feature}.${value}.` };
    return { report: own, names, colour, where, latest, shown: names.map((name) => [name, cellOf(metric)(own, name, metric)]) };
  });
  const [known, empty] = [true, false].map((wants) => pages.filter(({ shown }) => wants === shown.some(([, one]) => one)));
  const scales = axes(
    known,
    metric,
    known.flatMap(({ shown }) => shown)
  );
  return section(
    "segments",
    "By segment",
    `${metric} (${wanted(report.metrics[metric]?.goal ?? "minimize")}) by ${report.segments.join(" and ")}. ${latest ? ofLatest(data, now) : "The differences of all segments hold together, however often you look (95%)."}${now - data.as_of > OLD_S ? ` As of ${moment(data.as_of, now)}.` : ""}`,
    choices(
      "Metric",
      possible.map((m) => [m, m]),
      metric,
      (m) => choose({ metric: m })
    ),
    !latest && html`<p class="said">${claims(known, metric)}</p>`,
    known.map(
      (page) =>
        html`<div class="metric" key=${page.where} data-segment=${page.where}><h3>${page.where}</h3>${byVariant(page, metric, page.shown, scales)}</div>`
    ),
    empty.length > 0 && html`<p class="note">No ${latest ? "requests" : "rewards"} yet where ${empty.map(({ where }) => where).join(", or ")}.</p>`
  );
}

const ofLatest = ({ latest }, now) =>
  `Of the newest ${counted(latest.requests, "request")}, since ${moment(latest.since, now)}; intervals (95%) hold for one look.`;

// What is shown, in words: "new is better where tier is free".
function claims(pages, metric) {
  const found = pages.flatMap(({ report, names, where }) =>
    names
      .map((name) => [name, report.variants[name].lift[metric]?.better ?? null])
      .filter(([, better]) => better !== null)
      .map(([name, better]) => `${name} is ${better ? "better" : "worse"} where ${where}`)
  );
  return found.length ? `${found.join("; ")}.` : "No difference is shown in any segment yet.";
}

// By segment: for the same requests, whichever variant they got.
function predicted(report, colour) {
  const found = report.contextual?.segments ?? [];
  if (!found.length) return null;
  const what = kind(report.metric, report.metrics);
  const means = axis(found.flatMap((one) => Object.values(one.means).map((mean) => possible(mean, what))));
  const apart = axis(
    found.flatMap((one) => Object.values(one.differences).map((d) => possible({ mean: d.absolute, interval: d.interval }, what, -1))),
    [0]
  );
  return section(
    "segments",
    "By segment",
    `The mean of ${report.metric} that each variant is predicted to have for the same requests, and its difference from ${report.compared_with}: of the model, 95% credible intervals.`,
    found.map((one) => segment(one, report, colour, { what, means, apart }))
  );
}

// The model is linear: it may lead beyond what a share can be.
function possible({ mean, interval }, what, least = 0) {
  const within = (x) => (what === "fraction" ? Math.min(1, Math.max(least, x)) : x);
  return { mean: within(mean), interval: interval?.map(within) };
}

function segment(one, report, colour, { what, means, apart }) {
  const name = one.feature ? `${one.feature}: ${one.value}` : "All requests";
  const field = (rest) => `contextual.segments.${one.feature}.${one.value}.${rest}`;
  return html`<div class="metric" key=${name} data-segment=${name}>
    <h3>${name} ${one.rewards !== null && html`<small>${figure(field("rewards"), one.rewards, counted(Math.round(one.rewards), "reward"))}</small>`}</h3>
    <div class="metric-rows" role="table" aria-label=${`${report.metric} where ${name}`}>${Object.entries(one.means).map(([variant, predicted]) => {
      const found = possible(predicted, what);
      const said = estimate({ ...found, count: 1 }, what);
      return html`<div class="metric-row" role="row" key=${variant} data-row=${variant}>
        <div role="rowheader">${variantName(variant, colour(variant))}</div>
        <div role="cell" class="estimate"><div class="estimate-text">${figure(field(`means.${variant}`), predicted.mean, said.mean)}<small>${said.interval}</small></div>
          ${forest({ ...found, scale: means, hue: colour(variant).hue, label: `${said.mean}, 95% interval ${said.interval}` })}</div>
        <div role="cell" class="estimate">${apartFrom(one.differences[variant], field(`differences.${variant}`), what, apart)}</div>
      </div>`;
    })}</div></div>`;
}

function apartFrom(found, field, what, scale) {
  if (!found) return html`<small class="note">baseline</small>`;
  const { mean, interval } = possible({ mean: found.absolute, interval: found.interval }, what, -1);
  const said = difference(mean, interval, what);
  return [
    html`<div class="estimate-text">${figure(field, found.absolute, said.text)}<small>${said.interval}</small></div>`,
    forest({ mean, interval, scale, zero: 0, label: `${said.text}, ${said.interval}` })
  ];
}

function learned(report, colour) {
  const known = report.contextual?.coefficients ?? {};
  const names = Object.keys(known);
  if (!names.length) return null;
  const columns = Object.keys(known[names[0]]);
  const note = `What each feature adds to the mean of ${report.metric}; a number's from the middle of its range to its upper end. Bars are 95% credible intervals.`;
  return section(
    "learned",
    "What was learned",
    note,
    columns.map((column) => row(column, names, known, report, colour))
  );
}

function row(column, names, known, report, colour) {
  const scale = axis([...names.map((name) => known[name][column]), { mean: 0, interval: null }]);
  return html`<div class="metric" key=${column} data-column=${column}><h3>${column}</h3><div class="metric-rows">
    ${names.map((name) => {
      const found = known[name][column];
      const said = difference(found.mean, found.interval, kind(report.metric, report.metrics));
      return html`<div class="metric-row" key=${name}>
        <div>${variantName(name, colour(name))} <small>${counted(report.contextual.rewards[name], "reward")}</small></div>
        <div class="estimate"><div class="estimate-text">${figure(`contextual.${name}.${column}`, found.mean, said.text)}<small>${said.interval}</small></div>
        ${forest({ ...found, scale, zero: 0, hue: colour(name).hue, label: `${said.text}, 95% interval ${said.interval}` })}</div>
      </div>`;
    })}
  </div></div>`;
}
