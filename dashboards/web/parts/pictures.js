// Pictures of the difference: where it may lie, how it stood over time, where each mean may lie, and each variant's
// whole latency distribution.

import { useGet } from "../core/data.js";
import { difference, kind, milliseconds, moment, roundLogTicks, roundTicks, signedTick, tick } from "../core/format.js";
import { choose, here } from "../core/router.js";
import { verdictsOf } from "../core/words.js";
import { html } from "../vendor/preact.js";
import { choices, figure, swatch } from "./basics.js";
import { limitOf, ofMeans } from "./scorecard.js";

const [WIDTH, HEIGHT] = [600, 150];
const EVERY_S = 30;

export function Pictures({ report, colour, now }) {
  const { query } = here();
  const compared = [...new Set(Object.values(report.variants).flatMap((v) => Object.keys(v.lift)))];
  const metric = compared.includes(query.metric) ? query.metric : compared[0];
  const path = `routes/${encodeURIComponent(report.route)}`;
  const against = new URLSearchParams({ baseline: report.compared_with });
  const found = useGet(`${path}/distributions?${against}`, { every: EVERY_S });
  const lift = useGet(metric ? `${path}/lift?${new URLSearchParams({ metric })}&${against}` : null, { every: EVERY_S });
  const limits = limitsOf(report, metric);
  return [
    compared.length > 1 &&
      choices(
        "Metric",
        compared.map((m) => [m, m]),
        metric,
        (m) => choose({ metric: m })
      ),
    lift.data && overTime(report, lift.data, limits, colour, now),
    found.data && [
      density(report, found.data.differences, metric, limits, colour),
      means(report, found.data.densities, metric, colour),
      quantiles(found.data, colour)
    ]
  ];
}

function limitsOf(report, metric) {
  const verdicts = report.rollout ? verdictsOf(report.rollout).verdicts : [];
  return verdicts
    .filter((one) => one.metric === metric)
    .map(limitOf)
    .filter((limit) => limit !== null);
}

// The first intervals are as wide as everything: what is drawn is the reach of the later half.
function overTime(report, { metric, variants }, limits, colour, now) {
  const names = Object.keys(variants).filter((name) => variants[name].some((p) => p.absolute !== null));
  if (!names.length) return null;
  const what = kind(metric, report.metrics);
  const all = names.flatMap((name) => variants[name]);
  const [begin, end] = [Math.min(...all.map((p) => p.time)), Math.max(...all.map((p) => p.time))];
  const late = names.flatMap((name) => variants[name].slice(Math.floor(variants[name].length / 2)));
  const ends = [...late.flatMap((p) => [p.absolute, ...(p.interval ?? [])]).filter((value) => value !== null), 0, ...limits];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const x = (p) => ((p.time - begin) / (end - begin || 1)) * WIDTH;
  const y = (value) => HEIGHT - 4 - ((value - low) / (high - low || 1)) * (HEIGHT - 8);
  const drawn = names.flatMap((name) => {
    const known = variants[name].filter((p) => p.absolute !== null);
    const edge = (k, far) => known.map((p) => `${x(p).toFixed(1)} ${y(p.interval?.[k] ?? far).toFixed(1)}`);
    const mean = known.map((p, k) => `${k ? "L" : "M"}${x(p).toFixed(1)} ${y(p.absolute).toFixed(1)}`).join("");
    return [
      html`<path d=${`M${edge(0, low).join("L")}L${edge(1, high).reverse().join("L")}Z`} fill=${colour(name).hue} fill-opacity="0.15" />`,
      line(mean, colour(name), false)
    ];
  });
  const marks = [[0, "zero"], ...limits.map((limit) => [limit, "limit"])].map(
    ([value, cls]) => html`<path class=${cls} d=${`M0 ${y(value)}H${WIDTH}`} vector-effect="non-scaling-stroke" />`
  );
  const said = (name) => {
    const last = variants[name].at(-1);
    const { text, interval } = difference(last.absolute, last.interval, what);
    return html`${figure(`lift.${name}`, last.absolute, text)} <small>${interval}</small>`;
  };
  const { values, step } = roundTicks(low, high);
  const more = [all.some((p) => p.adjusted_by) && "; adjusted by what was known before", limits.length > 0 && "; dashed: the limit"];
  return picture({
    id: "lift",
    title: `${metric}: difference from ${report.compared_with} as it stood, always valid${more.filter(Boolean).join("")}`,
    names,
    colour,
    said,
    paths: [...drawn, ...marks],
    heights: values.map((value) => [y(value) / HEIGHT, signedTick(value, step, what)]),
    ticks: [0, 0.5, 1].map((part) => [part, moment(begin + part * (end - begin), now)])
  });
}

