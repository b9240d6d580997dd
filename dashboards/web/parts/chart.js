// A chart over time: uPlot draws, everything around it is ours. Colour, dash and a letter at the line's end tell
// variants apart; the readout says the figures of the moment that is pointed at (or chosen by the slider), with
// their interval and count; the same figures are a table one key away.

import { tickTime, time, zoneName } from "../core/format.js";
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { uPlot } from "../vendor/uplot.js";
import { swatch } from "./basics.js";
import { table } from "./table.js";

const HEIGHT = 210;
const LETTER_PX = 10;

// chart: {id, title, note, x, lines: [{name, look, mean, low, high}], stacked, y: {min, max, text(value, step)},
//         row(at, name) -> text, controls, empty, marks: [{time, text}], full: index of the last whole bucket}
export function TimeChart({ chart, at, onPoint, onZoom }) {
  const [asTable, setTable] = useState(false);
  const shown = at === null || at >= chart.x.length ? chart.full : at;
  const said = chart.lines.map((line) => [line, chart.row(shown, line.name)]);
  return html`<figure class="chart card" aria-labelledby=${`${chart.id}-title`} data-chart=${chart.id}>
    <figcaption class="chart-head">
      <div><h3 id=${`${chart.id}-title`}>${chart.title}</h3><p class="note">${chart.note}</p></div>
      <div class="chart-tools">${chart.controls}
        ${
          !chart.empty &&
          html`<button class="quiet" type="button" aria-pressed=${String(asTable)} onClick=${() => setTable(!asTable)}>${asTable ? "Chart" : "Table"}</button>
        <a class="quiet" download=${`${chart.id}.csv`} href="data:," onClick=${(e) => e.currentTarget.setAttribute("href", csv(chart))}>CSV</a>`
        }
      </div>
    </figcaption>
    ${chart.empty && html`<p class="empty">${chart.empty}</p>`}
    ${!chart.empty && asTable && asRows(chart)}
    ${
      !chart.empty &&
      !asTable &&
      html`${readout(chart.x[shown], said, at !== null)}
      <${Plot} chart=${chart} onPoint=${onPoint} onZoom=${onZoom} />
      <label class="moment"><span class="hidden">Moment of ${chart.title}</span>
        <input type="range" min="0" max=${chart.x.length - 1} value=${shown} aria-valuetext=${summary(chart.x[shown], said)}
          onInput=${(e) => onPoint(Number(e.target.value))} onBlur=${() => onPoint(null)}
          onKeyDown=${(e) => e.key === "Escape" && onPoint(null)} />
      </label>`
    }
  </figure>`;
}

function readout(at, said, pointed) {
  return html`<div class="readout" role=${pointed ? "status" : null}>
    <span class="note">${time(at)}</span>
    <ul class="legend">
      ${said.map(([line, text]) => html`<li key=${line.name}>${swatch(line.look)}<span>${line.name} <span class="said">${text}</span></span></li>`)}
    </ul>
  </div>`;
}

function summary(at, said) {
  return `${time(at)}: ${said.map(([line, text]) => `${line.name} ${text}`).join(", ")}`;
}

// The points as drawn, unrounded, with the ends of their intervals.
function csv({ x, lines }) {
  const columns = lines
    .flatMap(({ name, mean, low, high }) => [
      [name, mean],
      [`${name} low`, low],
      [`${name} high`, high]
    ])
    .filter(([, values]) => values);
  const rows = x.map((at, k) => [new Date(at * 1000).toISOString(), ...columns.map(([, values]) => values[k])]);
  return `data:text/csv,${encodeURIComponent([["time", ...columns.map(([name]) => name)], ...rows].join("\r\n"))}`;
}

function asRows(chart) {
  const columns = [
    { title: `Time, ${zoneName()}`, by: (at) => chart.x[at] },
    ...chart.lines.map(({ name, mean }) => ({ title: name, by: (at) => mean[at], number: true }))
  ];
  const line = (at) =>
    html`<tr key=${chart.x[at]}><th scope="row">${time(chart.x[at])}</th>${chart.lines.map(({ name }) => html`<td class="number">${chart.row(at, name)}</td>`)}</tr>`;
  return table(chart.id, `${chart.title}, as a table`, columns, chart.x.map((_, at) => at).reverse(), line);
}

