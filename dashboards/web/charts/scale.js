// Round ticks for numbers and for times in the reader's zone.

export const SIZE = 1000; // of the drawing's own coordinates, both ways; the page stretches them

const STEPS = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800];

export function niceTicks(low, high, wanted = 4) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) ticks.push(k * step || 0); // never -0
  return { ticks, step };
}

export function timeTicks(start, end, wanted = 5) {
  const step = STEPS.find((s) => s >= (end - start) / wanted) ?? STEPS.at(-1);
  const zone = -new Date(start * 1000).getTimezoneOffset() * 60;
  const ticks = [];
  for (let t = Math.ceil((start + zone) / step) * step - zone; t <= end; t += step) ticks.push(t);
  return ticks;
}

export function scales(x, y) {
  const across = (t) => ((t - x[0]) / (x[1] - x[0])) * SIZE;
  const up = (v) => SIZE - ((v - y[0]) / (y[1] - y[0])) * SIZE;
  return { across, up };
}

export const percent = (part) => `${(part / SIZE) * 100}%`;

export function path(points) {
  return points.map(([a, b], k) => `${k ? "L" : "M"}${round(a)} ${round(b)}`).join("");
}

export const round = (x) => Math.round(x * 100) / 100;
