// A route over time: charts of the same buckets on one axis, with what happened marked on it.

import { useGet } from "../core/data.js";
import { count, estimate, milliseconds, perSecond, seconds, share, tick, zoneName } from "../core/format.js";
import { choose, here } from "../core/router.js";
import { getSeries, rangeOf, seriesPath } from "../core/series.js";
import { event, gateOf, metricsOf } from "../core/words.js";
import { choices, clockOf, figure, waiting } from "../parts/basics.js";
import { TimeChart } from "../parts/chart.js";
import { html, useEffect, useMemo, useState } from "../vendor/preact.js";
import { newestStep } from "./history.js";

export const RANGES = [
  ["900", "15 min"],
  ["3600", "1 h"],
  ["21600", "6 h"],
  ["86400", "24 h"],
  ["604800", "7 d"]
];
const TAIL_S = 15;
const MAX_LISTED = 6;
const QUANTILES = ["p50", "p95", "p99"];

export function TimeTab({ report, colour, events }) {
  const { query } = here();
  const { series, error } = useSeries(report.route, query);
  const history = useGet(`routes/${encodeURIComponent(report.route)}/history?limit=200`, { again: newestStep(report) });
  const [at, setAt] = useState(null);
  const absolute = query.since && query.until;
  const zoom = (since, until) => choose({ since: Math.floor(since), until: Math.ceil(until), range: null }, true);
  const controls = html`<div class="over-time" key="over-time">
    <h2>Over time</h2>
    <span class="note">Times in ${zoneName()}. Drag across a chart to zoom.</span>
    ${
      absolute
        ? html`<button class="quiet" type="button" onClick=${() => choose({ since: null, until: null }, true)}>Back to now</button>`
        : html`<button class="quiet" type="button" aria-pressed=${String(query.pause === "1")} onClick=${() => choose({ pause: query.pause === "1" ? null : "1" })}>Pause</button>`
    }
    ${choices("Period", RANGES, absolute ? "" : (query.range ?? "900"), (range) => choose({ range, since: null, until: null }))}
  </div>`;
  // Made of hundreds of points, and not again for each move of the pointer.
  const made = useMemo(
    () => series && drawn(series, report, colour, query, known(events ?? [], history.data?.steps ?? [])),
    [series, report, events, history.data, location.search]
  );
  if (!series) return [controls, html`<div class="card chart">${waiting(error)}</div>`];
  const { page, happened, charts } = made;
  return [
    controls,
    marks(happened, page),
    html`<div class="charts" key="charts">${charts.map((chart) => html`<${TimeChart} key=${chart.id} chart=${chart} at=${at} onPoint=${setAt} onZoom=${zoom} />`)}</div>`
  ];
}

function drawn(series, report, colour, query, happened) {
  const page = { ...pageOf(report, series, colour, query), marks: happened.map((one) => one.time) };
  const charts = [rewards(page), shares(page), agreement(page), errors(page), clientErrors(page), latencies(page), requests(page)].filter(Boolean);
  return { page, happened, charts };
}

// What happened, oldest first: the page's events, and before them the steps of the route, which are kept for longer.
function known(events, steps) {
  const began = events.length ? events[0].time : Infinity;
  const told = new Set(events.map((one) => one.data?.revision)); // a revision is older than its event
  const found = [
    ...steps.filter((one) => one.time < began && !(one.kind === "config" && told.has(one.data.revision))),
    ...events.filter((one) => one.kind !== "allocation" && one.kind !== "steered") // it follows the step that it took
  ];
  return found.map((one) => ({ ...one, key: `${one.kind}-${one.id}` })).sort((a, b) => a.time - b.time);
}

