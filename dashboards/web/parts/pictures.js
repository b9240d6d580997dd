// Pictures of the difference: where each variant's mean may lie, and its whole latency distribution.

import { useGet } from "../core/data.js";
import { milliseconds, tick } from "../core/format.js";
import { html, useState } from "../vendor/preact.js";
import { swatch } from "./basics.js";

const [WIDTH, HEIGHT] = [600, 150];

export function Pictures({ report, colour }) {
  const [open, setOpen] = useState(false);
  const found = useGet(open ? `routes/${encodeURIComponent(report.route)}/distributions` : null, { every: 15 });
  return html`<details class="card pictures" key="pictures" onToggle=${(e) => setOpen(e.currentTarget.open)}>
    <summary><h2>Pictures</h2> <span class="note">where each mean may lie, and latency quantile by quantile</span></summary>
    ${found.data && [densities(report, found.data, colour), quantiles(found.data, colour)]}
  </details>`;
}

function densities(report, found, colour) {
  return Object.entries(found.densities).map(([metric, { points, variants }]) => {
    const names = Object.keys(variants);
    const top = Math.max(...names.flatMap((name) => variants[name]));
    const x = (k) => (k / (points.length - 1)) * WIDTH;
    const path = (name) => variants[name].map((d, k) => `${k ? "L" : "M"}${x(k).toFixed(1)} ${(HEIGHT - (d / top) * (HEIGHT - 6)).toFixed(1)}`).join("");
    const step = (points.at(-1) - points[0]) / 4;
    const type = report.metrics[metric]?.type;
    return picture(
      `density-${metric}`,
      `Posterior of the mean of ${metric}`,
      names,
      colour,
      names.map((name) => line(path(name), colour(name), true)),
      [0, 1, 2, 3, 4].map((k) => tick(points[0] + k * step, niceStep(step), type))
    );
  });
}

const niceStep = (step) => 10 ** Math.floor(Math.log10(step || 1));

function quantiles(found, colour) {
  const names = Object.keys(found.quantiles);
  if (!names.length) return null;
  const all = names.flatMap((name) => found.quantiles[name].map(([, ms]) => ms)).filter((ms) => ms > 0);
  const [low, high] = [Math.log(Math.min(...all)), Math.log(Math.max(...all) * 1.02)];
  const x = (ms) => ((Math.log(Math.max(ms, Math.exp(low))) - low) / (high - low || 1)) * WIDTH;
  const path = (name) => found.quantiles[name].map(([q, ms], k) => `${k ? "L" : "M"}${x(ms).toFixed(1)} ${(HEIGHT - q * (HEIGHT - 6)).toFixed(1)}`).join("");
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => milliseconds(Number(Math.exp(low + part * (high - low)).toPrecision(2))));
  return picture(
    "quantiles",
    "Latency: share of responses below",
    names,
    colour,
    names.map((name) => line(path(name), colour(name), false)),
    ticks
  );
}

function line(d, look, filled) {
  return html`<path d=${d} fill=${filled ? look.hue : "none"} fill-opacity="0.15" stroke=${look.hue} stroke-width="2" stroke-dasharray=${look.dash.join(" ")} vector-effect="non-scaling-stroke" />`;
}

function picture(id, title, names, colour, paths, ticks) {
  return html`<figure class="picture" key=${id} data-picture=${id} aria-label=${title}>
    <figcaption><h3>${title}</h3><ul class="legend">${names.map((name) => html`<li key=${name}>${swatch(colour(name))}${name}</li>`)}</ul></figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">${paths}</svg>
    <div class="ticks" aria-hidden="true">${ticks.map((text, k) => html`<span key=${k}>${text}</span>`)}</div>
  </figure>`;
}
