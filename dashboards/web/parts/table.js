// A table that is sorted by the column whose head is pressed: as figures the greatest first, as words by the alphabet,
// then the other way round, then as it was. The address keeps it.

import { choose, here } from "../core/router.js";
import { html } from "../vendor/preact.js";
import { explained, scroller } from "./basics.js";

// columns: [{title, by(row): what to sort by, if it may be, number: whether these are figures, tip}]; line(row): its <tr>.
export function table(id, label, columns, rows, line) {
  const chosen = here().query.sort ?? "";
  const names = columns.map((_, k) => `${id}.${k}`);
  const down = chosen.startsWith("-");
  const place = names.indexOf(down ? chosen.slice(1) : chosen);
  const head = ({ title, by, tip, number }, k) => {
    if (!by) return html`<th scope="col" key=${title} title=${tip}>${tip ? title : explained(title)}</th>`;
    const [first, second] = number ? [`-${names[k]}`, names[k]] : [names[k], `-${names[k]}`];
    const next = chosen === first ? second : chosen === second ? null : first;
    return html`<th scope="col" key=${title} class=${number ? "number" : null} title=${tip} aria-sort=${k === place ? (down ? "descending" : "ascending") : null}>
      <button type="button" class="sort" onClick=${() => choose({ sort: next })}>${tip ? title : explained(title)}<span aria-hidden="true">${k === place ? (down ? "▾" : "▴") : ""}</span></button></th>`;
  };
  const sorted = place < 0 ? rows : [...rows].sort((a, b) => compare(columns[place].by(a), columns[place].by(b), down ? -1 : 1));
  return scroller(label, html`<table class="plain"><thead><tr>${columns.map(head)}</tr></thead><tbody>${sorted.map(line)}</tbody></table>`);
}

// What is not known comes last, either way.
function compare(a, b, sign) {
  const unknown = (x) => x === null || x === undefined || x === "";
  if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
  return sign * (typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
}
