// An estimate as a dot with its interval, on an axis that the rows of a table share: with zero and the limit, where
// there are any. Hatched while there is too little to tell.

import { html } from "../vendor/preact.js";

// The axis for estimates [{mean, interval}] and `marks` that must be on it: their reach and a little air.
export function axis(estimates, marks = [], bounds = [-Infinity, Infinity]) {
  const known = estimates.filter((e) => e && e.mean !== null && e.mean !== undefined);
  if (!known.length) return null;
  const ends = [...known.flatMap((e) => [e.mean, ...(e.interval ?? [])]), ...marks].filter((x) => x !== null && Number.isFinite(x));
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const air = (high - low || Math.abs(high) * 0.1 || 0.1) * 0.08;
  return [Math.max(bounds[0], low - air), Math.min(bounds[1], high + air)];
}

export function forest({ mean, interval, scale, hue = "var(--text)", zero = null, limit = null, thin = false, label }) {
  if (!scale || mean === null || mean === undefined) return html`<div class="interval none" aria-hidden="true"></div>`;
  const at = (x) => `${Math.min(100, Math.max(0, ((x - scale[0]) / (scale[1] - scale[0])) * 100))}%`;
  const [low, high] = interval ?? [mean, mean];
  const right = (x) => `calc(100% - ${at(x)})`;
  return html`<div class="interval" role="img" aria-label=${label}>
    ${zero !== null && html`<div class="interval-zero" style=${{ left: at(zero) }}></div>`}
    ${interval && html`<div class=${`interval-bar${thin ? " hatched" : ""}`} style=${{ left: at(low ?? scale[0]), right: right(high ?? scale[1]), color: hue }}></div>`}
    <div class="interval-mean" style=${{ left: at(mean), background: hue }}></div>
    ${limit !== null && html`<div class="interval-limit" style=${{ left: at(limit) }} title="limit"></div>`}
  </div>`;
}
