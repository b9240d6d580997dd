// The addresses behind each variant, and the requests that failed last.

import { html } from "../vendor/preact.js";
import { useGet } from "../core/data.js";
import { ago, count, milliseconds } from "../core/format.js";
import { href } from "../core/router.js";
import { outcome, sentence } from "../core/words.js";
import { badge, scroller, section, variantName, when } from "../parts/basics.js";
import { eventList } from "./events.js";

const TONES = { healthy: "good", unhealthy: "bad", failing: "bad", ejected: "warn", stalled: "warn" };

export function HealthTab({ report, colour, events, now }) {
  const failures = useGet(`outcomes?route=${encodeURIComponent(report.route)}&errors=true&limit=12`, { every: 10 });
  return [
    addresses(report, colour, now),
    html`<div class="two" key="log">
      ${section("failures", "Latest errors", "Of the assigned variant, also where a fallback hid them.", failureList(failures, now))}
      ${section("events", "Events", null, eventList(events, now))}
    </div>`,
  ];
}

function addresses(report, colour, now) {
  const rows = Object.entries(report.health).flatMap(([variant, found]) => found.map((one) => [variant, one]));
  const head = html`<tr><th scope="col">Variant</th><th scope="col">Address</th><th scope="col">State</th><th scope="col" class="number">In flight, all routes</th><th scope="col" class="number">Waiting</th></tr>`;
  return section("health", "Addresses", "As this gateway process sees them. An address may serve several routes.",
    scroller("Addresses", html`<table class="plain"><thead>${head}</thead><tbody>${rows.map(([variant, one]) => html`<tr key=${`${variant} ${one.address}`}>
      <td>${variantName(variant, colour(variant))}</td><td class="mono">${one.address}</td>
      <td>${badge(sentence(one.state), TONES[one.state] ?? "")}${one.failing && html` <small>the last ${count(one.failing.attempts)} attempts failed, the last with ${one.failing.error}, since ${ago(one.failing.since, now)}</small>`}</td>
      <td class="number">${count(one.in_flight)}</td><td class="number">${count(one.waiting)}</td></tr>`)}</tbody></table>`));
}

function failureList({ data }, now) {
  if (!data) return html`<p class="empty">Loading…</p>`;
  if (!data.outcomes.length) return html`<p class="empty">No errors on record.</p>`;
  return html`<ol class="log" tabindex="0" role="list" aria-label="Latest errors">${data.outcomes.map((one) => html`<li key=${one.decision}>
    ${when(one.time, now)}<b><a href=${href("decisions", one.decision)}>${one.assigned}: ${sentence(one.error)}</a></b>
    <span>${badge(String(one.status), one.status < 400 ? "good" : "bad")} ${outcome(one)} after ${milliseconds(one.total_ms)}</span></li>`)}</ol>`;
}
