// All that happened, of all routes or of one.

import { choose, here, href } from "../core/router.js";
import { event } from "../core/words.js";
import { choices, explained, section, when } from "../parts/basics.js";
import { html } from "../vendor/preact.js";

const KINDS = [
  ["", "All"],
  ["rollout", "Rollouts"],
  ["alarm", "Alarms"],
  ["config", "Configuration"],
  ["health", "Health"],
  ["ejection", "Ejections"]
];

export function EventsPage({ events, now }) {
  const { kind = "" } = here().query;
  const shown = events?.filter((one) => !kind || one.kind === kind || (kind === "alarm" && one.kind === "alarm_over"));
  return [
    html`<div class="page-head" key="h"><h1>Events</h1>${choices("Kind", KINDS, kind, (k) => choose({ kind: k }))}</div>`,
    section("events", "Latest events", null, eventList(shown, now, true))
  ];
}

export function eventList(events, now, linked = false) {
  if (!events) return html`<p class="empty">Loading…</p>`;
  const shown = gathered([...events].reverse());
  if (!shown.length) return html`<p class="empty">Nothing has happened yet.</p>`;
  return html`<ol class=${`log${linked ? " whole" : ""}`} tabindex="0" role="list" aria-label="Events">${shown.map((one) => {
    const [title, detail] = event(one);
    return html`<li key=${one.key}>${when(one.time, now)}
      <div><b>${title}</b>${one.times > 1 && html`<small> ${one.times} changes, the last:</small>`}${linked && one.route && html` <a href=${href("routes", one.route)}>${one.route}</a>`}</div>
      <span>${explained(detail)}</span></li>`;
  })}</ol>`;
}

// Bandits change their allocations every second: a run of such changes is one entry per route, its oldest naming it.
function gathered(events) {
  const found = [];
  const run = new Map();
  for (const one of events) {
    if (one.kind !== "allocation") run.clear();
    const known = run.get(one.route);
    if (known) {
      known.times += 1;
      known.key = String(one.id);
      continue;
    }
    const entry = { ...one, times: 1, key: String(one.id) };
    found.push(entry);
    if (one.kind === "allocation") run.set(one.route, entry);
  }
  return found;
}