// Not where the difference is of other times, or otherwise weighted, than the means: two figures for one thing.
function density(report, found, metric, limits, colour) {
  if (!found[metric] || !ofMeans(report, metric)) return null;
  const what = kind(metric, report.metrics);
  return curves(found[metric], colour, {
    label: (value, step) => signedTick(value, step, what),
    id: `difference-${metric}`,
    title: `${metric}: posterior of the difference from ${report.compared_with}`,
    marks: [[0, "zero"], ...limits.map((limit) => [limit, "limit"])]
  });
}

function means(report, found, metric, colour) {
  if (!found[metric] || report.contextual) return null; // each variant got other requests
  const label = (value, step) => tick(value, step, report.metrics[metric]?.type);
  return curves(found[metric], colour, { label, id: `density-${metric}`, title: `${metric}: posterior of each mean`, marks: [] });
}

function curves({ points, variants }, colour, { id, title, marks, label }) {
  const names = Object.keys(variants);
  const top = Math.max(...names.flatMap((name) => variants[name]));
  const [low, high] = [points[0], points.at(-1)];
  const x = (value) => ((value - low) / (high - low || 1)) * WIDTH;
  const path = (name) => variants[name].map((d, k) => `${k ? "L" : "M"}${x(points[k]).toFixed(1)} ${(HEIGHT - (d / top) * (HEIGHT - 6)).toFixed(1)}`).join("");
  const { values, step } = roundTicks(low, high);
  const inside = marks.filter(([value]) => value >= low && value <= high);
  return picture({
    id,
    title,
    names,
    colour,
    paths: [
      ...names.map((name) => line(path(name), colour(name), true)),
      ...inside.map(([value, cls]) => html`<path class=${cls} d=${`M${x(value)} 0V${HEIGHT}`} vector-effect="non-scaling-stroke" />`)
    ],
    ticks: values.map((value) => [x(value) / WIDTH, label(value, step)])
  });
}

function quantiles(found, colour) {
  const names = Object.keys(found.quantiles);
  if (!names.length) return null;
  const all = names.flatMap((name) => found.quantiles[name].map(([, ms]) => ms)).filter((ms) => ms > 0);
  const [low, high] = [Math.log(Math.min(...all)), Math.log(Math.max(...all) * 1.02)];
  const x = (ms) => ((Math.log(Math.max(ms, Math.exp(low))) - low) / (high - low || 1)) * WIDTH;
  const path = (name) => found.quantiles[name].map(([q, ms], k) => `${k ? "L" : "M"}${x(ms).toFixed(1)} ${(HEIGHT - q * (HEIGHT - 6)).toFixed(1)}`).join("");
  return picture({
    id: "quantiles",
    title: "Latency: share of responses below",
    names,
    colour,
    paths: names.map((name) => line(path(name), colour(name), false)),
    heights: [0, 0.5, 1].map((q) => [1 - (q * (HEIGHT - 6)) / HEIGHT, `${q * 100}%`]),
    ticks: roundLogTicks(Math.exp(low), Math.exp(high)).map((ms) => [x(ms) / WIDTH, milliseconds(ms)])
  });
}

function line(d, look, filled) {
  return html`<path d=${d} fill=${filled ? look.hue : "none"} fill-opacity="0.15" stroke=${look.hue} stroke-width="2" stroke-dasharray=${look.dash.join(" ")} vector-effect="non-scaling-stroke" />`;
}

const MIN_APART = 0.23; // of the width: labels of a logarithmic axis would lie on each other on a phone

function legible(ticks) {
  const kept = [];
  for (const one of ticks) if (one[0] - (kept.at(-1)?.[0] ?? -1) >= MIN_APART) kept.push(one);
  return kept;
}

// heights, ticks: labels of both axes, [part of its length, text]; said(name): what the legend adds.
function picture({ id, title, names, colour, paths, ticks, heights = [], said = () => null }) {
  return html`<figure class="picture" key=${id} data-picture=${id} aria-label=${title}>
    <figcaption><h3>${title}</h3><ul class="legend">${names.map((name) => html`<li key=${name}>${swatch(colour(name))}${name} ${said(name)}</li>`)}</ul></figcaption>
    <div class="picture-plot">
      <div class="heights" aria-hidden="true">${heights.map(([at, text]) => html`<span key=${text} style=${{ top: `${at * 100}%` }}>${text}</span>`)}</div>
      <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">${paths}</svg>
      <div class="ticks" aria-hidden="true">${legible(ticks).map(([at, text]) => html`<span key=${at} style=${{ left: `${at * 100}%`, transform: `translateX(-${at * 100}%)` }}>${text}</span>`)}</div>
    </div>
  </figure>`;
}
