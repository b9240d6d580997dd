// The charts of a route, each made from the same buckets.

import { lines, stack } from "../charts/marks.js";
import { frame } from "../charts/frame.js";
import { niceTicks } from "../charts/scale.js";
import { h } from "../dom.js";
import { count, estimate, milliseconds, seconds, share, short, tick } from "../format.js";
import { metricsOf } from "../words.js";
import { choices } from "./parts.js";

export function chartsView(report, series, colour, ui) {
  if (!series) return h("div", { class: "charts loading", key: "charts" }, h("div", { class: "card chart" }, h("p", { class: "empty" }, "Loading the history…")));
  const page = {
    report,
    names: Object.keys(report.variants),
    colour,
    ui,
    step: series.step,
    window: series.window,
    x: [began(series), series.until],
    buckets: series.buckets.map((b) => ({ ...b, time: Math.min(b.start + series.step / 2, series.until) })),
  };
  return h("div", { class: "charts", key: "charts" }, shares(page), rewards(page), latencies(page), errors(page), requests(page));
}

// A gateway that has just begun need not show the emptiness before.
function began(series) {
  const first = series.buckets[0]?.start ?? series.since;
  return Math.max(series.since, Math.min(first, series.until - Math.max(60, 6 * series.step)));
}

const NO_TRAFFIC = "No traffic in this period.";

function shares(page) {
  const value = (at, name) => page.buckets[at].variants[name]?.allocated ?? page.buckets[at].variants[name]?.share ?? null;
  const names = page.names.filter((name) => page.buckets.some((_, at) => value(at, name) > 0));
  return frame(
    {
      ...base(page, "shares", "Traffic shares", `What the allocation called for, in steps of ${seconds(page.step)}.`),
      wide: true,
      y: { low: 0, high: 1, ticks: [0, 0.25, 0.5, 0.75, 1], text: (v) => share(v) },
      legend: names.map((name) => ({ variant: name, colour: page.colour(name), text: share(page.report.allocation[name]) })),
      marks: (found) => stack(page.buckets, names, value, page.colour, page.step, found),
      rows: (at) => names.map((name) => row(page, name, share(value(at, name)))),
      empty: names.length ? null : NO_TRAFFIC,
    },
    page.ui,
  );
}

function rewards(page) {
  const metrics = metricsOf(page.report).map(([name]) => name);
  const chosen = metrics.includes(page.ui.choices.metric) ? page.ui.choices.metric : (metrics.find((m) => m === page.report.metric) ?? metrics[0]);
  if (!chosen) return null;
  const { type, goal } = page.report.metrics[chosen];
  const part = page.ui.choices.rewards;
  const value = (at, name) => page.buckets[at].variants[name]?.[part]?.[chosen] ?? null;
  const names = page.names.filter((name) => page.buckets.some((_, at) => (value(at, name)?.mean ?? null) !== null));
  const bounds = type === "boolean" || type === "fraction" ? [0, 1] : type === "count" ? [0, Infinity] : [-Infinity, Infinity];
  const note = part === "to_date" ? "Mean of all rewards so far, 95% intervals." : `Mean over the last ${seconds(page.window)}, 95% intervals.`;
  return frame(
    {
      ...base(page, "rewards", `Reward: ${chosen}`, `${note} ${goal === "minimize" ? "Less" : "More"} is better.`),
      y: domain(page, names, value, bounds, type),
      legend: names.map((name) => ({ variant: name, colour: page.colour(name), text: newest(page, name, value, (e) => estimate(e, type).mean) })),
      controls: [
        metrics.length > 1 && choices("Metric", metrics.map((m) => [m, m]), chosen, (m) => page.ui.onChoice("metric", m)),
        choices("Rewards", [["to_date", "To date"], ["rolling", "Rolling"]], part, (v) => page.ui.onChoice("rewards", v)),
      ],
      marks: (found) => lines(page.buckets, names, value, page.colour, page.step, found),
      rows: (at) => names.map((name) => row(page, name, inWords(value(at, name), type))),
      empty: names.length ? null : "No rewards in this period.",
    },
    page.ui,
  );
}

function latencies(page) {
  const q = page.ui.choices.quantile;
  const value = (at, name) => asPoint(page.buckets[at].variants[name]?.latency_ms?.[q]);
  const names = page.names.filter((name) => page.buckets.some((_, at) => value(at, name) !== null));
  return frame(
    {
      ...base(page, "latency", `Latency, ${q}`, "From a request's first byte to its answer's last, of what the variant served."),
      y: fromZero(page, names, (at, name) => value(at, name)?.mean ?? 0, milliseconds),
      legend: names.map((name) => ({ variant: name, colour: page.colour(name), text: newest(page, name, value, (e) => milliseconds(e.mean)) })),
      controls: choices("Quantile", ["p50", "p95", "p99"].map((v) => [v, v]), q, (v) => page.ui.onChoice("quantile", v)),
      marks: (found) => lines(page.buckets, names, value, page.colour, page.step, found),
      rows: (at) => names.map((name) => row(page, name, withCount(value(at, name), page.buckets[at].variants[name]))),
      empty: names.length ? null : NO_TRAFFIC,
    },
    page.ui,
  );
}

