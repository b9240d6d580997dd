// What every chart over time shares: title, legend, grid, axes, the cross-hair with its figures, and the same
// data as a table for whoever prefers to read.

import { h } from "../dom.js";
import { time, timeOn } from "../format.js";
import { SIZE, percent, scales, timeTicks } from "./scale.js";

// chart: {id, title, note, x: [from, to], y: {low, high, ticks, text}, marks(scales) -> SVG nodes,
//         buckets: [{time, start}], rows(index) -> [{variant, colour, text}], legend, controls, empty}
export function frame(chart, ui) {
  const { id, title, x, y, buckets } = chart;
  const at = nearest(buckets, ui.hover?.time);
  const asTable = ui.tables.has(id);
  return h(
    "figure",
    { class: `chart card${chart.wide ? " wide" : ""}`, key: id, "aria-labelledby": `${id}-title`, "data-chart": id },
    h(
      "figcaption",
      { class: "chart-head" },
      h("div", {}, h("h3", { id: `${id}-title` }, title), chart.note && h("p", { class: "note" }, chart.note)),
      h("div", { class: "chart-tools" }, chart.controls, !chart.empty && tableButton(id, asTable, ui)),
    ),
    chart.empty
      ? h("p", { class: "empty" }, chart.empty)
      : asTable
        ? table(chart)
        : [
            chart.legend && legend(chart.legend),
            h(
              "div",
              { class: "plot-area" },
              h("div", { class: "y-axis", "aria-hidden": "true" }, y.ticks.map((v) => yLabel(v, y))),
              plot(chart, at, ui),
              h("div", { class: "x-axis", "aria-hidden": "true" }, timeTicks(...x).map((t) => xLabel(t, x))),
            ),
          ],
  );
}

function plot(chart, at, ui) {
  const { id, x, y, buckets } = chart;
  const found = scales(x, [y.low, y.high]);
  const hover = (time) => ui.onHover(time === null ? null : { id, time });
  const shown = ui.hover !== null && at !== null;
  return h(
    "div",
    {
      class: "plot",
      tabindex: "0",
      role: "img",
      "aria-label": description(chart, at),
      onPointerMove: (e) => hover(timeAt(e, x)),
      onPointerLeave: () => hover(null),
      onKeyDown: (e) => step(e, buckets, at, hover),
      onBlur: () => hover(null),
    },
    h(
      "svg",
      { viewBox: `0 0 ${SIZE} ${SIZE}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      y.ticks.map((v) => h("line", { class: "grid", x1: 0, x2: SIZE, y1: found.up(v), y2: found.up(v) })),
      chart.marks(found),
    ),
    shown && h("div", { class: "crosshair", style: { left: percent(found.across(buckets[at].time)) } }),
    shown && ui.hover.id === id && tip(chart, at, found),
  );
}

function tip(chart, at, found) {
  const across = found.across(chart.buckets[at].time);
  const side = across > SIZE / 2 ? { right: percent(SIZE - across) } : { left: percent(across) };
  return h(
    "div",
    { class: "tip", style: side, role: "status", key: "tip" },
    h("div", { class: "tip-time" }, time(chart.buckets[at].start)),
    chart.rows(at).map((row) =>
      h(
        "div",
        { class: "tip-row" },
        h("span", { class: "swatch", style: { background: row.colour } }),
        h("span", { class: "tip-name" }, row.variant),
        h("span", { class: "tip-text" }, row.text),
      ),
    ),
  );
}

function table(chart) {
  const columns = chart.rows(0).map((row) => row.variant);
  return h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      { class: "plain" },
      h("thead", {}, h("tr", {}, h("th", {}, "Time"), columns.map((name) => h("th", { class: "number" }, name)))),
      h(
        "tbody",
        {},
        chart.buckets
          .map((bucket, k) =>
            h(
              "tr",
              { key: `${bucket.start}` },
              h("td", {}, time(bucket.start)),
              chart.rows(k).map((row) => h("td", { class: "number" }, row.text)),
            ),
          )
          .reverse(),
      ),
    ),
  );
}

function tableButton(id, pressed, ui) {
  return h(
    "button",
    { class: "quiet", type: "button", "aria-pressed": String(pressed), onClick: () => ui.onTable(id) },
    pressed ? "Chart" : "Table",
  );
}

function legend(entries) {
  return h(
    "ul",
    { class: "legend" },
    entries.map((e) =>
      h("li", {}, h("span", { class: "swatch", style: { background: e.colour } }), e.variant, e.text && h("b", {}, e.text)),
    ),
  );
}

function yLabel(v, y) {
  return h("span", { style: { bottom: `${((v - y.low) / (y.high - y.low)) * 100}%` } }, y.text(v));
}

function xLabel(t, x) {
  return h("span", { style: { left: `${((t - x[0]) / (x[1] - x[0])) * 100}%` } }, timeOn(t, x[1] - x[0]));
}

function description(chart, at) {
  const last = at ?? chart.buckets.length - 1;
  const figures = chart.rows(last).map((row) => `${row.variant} ${row.text}`);
  return `${chart.title} at ${time(chart.buckets[last].start)}: ${figures.join(", ")}. Arrow keys move through time.`;
}

function timeAt(e, x) {
  const box = e.currentTarget.getBoundingClientRect();
  return x[0] + ((e.clientX - box.left) / box.width) * (x[1] - x[0]);
}

function nearest(buckets, wanted) {
  if (wanted === undefined || !buckets.length) return null;
  let best = 0;
  buckets.forEach((b, k) => {
    if (Math.abs(b.time - wanted) < Math.abs(buckets[best].time - wanted)) best = k;
  });
  return best;
}

function step(e, buckets, at, hover) {
  const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (e.key === "Escape") hover(null);
  if (!(e.key in moves)) return;
  e.preventDefault();
  const from = at ?? buckets.length - (e.key === "ArrowLeft" ? 0 : 1);
  const next = Math.min(buckets.length - 1, Math.max(0, from + moves[e.key]));
  hover(buckets[next].time);
}
