// The record: requests as they were decided and served, newest first; every filter in the address.

import { useGet } from "../core/data.js";
import { milliseconds, share } from "../core/format.js";
import { choose, here, href } from "../core/router.js";
import { outcome, sentence } from "../core/words.js";
import { badge, emptyState, scroller, when } from "../parts/basics.js";
import { html } from "../vendor/preact.js";

const FILTERS = ["route", "variant", "status", "errors", "since", "until", "cursor"];
const COLUMNS = ["decision", "time", "route", "assigned", "served", "propensity", "status", "error", "total_ms", "gateway_ms", "request_id"];

export function OutcomesPage({ routes, now }) {
  const { query } = here();
  const given = FILTERS.filter((name) => query[name]).map((name) => [name, query[name]]);
  const found = useGet(`outcomes?${new URLSearchParams([...given, ["limit", "50"]])}`, { every: query.cursor ? 0 : 10 });
  const filter = (name) => (event) =>
    choose({ [name]: event.target.type === "checkbox" ? (event.target.checked ? "true" : null) : event.target.value, cursor: null });
  return [
    html`<div class="page-head" key="h"><h1>Outcomes</h1></div>`,
    html`<form class="filters" key="filters" onSubmit=${(e) => e.preventDefault()}>
      <label>Route <select value=${query.route ?? ""} onChange=${filter("route")}><option value="">all</option>${routes.map((name) => html`<option key=${name}>${name}</option>`)}</select></label>
      <label>Variant <input size="10" value=${query.variant ?? ""} onChange=${filter("variant")} /></label>
      <label>Status <input size="4" inputmode="numeric" value=${query.status ?? ""} onChange=${filter("status")} /></label>
      <label><input type="checkbox" checked=${query.errors === "true"} onChange=${filter("errors")} /> Failed only</label>
      ${found.data?.outcomes.length > 0 && html`<button type="button" class="quiet" onClick=${() => download(found.data.outcomes)}>Export CSV</button>`}
    </form>`,
    found.error && html`<p class="notice bad" role="alert" key="error">${found.error.message}</p>`,
    found.data && list(found.data, now)
  ];
}

function list({ outcomes, next }, now) {
  if (!outcomes.length) return emptyState("No outcome matches", "The record is written in batches, about once a second.");
  const head = ["Time", "Route", "Assigned", "Status", "What came of it", "Took", "Decision"];
  return html`<section class="card" key="list" aria-label="Outcomes">
    ${scroller(
      "Outcomes",
      html`<table class="plain"><thead><tr>${head.map((text) => html`<th scope="col" class=${text === "Took" ? "number" : null}>${text}</th>`)}</tr></thead><tbody>
      ${outcomes.map(
        (one) => html`<tr key=${one.decision} data-decision=${one.decision}>
        <td>${when(one.time, now)}</td><td><a href=${href("routes", one.route)}>${one.route}</a></td><td>${one.assigned} <small>${share(one.propensity)}</small></td>
        <td>${badge(String(one.status), one.status < 400 ? "good" : "bad")}</td><td>${outcome(one)}${one.error && html`<small> · ${sentence(one.error)}</small>`}</td>
        <td class="number">${milliseconds(one.total_ms)}</td><td><a class="mono" href=${href("decisions", one.decision)}>${one.decision.slice(0, 12)}…</a></td>
      </tr>`
      )}</tbody></table>`
    )}
    ${next && html`<p><button type="button" class="quiet" onClick=${() => choose({ cursor: next })}>Older</button></p>`}
  </section>`;
}

// What is shown, as a file. A leading apostrophe keeps a spreadsheet from taking a client's text for a formula.
function download(outcomes) {
  const cell = (value) => {
    const text = String(value ?? "");
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const rows = [COLUMNS, ...outcomes.map((one) => COLUMNS.map((name) => one[name]))].map((row) => row.map(cell).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([rows.join("\r\n")], { type: "text/csv" }));
  link.download = "outcomes.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}
