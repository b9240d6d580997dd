// Where a shadow disagrees with what the client got: by kind, the worst first, both sides next to each other.

import { useGet } from "../core/data.js";
import { count, milliseconds, significant } from "../core/format.js";
import { choose, here, href } from "../core/router.js";
import { choices, emptyState, figure, waiting, when } from "../parts/basics.js";
import { html } from "../vendor/preact.js";

export function ShadowPage({ page, now }) {
  const { query } = here();
  const path = new URLSearchParams({
    shadow: page.shadow,
    order: query.order ?? "worst",
    limit: "30",
    ...(query.kind ? { kind: query.kind } : {}),
    ...(query.cursor ? { cursor: query.cursor } : {})
  });
  const found = useGet(`routes/${encodeURIComponent(page.route)}/disagreements?${path}`, { every: query.cursor ? 0 : 15 });
  const head = html`<div class="page-head" key="head"><h1>Disagreements of ${page.shadow}</h1><span class="note">on <a href=${href("routes", page.route)}>${page.route}</a></span></div>`;
  if (!found.data) return [head, waiting(found.error)];
  const { kinds, disagreements, next, seen, whole } = found.data;
  return [
    head,
    !whole && html`<p class="note" key="cut">The newest ${count(seen)} are listed and counted by kind; older ones are not.</p>`,
    html`<div class="filters" key="filters">
      ${choices(
        "Order",
        [
          ["worst", "Worst first"],
          ["newest", "Newest first"]
        ],
        query.order ?? "worst",
        (order) => choose({ order, cursor: null })
      )}
      <ul class="kinds" aria-label="By kind">
        <li><button type="button" class="quiet" aria-pressed=${String(!query.kind)} onClick=${() => choose({ kind: null, cursor: null })}>${whole ? "All" : "Newest"} ${count(seen)}</button></li>
        ${kinds.map(([kind, n]) => html`<li key=${kind}><button type="button" class="quiet" aria-pressed=${String(query.kind === kind)} onClick=${() => choose({ kind, cursor: null })}>${kind} ${figure(`kinds.${kind}`, n, count(n))}</button></li>`)}
      </ul>
    </div>`,
    disagreements.length
      ? html`<ul class="disagreements" key="list">${disagreements.map((one) => row(one, now))}</ul>`
      : emptyState("No disagreement on record", "Responses that differ from what the client got are listed here."),
    next && html`<p key="next"><button type="button" class="quiet" onClick=${() => choose({ cursor: next })}>Older</button></p>`
  ];
}

function row(one, now) {
  const slower = one.latency_ms - one.primary_ms;
  return html`<li class="card disagreement" key=${one.decision} data-decision=${one.decision}>
    <div class="card-head">${when(one.time, now)}<a href=${href("decisions", one.decision)} class="mono">${one.decision.slice(0, 12)}…</a>
      <span class="note">${one.difference === null ? "" : `difference ${significant(one.difference, 3)} · `}${one.shadow} took ${milliseconds(Math.abs(slower))} ${slower >= 0 ? "more" : "less"}</span></div>
    <table class="plain sides"><thead><tr><th scope="col">Where</th><th scope="col">${one.primary}, served</th><th scope="col">${one.shadow}</th></tr></thead>
    <tbody>${one.sides.map((side) => html`<tr key=${side.where}><th scope="row" class="mono">${side.where}</th><td class="mono">${written(side.primary)}</td><td class="mono">${written(side.shadow)}</td></tr>`)}</tbody></table>
  </li>`;
}

function written(value) {
  return value === null || value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value);
}