function errors(page) {
  const value = (at, name) => page.buckets[at].variants[name]?.rolling_error_rate ?? null;
  const names = page.names.filter((name) => page.buckets.some((_, at) => (value(at, name)?.mean ?? null) !== null));
  const y = domain(page, names, value, [0, 1], "boolean");
  return frame(
    {
      ...base(page, "errors", "Error rate", `Over the last ${seconds(page.window)}, also where a fallback answered; 95% intervals.`),
      y: y && { ...y, low: 0 },
      legend: names.map((name) => ({ variant: name, colour: page.colour(name), text: newest(page, name, value, (e) => estimate(e, "boolean").mean) })),
      marks: (found) => lines(page.buckets, names, value, page.colour, page.step, found),
      rows: (at) => names.map((name) => row(page, name, inWords(value(at, name), "boolean"))),
      empty: names.length ? null : NO_TRAFFIC,
    },
    page.ui,
  );
}

function requests(page) {
  const rate = (at, name) => (page.buckets[at].variants[name]?.assigned ?? 0) / page.step;
  const total = page.buckets.map((_, at) => page.names.reduce((sum, name) => sum + rate(at, name), 0));
  const names = page.names.filter((name) => page.buckets.some((_, at) => rate(at, name) > 0));
  const { ticks, step } = niceTicks(0, Math.max(...total, 1 / page.step));
  return frame(
    {
      ...base(page, "requests", "Requests per second", "By assigned variant."),
      y: { low: 0, high: Math.max(ticks.at(-1) + (total.some((t) => t > ticks.at(-1)) ? step : 0), step), ticks, text: (v) => perSecond(v) },
      legend: names.map((name) => ({ variant: name, colour: page.colour(name) })),
      marks: (found) => stack(page.buckets, names, rate, page.colour, page.step, found),
      rows: (at) => names.map((name) => row(page, name, `${perSecond(rate(at, name))}/s`)),
      empty: names.length ? null : NO_TRAFFIC,
    },
    page.ui,
  );
}

function base(page, id, title, note) {
  return { id: `chart-${id}`, title, note, x: page.x, buckets: page.buckets };
}

// The newest figure of a variant, for the legend.
function newest(page, name, value, text) {
  for (let at = page.buckets.length - 1; at >= 0; at -= 1) {
    const found = value(at, name);
    if (found && found.mean !== null) return text(found);
  }
  return "";
}

function row(page, name, text) {
  return { variant: name, colour: page.colour(name), text };
}

const asPoint = (ms) => (ms === undefined || ms === null ? null : { mean: ms, interval: null });

const perSecond = (v) => (v >= 100 || v === 0 ? short(Math.round(v)) : v.toPrecision(2).replace(/\.0$/, ""));

function inWords(found, type) {
  if (!found || found.mean === null) return "–";
  const said = estimate(found, type);
  return `${said.mean}${said.interval ? ` (${said.interval})` : ""}, n = ${count(found.count)}`;
}

function withCount(point, variant) {
  return point === null ? "–" : `${milliseconds(point.mean)}, n = ${count(variant.served)}`;
}

// Room for all means, and for the intervals but for the first, which may be as wide as the scale.
function domain(page, names, value, bounds, type) {
  const all = page.buckets.flatMap((_, at) => names.map((name) => value(at, name))).filter((e) => e && e.mean !== null);
  if (!all.length) return { low: 0, high: 1, ticks: [], text: String };
  const widths = all.filter((e) => e.interval).map((e) => e.interval[1] - e.interval[0]).sort((a, b) => a - b);
  const usual = (widths[Math.floor(widths.length / 2)] ?? Infinity) * 3;
  const ends = all.flatMap((e) => (e.interval && e.interval[1] - e.interval[0] <= usual ? [e.mean, ...e.interval] : [e.mean]));
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  const air = (most - least || Math.abs(most) * 0.1 || 0.1) * 0.06;
  const [low, high] = [Math.max(bounds[0], least - air), Math.min(bounds[1], most + air)];
  const { ticks, step } = niceTicks(low, high);
  return { low, high, ticks, text: (v) => tick(v, step, type) };
}

function fromZero(page, names, value, text) {
  const most = Math.max(...page.buckets.flatMap((_, at) => names.map((name) => value(at, name))), 1e-6);
  const { ticks } = niceTicks(0, most * 1.08);
  return { low: 0, high: most * 1.08, ticks, text };
}