function Plot({ chart, onPoint, onZoom }) {
  const place = useRef(null);
  const plot = useRef(null);
  const latest = useRef({});
  Object.assign(latest.current, { chart, onPoint, onZoom });
  const shape = `${chart.lines.map((line) => line.name).join()}|${chart.stacked}|${document.documentElement.dataset.theme}|${chart.scale ?? ""}`;
  useEffect(() => {
    const made = new uPlot(options(place.current, latest), data(chart), place.current);
    plot.current = made;
    const watch = new ResizeObserver(() => made.setSize({ width: place.current.clientWidth, height: HEIGHT }));
    watch.observe(place.current);
    return () => {
      watch.disconnect();
      made.destroy();
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(data(chart)), [chart.stamp]);
  return html`<div class="plot" ref=${place} aria-hidden="true"></div>`;
}

function data({ x, lines, stacked }) {
  if (!stacked) return [x, ...lines.flatMap((line) => [line.mean, line.low ?? line.mean, line.high ?? line.mean])];
  const sums = x.map(() => 0);
  const layers = lines.map((line) => line.mean.map((value, k) => (sums[k] += value ?? 0)));
  return [x, ...layers.reverse()];
}

// Room for all means, and for the intervals but for the widest, which would flatten everything else.
function reach({ lines, stacked, x }) {
  if (stacked) return [0, Math.max(...x.map((_, k) => lines.reduce((sum, line) => sum + (line.mean[k] ?? 0), 0)), 1e-9)];
  const all = lines.flatMap((line) => line.mean.map((mean, k) => [mean, line.low[k], line.high[k]])).filter(([mean]) => mean !== null);
  const widths = all.map(([, low, high]) => high - low).sort((a, b) => a - b);
  const usual = (widths[Math.floor(widths.length / 2)] ?? Infinity) * 2;
  const ends = all.flatMap(([mean, low, high]) => (high - low <= usual ? [mean, low, high] : [mean]));
  return ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
}

function colourOf(property) {
  return getComputedStyle(document.documentElement).getPropertyValue(property).trim();
}

function options(place, latest) {
  const { chart } = latest.current;
  const [grid, text] = [colourOf("--line"), colourOf("--soft")];
  const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11.5px system-ui, sans-serif" };
  return {
    width: place.clientWidth || 300,
    height: HEIGHT,
    padding: [null, 32, null, null],
    legend: { show: false },
    cursor: { sync: { key: "turnout" }, drag: { x: true, y: false, setScale: false }, points: { show: !chart.stacked } },
    series: [{}, ...(chart.stacked ? stackedSeries(chart) : lineSeries(chart))],
    bands: chart.stacked ? [] : chart.lines.map((line, k) => ({ series: [3 * k + 3, 3 * k + 2], fill: `${colourOf(line.look.property)}26` })),
    scales: { x: { time: true }, y: { range: () => latest.current.chart.y.range(...reach(latest.current.chart)) } },
    axes: [
      { ...axis, space: 72, size: 28, values: (u, splits) => splits.map((at) => tickTime(at, u.scales.x.max - u.scales.x.min)) },
      { ...axis, size: 58, values: (u, splits, k, space, step) => splits.map((value) => latest.current.chart.y.text(value, step)) }
    ],
    hooks: {
      setCursor: [(u) => point(u, latest.current)],
      setSelect: [(u) => zoom(u, latest.current)],
      draw: [(u) => happenings(u, latest.current.chart), (u) => letters(u, latest.current.chart)]
    }
  };
}

// The slider's moment is not taken away by a plot without a pointer over it.
function point(u, now) {
  const at = u.cursor.idx ?? null;
  if (at === null && !now.pointing) return;
  now.pointing = at !== null;
  now.onPoint(at);
}

// Cursors are synchronised, so a drag selects in every chart: only the one under the pointer zooms, once.
function zoom(u, { onZoom }) {
  if (u.select.width < 8) return;
  if (u.cursor.event) onZoom(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
  u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
}

function lineSeries(chart) {
  return chart.lines.flatMap((line) => [
    { stroke: colourOf(line.look.property), width: 2, dash: line.look.dash, spanGaps: false, points: { show: chart.x.length < 12, size: 5, filter: alone } },
    { stroke: "transparent", points: { show: false } },
    { stroke: "transparent", points: { show: false } }
  ]);
}

// The moments whose neighbours are holes: no line leads to them, so that only a point shows them.
function alone(u, series, show) {
  if (show) return null;
  const values = u.data[series];
  const known = (k) => values[k] !== null && values[k] !== undefined;
  const found = values.map((_, k) => k).filter((k) => known(k) && !known(k - 1) && !known(k + 1));
  return found.length ? found : null;
}

// Drawn from the top of the stack down, so that each covers what lies below it.
function stackedSeries(chart) {
  const step = uPlot.paths.stepped({ align: 1 });
  return [...chart.lines]
    .reverse()
    .map((line) => ({ stroke: colourOf("--card"), width: 1, fill: colourOf(line.look.property), paths: step, points: { show: false } }));
}

// A dashed line at each moment at which something happened, and at the level that is asked for.
function happenings(u, { marks = [], level = null }) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = colourOf("--faint");
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  if (level !== null) {
    const y = Math.round(u.valToPos(level, "y", true));
    ctx.strokeStyle = colourOf("--bad");
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.strokeStyle = colourOf("--faint");
  }
  for (const at of marks) {
    if (at < u.scales.x.min || at > u.scales.x.max) continue;
    const x = Math.round(u.valToPos(at, "x", true));
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

// The letter of each variant at the end of its line.
function letters(u, chart) {
  const { ctx } = u;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.font = `bold ${11 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "right";
  ctx.fillStyle = colourOf("--text");
  const written = [];
  chart.lines.forEach((line, k) => {
    const values = u.data[chart.stacked ? chart.lines.length - k : 3 * k + 1];
    let last = values.length - 1;
    while (last >= 0 && (values[last] === null || values[last] === undefined)) last -= 1;
    const at = chart.stacked ? last - 1 : last; // a step ends where the next begins
    if (at < 0 || (chart.stacked && !(line.mean[at] > 0.04))) return;
    const middle = chart.stacked ? values[at] - line.mean[at] / 2 : values[at];
    let x = u.valToPos(u.data[0][last], "x", true) - 3 * ratio;
    const y = u.valToPos(middle, "y", true) - (chart.stacked ? -4 : 5) * ratio;
    // Two lines that end at one place have their letters side by side.
    while (written.some(([a, b]) => Math.abs(a - x) < LETTER_PX * ratio && Math.abs(b - y) < LETTER_PX * ratio)) x -= LETTER_PX * ratio;
    written.push([x, y]);
    ctx.fillText(line.look.letter, x, y);
  });
  ctx.restore();
}
