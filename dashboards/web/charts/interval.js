// A mean with its interval as a small picture, on a scale that several share: a row of a forest plot.

import { h } from "../dom.js";

// The scale for estimates [{mean, interval}]: their whole reach and a little air; null without any.
export function reach(estimates, bounds = [-Infinity, Infinity]) {
  const ends = estimates.filter((e) => e?.mean !== null && e).flatMap((e) => [e.mean, ...(e.interval ?? [])]);
  if (!ends.length) return null;
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const air = (high - low || Math.abs(high) * 0.1 || 0.1) * 0.08;
  return [Math.max(bounds[0], low - air), Math.min(bounds[1], high + air)];
}

export function interval(estimate, scale, colour, label) {
  if (!scale || !estimate || estimate.mean === null) return h("div", { class: "interval none", "aria-hidden": "true" });
  const at = (x) => `${((x - scale[0]) / (scale[1] - scale[0])) * 100}%`;
  const ends = estimate.interval;
  return h(
    "div",
    { class: "interval", role: "img", "aria-label": label },
    ends &&
      h("div", {
        class: "interval-bar",
        style: { left: at(ends[0]), width: `${((ends[1] - ends[0]) / (scale[1] - scale[0])) * 100}%`, background: colour },
      }),
    h("div", { class: "interval-mean", style: { left: at(estimate.mean), background: colour } }),
  );
}