// The whole range once, then only the buckets that are new or still fill.
function useSeries(route, query) {
  const [series, set] = useState(null);
  const [error, setError] = useState(null);
  const key = [route, query.since, query.until, rangeOf(query)].join();
  useEffect(() => {
    const controller = new AbortController();
    let known = null;
    let timer = null;
    async function load() {
      if (!document.hidden && !(known && query.pause === "1")) {
        try {
          const next = await getSeries(seriesPath(route, query, known?.buckets.at(-1)?.start), controller.signal);
          if (controller.signal.aborted) return;
          if (known && known.step !== next.step) {
            known = null; // the oldest of it is kept in longer buckets from now on
            return load();
          }
          known = joined(known, next);
          set({ ...known, key });
          setError(null);
        } catch (failed) {
          if (controller.signal.aborted) return;
          setError(failed);
        }
      }
      if (!(query.until && known) && !controller.signal.aborted) timer = setTimeout(load, TAIL_S * 1000);
    }
    load();
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [key, query.pause]);
  return { series: series?.key === key ? series : null, error };
}

function joined(before, next) {
  return {
    ...next,
    buckets: extended(before?.buckets, next.buckets, next.since),
    agreement: extended(before?.agreement, next.agreement, next.since),
    read: Date.now()
  };
}

function extended(before = [], next, since) {
  const kept = before.filter((b) => b.start >= since && !next.some((n) => n.start === b.start));
  return [...kept, ...next].sort((a, b) => a.start - b.start);
}

// Buckets without traffic are holes in every line.
function pageOf(report, series, colour, query) {
  const { step } = series;
  const first = series.buckets[0]?.start ?? series.until;
  const begin = Math.max(Math.floor(series.since / step) * step, Math.min(first, series.until - 60));
  const known = new Map(series.buckets.map((bucket) => [bucket.start, bucket]));
  const x = [];
  for (let start = Math.floor(begin / step) * step; start < series.until; start += step) x.push(start);
  const full = Math.max(
    0,
    x.findLastIndex((start) => known.has(start) && start + step <= series.until)
  );
  const bucketOf = (k, name) => known.get(x[k])?.variants[name];
  const agreed = new Map(series.agreement.map((bucket) => [bucket.start, bucket.shadows]));
  const agreedOf = (k, name) => agreed.get(x[k])?.[name] ?? null;
  return { report, colour, query, step, x, full, agreedOf, window: series.window, names: Object.keys(report.variants), bucketOf, stamp: series.read };
}

function lineOf(page, name, value) {
  const points = page.x.map((_, k) => value(k, name));
  const ends = (which) => points.map((p) => (p?.mean === null || p === null || p === undefined ? null : (p.interval?.[which] ?? p.mean)));
  return { name, look: page.colour(name), mean: points.map((p) => p?.mean ?? null), low: ends(0), high: ends(1) };
}

function base(page, id, title, note) {
  return { id: `chart-${id}`, title, note, x: page.x, full: page.full, marks: page.marks, stamp: `${page.stamp}${id}` };
}

function lines(page, value) {
  const seen = page.names.filter((name) => page.x.some((_, k) => (value(k, name)?.mean ?? null) !== null));
  return { lines: seen.map((name) => lineOf(page, name, value)), empty: seen.length ? null : "Nothing in this period." };
}

const inside =
  ([least, most]) =>
  (low, high) => {
    const air = (high - low || Math.abs(high) * 0.1 || 0.1) * 0.06;
    return [Math.max(least, low - air), Math.min(most, high + air)];
  };

function inWords(found, type) {
  if (!found || found.mean === null) return "–";
  const said = estimate(found, type);
  return `${said.mean}${said.interval ? ` (${said.interval})` : ""}, n\u00a0=\u00a0${count(found.count)}`;
}

function rewards(page) {
  const metrics = metricsOf(page.report).map(([name]) => name);
  const metric = metrics.includes(page.query.metric) ? page.query.metric : metrics[0];
  if (!metric) return null;
  const { type, goal } = page.report.metrics[metric];
  const part = page.query.rewards === "rolling" ? "rolling" : "to_date";
  const value = (k, name) => page.bucketOf(k, name)?.[part]?.[metric] ?? null;
  const note = part === "to_date" ? "Mean of all rewards so far" : `Mean over the last ${seconds(page.window)}`;
  const bounds = type === "boolean" || type === "fraction" ? [0, 1] : type === "count" ? [0, Infinity] : [-Infinity, Infinity];
  return {
    ...base(page, "rewards", `Reward: ${metric}`, `${note}, 95% intervals. ${goal === "minimize" ? "Less" : "More"} is better.`),
    ...lines(page, value),
    y: { range: inside(bounds), text: (v, step) => tick(v, step, type) },
    row: (k, name) => inWords(value(k, name), type),
    scale: `${metric}${part}`,
    controls: [
      metrics.length > 1 &&
        choices(
          "Metric",
          metrics.map((m) => [m, m]),
          metric,
          (m) => choose({ metric: m })
        ),
      choices(
        "Rewards",
        [
          ["to_date", "To date"],
          ["rolling", "Rolling"]
        ],
        part,
        (v) => choose({ rewards: v })
      )
    ]
  };
}

// How often each shadow agreed, with what a canary's gate asks of it.
function agreement(page) {
  const names = Object.keys(page.report.agreement ?? {});
  if (!names.length) return null;
  const gate = gateOf(page.report);
  const note = `With what the client got, over the last ${seconds(page.window)}; 95% intervals.${gate === null ? "" : ` Dashed: the gate requires ${share(gate)}.`}`;
  return {
    ...base(page, "agreement", "Agreement of shadows", note),
    ...lines({ ...page, names }, page.agreedOf),
    level: gate,
    y: { range: (low, high) => inside([0, 1])(Math.min(low, gate ?? low), Math.max(high, gate ?? high)), text: (v, step) => tick(v, step, "fraction") },
    row: (k, name) => inWords(page.agreedOf(k, name), "boolean")
  };
}

const errors = (page) => rate(page, "rolling_error_rate", "errors", "Error rate", "also where a fallback served");

// Most routes have none.
function clientErrors(page) {
  const some = page.names.some((name) => page.x.some((_, k) => page.bucketOf(k, name)?.rolling_client_error_rate?.mean > 0));
  return some ? rate(page, "rolling_client_error_rate", "client-errors", "Client error rate", "4xx responses of the variant") : null;
}

function rate(page, field, id, title, what) {
  const value = (k, name) => page.bucketOf(k, name)?.[field] ?? null;
  return {
    ...base(page, id, title, `Over the last ${seconds(page.window)}, ${what}; 95% intervals.`),
    ...lines(page, value),
    y: { range: (low, high) => [0, Math.min(1, Math.max(0.005, high * 1.06))], text: (v, step) => tick(v, step, "fraction") },
    row: (k, name) => inWords(value(k, name), "boolean")
  };
}

// A quantile without an upper end is of too few requests: it is said, and not drawn.
function latencies(page) {
  const known = (q) => (k, name) => {
    const bucket = page.bucketOf(k, name);
    const interval = bucket?.latency_interval_ms?.[q];
    return bucket?.latency_ms && interval[1] !== null ? { mean: bucket.latency_ms[q], interval } : null;
  };
  const drawn = QUANTILES.findLast((q) => page.x.some((_, k) => page.names.some((name) => known(q)(k, name))));
  const q = QUANTILES.includes(page.query.quantile) ? page.query.quantile : (drawn ?? "p99");
  const value = known(q);
  const made = lines(page, value);
  const few = `Too few requests in each ${seconds(page.step)} for a ${q}; choose a lower quantile or a longer period.`;
  return {
    ...base(page, "latency", `Latency, ${q}`, "From a request's first byte to its response's last; 95% intervals. Drawn where there are enough requests."),
    ...made,
    empty: made.empty && (page.x.some((_, k) => page.names.some((name) => page.bucketOf(k, name)?.latency_ms)) ? few : made.empty),
    y: { range: (low, high) => [0, high * 1.06], text: (v) => milliseconds(v) },
    row: (k, name) => quantileWords(page.bucketOf(k, name), q),
    scale: q,
    controls: choices(
      "Quantile",
      QUANTILES.map((v) => [v, v]),
      q,
      (v) => choose({ quantile: v })
    )
  };
}

function quantileWords(bucket, q) {
  if (!bucket?.latency_ms) return "–";
  const [low, high] = bucket.latency_interval_ms[q];
  const said = high === null ? "too few" : `${milliseconds(low)} – ${milliseconds(high)}`;
  return `${milliseconds(bucket.latency_ms[q])} (${said}), n\u00a0=\u00a0${count(bucket.served)}`;
}

function shares(page) {
  const value = (k, name) => page.bucketOf(k, name)?.allocated ?? page.bucketOf(k, name)?.share ?? null;
  const seen = page.names.filter((name) => page.x.some((_, k) => value(k, name) > 0));
  const [one, ...more] = seen;
  if (one && !more.length && page.x.every((_, k) => (value(k, one) ?? 1) >= 0.9995)) return null; // it has everything: there is nothing to draw
  return {
    ...base(page, "shares", "Traffic shares", `What the allocation called for, in steps of ${seconds(page.step)}.`),
    lines: seen.map((name) => ({ name, look: page.colour(name), mean: page.x.map((_, k) => value(k, name)) })),
    stacked: true,
    empty: seen.length ? null : "No traffic in this period.",
    y: { range: () => [0, 1], text: (v) => share(v) },
    row: (k, name) => share(value(k, name))
  };
}

function requests(page) {
  const value = (k, name) => {
    const bucket = k > page.full ? null : page.bucketOf(k, name); // of one that still fills, the rate would be too low
    return bucket ? bucket.assigned / page.step : null;
  };
  const seen = page.names.filter((name) => page.x.some((_, k) => value(k, name) > 0));
  return {
    ...base(page, "requests", "Requests per second", "By assigned variant."),
    lines: seen.map((name) => ({ name, look: page.colour(name), mean: page.x.map((_, k) => value(k, name)) })),
    stacked: true,
    empty: seen.length ? null : "No traffic in this period.",
    y: { range: (low, high) => [0, high * 1.06], text: (v) => perSecond(v) },
    row: (k, name) => (value(k, name) === null ? "–" : `${perSecond(value(k, name))}/s`)
  };
}

// What happened in the period, in words: the charts' own axis has no room for them on a phone.
function marks(events, page) {
  const within = events.filter((one) => one.time >= page.x[0] && one.time <= page.x.at(-1) + page.step);
  if (!within.length) return null;
  const shown = within.slice(-MAX_LISTED);
  const earlier = within.length - shown.length;
  return html`<ul class="marks" key="marks" aria-label="What happened in this period">${earlier > 0 && html`<li>${figure("marks.earlier", earlier, count(earlier))} earlier ·</li>`}${shown.map((one) => html`<li key=${one.key}>${clockOf(one.time)} ${[event(one)[0], one.data?.backend ?? one.data?.text].filter(Boolean).join(": ")}</li>`)}</ul>`;
}
