// The scorecard: a block for each metric, a row for each variant. The mean with its interval, the difference from the
// baseline with its always-valid interval, zero and the limit on one axis, and what follows from that.

import { count, counted, difference, estimate, kind, milliseconds, moment, none, seconds, significant } from "../core/format.js";
import { choose } from "../core/router.js";
import { bounded, FEW, level, metricsOf, VERDICTS, verdictsOf } from "../core/words.js";
import { html } from "../vendor/preact.js";
import { badge, explained, figure, variantName } from "./basics.js";
import { axis, forest } from "./forest.js";

const MAX_RATIO = 1e6; // a larger end of an interval says that there is none
const MEASURED = ["error_rate", "client_error_rate", "latency_p50", "latency_p99"];
const VERDICT_TONES = { pass: "good", fail: "bad", inconclusive: "", error: "warn" };

export function scorecard(report, colour) {
  const { verdicts, frozen } = report.rollout ? verdictsOf(report.rollout) : { verdicts: report.guardrails ?? [], frozen: null };
  const names = Object.keys(report.variants).filter((name) => report.variants[name].assigned || name in report.allocation);
  const page = { report, colour, verdicts, names };
  const guarded = verdicts.filter((one) => !MEASURED.includes(one.metric) && !(one.metric in report.metrics));
  return html`<section class="card" id="scorecard" key="scorecard" aria-labelledby="scorecard-h">
    <div class="card-head"><h2 id="scorecard-h">Scorecard</h2>
      ${
        names.length > 1 &&
        html`<label class="note">Baseline <select value=${report.compared_with} onChange=${(e) => choose({ baseline: e.target.value })}>
        ${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label>`
      }
      <p class="note">${explained(period(report))} ${explained(apart(report))} ${names.length > 1 && "Differences hold however often you look (95%)."}</p>
      ${frozen && html`<p class="note frozen">Guardrails as they stood when the rollout ended: ${explained(frozen.reason)}</p>`}
    </div>
    ${metricsOf(report).map(([metric, m]) => block(page, metric, m.goal, rewardCell))}
    ${block(page, "error_rate", "minimize", errorCell)}
    ${refused(page) && block(page, "client_error_rate", "minimize", errorCell)}
    ${["latency_p50", "latency_p99"].map((metric) => block(page, metric, "minimize", latencyCell))}
    ${guarded.map((one) => html`<div class="metric" key=${one.metric} data-guardrail=${one.metric}><h3>${one.metric}</h3>${guardrail(report, one)}</div>`)}
  </section>`;
}

// What the means are of: everything on record, not the last minutes of the headline.
function period({ first_decision: first, as_of: now }) {
  return first === null ? "" : `Each variant: all its requests since ${moment(first, now)}, with 95% intervals for one look.`;
}

// Most routes have no client errors: they are shown where there are some, or a guardrail is on them.
const refused = ({ report, verdicts }) =>
  verdicts.some((one) => one.metric === "client_error_rate") || Object.values(report.variants).some((v) => v.client_errors > 0);

// How the differences come about, where they are not those of the means next to them.
function apart(report) {
  const { contextual, variants } = report;
  if (contextual) return "Variants got different requests: compare the differences, which are over all requests, not the means.";
  const lifts = Object.values(variants).flatMap((v) => Object.values(v.lift));
  const said = [
    lifts.some((one) => one.method !== "pooled") && "Shares moved: a difference compares the same times, so it may differ from that of the means.",
    lifts.some((one) => one.unit === "units") && "A unit counts once in differences, each request in error rates and latencies.",
    byEpoch(report) && "Differences are only of the newest epoch that had two variants, such as the present stage.",
    lifts.some((one) => one.adjusted_by) && "Differences are adjusted by what was known before."
  ];
  return said.filter(Boolean).join(" ");
}

// Whether a sticky unit counts once in each epoch: those before the newest are not compared.
const byEpoch = ({ epoch, unit, policy, rollout }) => epoch > 1 && unit === "units" && policy !== "bandit" && rollout?.phase !== "bandit";

// Whether each difference in a metric is that of the means.
export function ofMeans({ variants, compared_with }, metric) {
  const mean = (v) => v.rewards[metric].mean;
  return Object.values(variants).every(
    ({ lift, ...v }) => !lift[metric] || Math.abs(lift[metric].absolute - mean(v) + mean(variants[compared_with])) <= 1e-9 * (1 + Math.abs(mean(v)))
  );
}

function block(page, metric, goal, cell) {
  const { report, verdicts, names } = page;
  const guarded = verdicts.filter((one) => one.metric === metric);
  const shown = names.map((name) => [name, cell(report, name, metric)]);
  if (!guarded.length && shown.every(([, one]) => one === null)) return null;
  const limits = guarded.map(limitOf).filter((x) => x !== null);
  return html`<div class="metric" key=${metric} data-metric=${metric} data-guardrail=${guarded.length ? metric : null}>
    <h3>${metric} <small>${[report.metrics[metric]?.description, wanted(goal), metric === report.metric && report.policy === "bandit" && "goal of the bandit"].filter(Boolean).join(" · ")}</small></h3>
    ${guarded.map((one) => guardrail(report, one))}
    ${byVariant(page, metric, shown, axes([page], metric, shown, limits), limits[0] ?? null, guarded)}
  </div>`;
}

export const wanted = (goal) => (goal === "minimize" ? "less is better" : "more is better");

// The scales of the means and of the differences, the same for all `pages`.
export function axes(pages, metric, shown, limits = []) {
  const { metrics } = pages[0].report;
  const bounds = kind(metric, metrics) === "fraction" ? [0, 1] : metric.startsWith("latency") ? [0, Infinity] : undefined;
  const lifts = pages.flatMap(({ report }) => Object.values(report.variants).map((v) => v.lift[metric])).filter(Boolean);
  return {
    means: axis(
      shown.map(([, one]) => one),
      [],
      bounds
    ),
    apart: axis(
      lifts.map((one) => ({ mean: one.absolute, interval: one.interval })),
      [0, ...limits]
    )
  };
}

export function byVariant({ report, names, colour, where, latest }, metric, shown, { means, apart }, limit = null, guarded = []) {
  return html`<div class="metric-rows" role="table" aria-label=${`${metric} by variant${where ? ` where ${where}` : ""}`}>
    <div role="row" class="hidden"><span role="columnheader">Variant</span> <span role="columnheader">Estimate</span> ${names.length > 1 && !latest && html`<span role="columnheader">Difference from ${report.compared_with}</span>`}</div>
    ${shown.map(
      ([name, one]) => html`<div class="metric-row" role="row" key=${name} data-row=${name}>
      <div role="rowheader">${variantName(name, colour(name))}</div>
      <div role="cell" class="estimate">${one ? one.text : html`<span class="thin">no data</span>`}${one && forest({ mean: one.mean, interval: one.interval, scale: means, hue: colour(name).hue, thin: one.thin, label: one.label })}</div>
      ${names.length > 1 && !latest && html`<div role="cell" class="estimate">${lift(report, name, metric, apart, limit, guarded)}</div>`}
    </div>`
    )}
  </div>`;
}

// Why many values of a metric have no interval.
const withoutInterval = ({ mean }, type) => (type === "count" && mean ? "a few make the sum: no interval" : "all the same: no interval");

function rewardCell(report, name, metric) {
  const found = report.variants[name].rewards[metric];
  const field = `${report.within ?? ""}variants.${name}.rewards.${metric}`;
  if (!found.count) {
    if (!found.waiting) return null;
    return {
      mean: null,
      text: html`<span class="thin">${figure(`${field}.count`, 0, `${count(found.waiting)} ${found.waiting === 1 ? "waits for its" : "wait for their"} window's end`)}</span>`
    };
  }
  const said = estimate(found, report.metrics[metric].type);
  const thin = found.observations < FEW;
  const remarks = [
    found.missing && `${count(found.missing)} missing`,
    !thin && !found.interval && withoutInterval(found, report.metrics[metric].type),
    found.observations !== found.count && `${count(Math.round(found.observations))} independent`
  ].filter(Boolean);
  const text = html`<div class="estimate-text">${figure(`${field}.mean`, found.mean, said.mean)}<small>${said.interval}</small><small class=${thin ? "thin" : ""}>n ${figure(`${field}.count`, found.count, count(found.count))}${remarks.length ? ` (${remarks.join(", ")})` : ""}${thin ? ", too few to tell" : ""}</small></div>`;
  return { mean: found.mean, interval: found.interval, thin, text, label: `${said.mean}, 95% interval ${said.interval || "not known yet"}` };
}

// The cell of a metric, whatever it is of.
export const cellOf = (metric) => (metric.endsWith("error_rate") ? errorCell : metric.startsWith("latency_") ? latencyCell : rewardCell);

function errorCell(report, name, metric) {
  const v = report.variants[name];
  if (!v.assigned) return null;
  const errors = metric === "error_rate" ? "errors" : "client_errors";
  const rate = v[metric];
  const field = `${report.within ?? ""}variants.${name}.`;
  const said = estimate(rate, "boolean");
  const text = html`<div class="estimate-text">${figure(`${field}${metric}.mean`, rate.mean, said.mean)}<small>${said.interval}</small><small>${figure(field + errors, v[errors], count(v[errors]))} of ${count(metric === "error_rate" ? v.assigned : rate.count)}</small></div>`;
  return {
    mean: rate.mean,
    interval: rate.interval,
    thin: v.assigned < FEW,
    text,
    label: `${said.mean} ${errors.replace("_", " ")}, 95% interval ${said.interval}`
  };
}

function latencyCell(report, name, metric) {
  const v = report.variants[name];
  const q = metric.slice("latency_".length);
  if (!v.latency_ms) return null;
  const interval = v.latency_interval_ms[q];
  const few = interval[1] === null;
  const said = few ? `above ${milliseconds(interval[0])}` : `${milliseconds(interval[0])} – ${milliseconds(interval[1])}`;
  const text = html`<div class="estimate-text">${figure(`${report.within ?? ""}variants.${name}.latency_ms.${q}`, v.latency_ms[q], milliseconds(v.latency_ms[q]), few ? "thin" : "")}<small>${said}</small><small class=${few ? "thin" : ""}>n ${count(v.served)}${few ? ", too few to tell" : ""}</small></div>`;
  return { mean: v.latency_ms[q], interval, thin: few, text, label: `${milliseconds(v.latency_ms[q])}, 95% interval ${said}` };
}

// The ratio may be below 1 or above 10: the baseline is too uncertain to divide by.
const tooUncertain = ([low, high]) => (low ?? -1) < 0 && (high ?? Infinity) > 9;

// Why there is no difference from the baseline.
function incomparable(report, name, metric) {
  if (report.contextual && !(metric in report.metrics)) return "not compared: each request's features decide its variant";
  return report.rollout && !(report.allocation[name] > 0) ? "not compared: it gets no traffic" : none;
}

function lift(report, name, metric, scale, limit, guarded) {
  const found = report.variants[name].lift[metric];
  if (name === report.compared_with) return html`<small class="note">baseline</small>`;
  if (!found) return html`<small class="thin">${incomparable(report, name, metric)}</small>`;
  const said = difference(found.absolute, found.interval, kind(metric, report.metrics));
  if (said.text === none) return html`<small class="thin">too few to compare</small>`;
  // A guardrail may decide before the interval does: it tests nothing but its limit.
  const failed = found.better === null && guarded.some((one) => one.verdict === "fail" && name === (one.variant ?? report.candidate));
  const verdict = failed
    ? badge("✕ over its limit", "bad")
    : found.better === null
      ? badge("? undecided")
      : found.better
        ? badge("✓ better", "good")
        : badge("✕ worse", "bad");
  const part = (x) => (x === null ? "…" : found.relative >= 2 ? `×${significant(1 + x, 2)}` : `${x >= 0 ? "+" : "−"}${significant(Math.abs(x) * 100, 2)}%`);
  const ends = found.relative !== null && found.relative_interval;
  const few = metric.startsWith("latency_") && ends?.[1] === null;
  const ratio = !ends
    ? ""
    : few
      ? "too few for a ratio"
      : tooUncertain(ends)
        ? "baseline too uncertain for a ratio"
        : `${part(found.relative)} (${ends.map(part).join(" to ")})`;
  return [
    html`<div class="estimate-text">${figure(`${report.within ?? ""}variants.${name}.lift.${metric}.absolute`, found.absolute, said.text)}<small>${said.interval || "not known yet"}</small><small>${ratio}</small>${verdict}</div>`,
    forest({ mean: found.absolute, interval: found.interval, scale, zero: 0, limit, label: `${name} less ${found.baseline}: ${said.text}, ${said.interval}` })
  ];
}

export const limitOf = (one) =>
  one.limit === undefined || one.bound?.endsWith("_ratio") || !one.bound?.startsWith("max") ? null : one.bound === "max_decrease" ? -one.limit : one.limit;

// A guardrail's verdict in one line, with the interval that it rests on.
function guardrail(report, one) {
  const [sign, text] = VERDICTS[one.verdict] ?? ["", one.verdict];
  const what = kind(one.metric, report.metrics);
  const ratio = (x) => `×${significant(x, 3)}`;
  const says =
    {
      max_increase: `at most ${difference(one.limit, null, what).text.replace(/^[+±]/, "")} more`,
      max_decrease: `at most ${difference(one.limit, null, what).text.replace(/^[+±]/, "")} less`,
      max_ratio: `at most ${significant(one.limit ?? 0, 3)} times`,
      min_ratio: `at least ${significant(one.limit ?? 0, 3)} times`
    }[one.bound] ?? bounded(one, what);
  const said =
    one.estimate === null || one.estimate === undefined
      ? none
      : one.bound?.endsWith("_ratio")
        ? ratio(one.estimate)
        : one.bound?.startsWith("max")
          ? difference(one.estimate, one.interval, what).text
          : level(one.estimate, what);
  const ends = !one.interval
    ? ""
    : one.bound?.endsWith("_ratio")
      ? one.interval.map((end) => (end === null || end > MAX_RATIO ? "…" : ratio(end))).join(" to ")
      : one.bound?.startsWith("max")
        ? difference(one.estimate, one.interval, what).interval
        : estimate({ mean: one.estimate, interval: one.interval }, "fraction").interval;
  const more =
    one.more_requests === null || one.more_requests === undefined
      ? ""
      : `about ${counted(one.more_requests, "more request")}${one.minutes ? `, ${seconds(one.minutes * 60)} at this rate` : ""}`;
  const rests = [one.reason, one.samples ? counted(one.samples, "sample") : "", more].filter(Boolean).join(" · ");
  return html`<p class="guardrail" key=${`${one.variant}-${one.bound}-${one.limit}`} data-variant=${one.variant}>${badge(`${sign} ${text}`, VERDICT_TONES[one.verdict] ?? "")} <span>${one.variant && `${one.variant}: `}${one.metric === "agreement" ? "Gate" : "Guardrail"}: ${says}${said === none ? "" : html`; it is <b>${said}</b>${ends && ` (${ends})`}`}.</span> <small>${explained(rests)}</small></p>`;
}
