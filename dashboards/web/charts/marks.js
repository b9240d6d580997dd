// What is drawn inside a frame: stacked steps, and lines with bands. All in the frame's own coordinates.

import { h } from "../dom.js";
import { path, round } from "./scale.js";

// Stacked shares, each bucket as wide as it lasts: nothing is drawn where there was no traffic.
export function stack(buckets, names, value, colour, step, { across, up }) {
  return names.map((name, k) => {
    const d = buckets
      .map((bucket, at) => {
        const parts = names.map((other) => value(at, other) ?? 0);
        const below = parts.slice(0, k).reduce((a, b) => a + b, 0);
        if (parts[k] <= 0) return "";
        const [x0, x1] = [across(bucket.start), across(bucket.start + step)].map(round);
        const [y0, y1] = [up(below), up(below + parts[k])].map(round);
        return `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
      })
      .join("");
    return h("path", { class: "area", d, key: `area-${name}`, style: { fill: colour(name) } });
  });
}

// One line for each name, broken where buckets are missing, with its interval as a band behind it.
export function lines(buckets, names, value, colour, step, found) {
  const bands = names.map((name) => band(buckets, name, value, colour, step, found));
  return [bands, names.map((name) => line(buckets, name, value, colour, step, found))];
}

function line(buckets, name, value, colour, step, { across, up }) {
  const d = runs(buckets, (at) => value(at, name)?.mean ?? null, step)
    .map((run) => {
      const points = run.map((at) => [across(buckets[at].time), up(value(at, name).mean)]);
      if (points.length > 1) return path(points);
      const [[x, y]] = points;
      const half = (across(buckets[run[0]].start + step) - across(buckets[run[0]].start)) / 2;
      return path([[x - half, y], [x + half, y]]);
    })
    .join("");
  return h("path", { class: "line", d, key: `line-${name}`, style: { stroke: colour(name) } });
}

function band(buckets, name, value, colour, step, { across, up }) {
  const d = runs(buckets, (at) => value(at, name)?.interval ?? null, step)
    .map((run) => {
      const half = run.length > 1 ? 0 : (across(buckets[run[0]].start + step) - across(buckets[run[0]].start)) / 2;
      const edge = (end) =>
        run.flatMap((at) => {
          const [x, y] = [across(buckets[at].time), up(value(at, name).interval[end])];
          return half ? [[x - half, y], [x + half, y]] : [[x, y]];
        });
      return path([...edge(1), ...edge(0).reverse()]) + "Z";
    })
    .join("");
  return h("path", { class: "band", d, key: `band-${name}`, style: { fill: colour(name) } });
}

// Indices with a value, in stretches without a hole wider than two buckets.
function runs(buckets, value, step) {
  const found = [];
  buckets.forEach((bucket, at) => {
    if (value(at) === null) return;
    const last = found.at(-1)?.at(-1);
    if (last !== undefined && bucket.start - buckets[last].start <= 2.5 * step) found.at(-1).push(at);
    else found.push([at]);
  });
  return found;
}
