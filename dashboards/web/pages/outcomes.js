// The record: requests as they were decided and served, newest first; every filter in the address.

import { API } from "../core/api.js";
import { useGet } from "../core/data.js";
import { milliseconds, share } from "../core/format.js";
import { choose, here, href } from "../core/router.js";
import { errorWords, outcome } from "../core/words.js";
import { badge, emptyState, exactly } from "../parts/basics.js";
import { table } from "../parts/table.js";
import { html, useEffect, useState } from "../vendor/preact.js";

// Those of the API; all stand in the address.
const FILTERS = ["route", "variant", "status", "errors", "error", "fallback", "forced", "min_ms", "unit", "request_id", "principal", "since", "until"];
const PAUSE_MS = 400; // after the last key
const SHORT = { size: "10" };
const EITHER = [
  ["", "either"],
  ["true", "yes"],
  ["false", "no"]
];

export function OutcomesPage({ routes, now }) {
  const { query } = here();
  const given = FILTERS.filter((name) => query[name]).map((name) => [name, query[name]]);
  const paged = [...given, ...(query.cursor ? [["cursor", query.cursor]] : []), ["limit", "50"]];
  const found = useGet(`outcomes?${new URLSearchParams(paged)}`, { every: query.cursor ? 0 : 15 });
  const set = (name, value) => choose({ [name]: value, cursor: null });
  const text = (name, label, more = SHORT) =>
    html`<${Typed} label=${label} more=${more} value=${query[name] ?? ""} onEnter=${(value) => set(name, value.trim())} />`;
  const pick = (name, label, options) =>
    html`<label>${label} <select value=${query[name] ?? ""} onChange=${(e) => set(name, e.target.value)}>${options.map(([value, title]) => html`<option key=${value} value=${value}>${title}</option>`)}</select></label>`;
  const rare = ["error", "min_ms", "fallback", "forced", "unit", "request_id", "principal", "since", "until"];
  return [
    html`<div class="page-head" key="h"><h1>Outcomes</h1></div>`,
    html`<form class="filters" key="filters" onSubmit=${(e) => e.preventDefault()}>
      ${pick("route", "Route", [["", "all"], ...routes.map((name) => [name, name])])}
      ${text("variant", "Variant")} ${text("status", "Status", { size: "4", inputmode: "numeric" })}
      <label><input type="checkbox" checked=${query.errors === "true"} onChange=${(e) => set("errors", e.target.checked ? "true" : null)} /> Failed only</label>
      <a class="quiet" href=${`${API}outcomes.csv?${new URLSearchParams(given)}`} download="outcomes.csv">Export CSV</a>
      <details open=${rare.some((name) => query[name])}><summary>More filters</summary><div class="filters">
        ${text("error", "Error", { size: "16", placeholder: "backend_connect" })} ${text("min_ms", "Took at least, ms", { size: "6", inputmode: "decimal" })}
        ${pick("fallback", "Fallback", EITHER)} ${pick("forced", "Chosen by the client", EITHER)}
        ${text("unit", "Unit", { size: "16" })} ${text("request_id", "Request id", { size: "20" })} ${text("principal", "Key")}
        ${period("since", "From", query, set)} ${period("until", "Until", query, set)}
      </div></details>
    </form>`,
    found.error && html`<p class="notice bad" role="alert" key="error">${found.error.message}</p>`,
    found.data && list(found.data, now)
  ];
}

// What is being typed stays while the list is read again; it filters after a pause.
function Typed({ label, more, value, onEnter }) {
  const [typed, setTyped] = useState(null);
  useEffect(() => {
    if (typed === null) return undefined;
    const timer = setTimeout(() => onEnter(typed), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  const enter = (e) => {
    setTyped(null);
    onEnter(e.target.value);
  };
  return html`<label>${label} <input ...${more} value=${typed ?? value} onInput=${(e) => setTyped(e.target.value)} onChange=${enter} onBlur=${() => setTyped(null)} /></label>`;
}

const YEAR_9999 = 253_402_214_400; // beyond it the field shows nothing

// A moment in the reader's own zone; the address keeps the seconds since the epoch.
function period(name, label, query, set) {
  const at = Number(query[name]);
  const shown = Math.abs(at) < YEAR_9999 && at !== 0 ? new Date((at - new Date(at * 1000).getTimezoneOffset() * 60) * 1000).toISOString().slice(0, 19) : "";
  const choice = (value) => set(name, value ? String(new Date(value).getTime() / 1000) : null);
  return html`<${Typed} label=${label} more=${{ type: "datetime-local", step: "1" }} value=${shown} onEnter=${choice} />`;
}

function list({ outcomes, next }, now) {
  if (!outcomes.length) return emptyState("No outcome matches", "The record is written in batches, about once a second.");
  const columns = [
    { title: "Time", by: (one) => one.time },
    { title: "Route", by: (one) => one.route },
    { title: "Assigned", by: (one) => one.assigned },
    { title: "Status", by: (one) => one.status },
    { title: "What came of it", by: outcome },
    { title: "Took", by: (one) => one.total_ms, number: true },
    { title: "Decision" }
  ];
  return html`<section class="card" key="list" aria-label="Outcomes">
    ${here().query.sort && html`<p class="note">Only these ${outcomes.length} are sorted, not the whole record.</p>`}
    ${table(
      "outcomes",
      "Outcomes",
      columns,
      outcomes,
      (one) => html`<tr key=${one.decision} data-decision=${one.decision}>
        <td>${exactly(one.time, now)}</td><td class="name"><a href=${href("routes", one.route)}>${one.route}</a></td><td class="name">${one.assigned} <small>${share(one.propensity)}</small></td>
        <td>${badge(one.status ? String(one.status) : "decided", one.status < 400 ? "good" : "bad")}</td><td class="name">${outcome(one)}${one.error && html`<small title=${one.error}> · ${errorWords(one.error)}</small>`}</td>
        <td class="number">${milliseconds(one.total_ms)}</td><td><a class="mono" href=${href("decisions", one.decision)}>${one.decision.slice(0, 12)}…</a></td>
      </tr>`
    )}
    ${next && html`<p><button type="button" class="quiet" onClick=${() => choose({ cursor: next })}>Older</button></p>`}
  </section>`;
}
