// The checks that run continuously, the addresses behind each variant, and the requests that failed last.

import { useGet } from "../core/data.js";
import { ago, count, milliseconds, share } from "../core/format.js";
import { href } from "../core/router.js";
import { errorWords, inWords, outcome, sentence } from "../core/words.js";
import { badge, figure, section, variantName, waiting, when } from "../parts/basics.js";
import { table } from "../parts/table.js";
import { html } from "../vendor/preact.js";
import { eventList } from "./events.js";

// By the code of its alarm: what a check asks, and what to do once it fails.
const CHECKS = [
  ["sample_ratio_mismatch", "Variants get their allocated share", "Do not trust comparisons: some requests are lost or repeated."],
  ["record_loss", "Every outcome reaches the record", "Figures of that time are incomplete: the store was slow or unavailable."],
  ["no_rewards", "Every variant that responds gets rewards", "Check that clients report rewards with this variant's decision ids."],
  ["variant_failing", "At most 20% of a variant's requests fail", "Check its addresses, and the backend's own log."],
  [
    "client_errors",
    "A candidate without a guardrail on client errors rejects no more requests",
    "Write a guardrail on client_error_rate, promote or roll back."
  ]
];
const MAX_LISTED = 12;
const MAX_COUNTED = 200;

const NODE_TONES = { accepted: "good", behind: "warn", refused: "bad", silent: "bad" };
const TONES = { healthy: "good", unhealthy: "bad", failing: "bad", ejected: "warn", stalled: "warn" };

export function HealthTab({ report, colour, events, now }) {
  const failures = useGet(`outcomes?route=${encodeURIComponent(report.route)}&errors=true&limit=${MAX_COUNTED}`, { every: 30 });
  const all = useGet("engines", { every: 60 }).data?.engines ?? [];
  const engines = all.filter((one) => one.routes.includes(report.route));
  return [
    all.map((engine) => copies(engine, report.route)),
    checks(report, now),
    addresses(report, colour, now, engines),
    engines.map((engine) => nodes(engine, report.route, now)),
    html`<div class="two" key="log">
      ${section("failures", "Latest errors", "Of the assigned variant, also where a fallback hid them.", failureList(failures, now))}
      ${section("events", "Events", null, eventList(events, now))}
    </div>`
  ];
}

function checks(report, now) {
  const others = report.alarms.filter(({ code }) => !CHECKS.some(([known]) => known === code)).map(({ code }) => [code, sentence(code)]);
  return section(
    "checks",
    "Checks",
    null,
    html`<ul class="checks">${[...CHECKS, ...others].map(([code, asked, remedy]) => {
      const alarm = report.alarms.find((one) => one.code === code);
      return html`<li key=${code} data-check=${code} data-value=${alarm ? "alarm" : "ok"}>${alarm ? badge("! alarm", "bad") : badge("✓")}
      <div><b>${asked}</b>${alarm && html`<p>${inWords(alarm.message)}</p><p class="note">${remedy} Since ${ago(alarm.since, now)}.</p>`}</div></li>`;
    })}</ul>`
  );
}

function addresses(report, colour, now, engines) {
  const rows = Object.entries(report.health).flatMap(([variant, found]) => found.map((one) => [variant, one]));
  if (!rows.length) return null;
  const columns = [
    { title: "Variant", by: ([variant]) => variant },
    { title: "State", by: ([, one]) => one.state },
    { title: "Address", by: ([, one]) => one.address },
    { title: "In flight, all routes", by: ([, one]) => one.in_flight, number: true },
    { title: "Waiting", by: ([, one]) => one.waiting, number: true }
  ];
  return section(
    "health",
    "Addresses",
    engines.length
      ? "As this process's probes, if any, see them: the nodes below send the requests and judge addresses themselves."
      : "As this process sees them.",
    table(
      "addresses",
      "Addresses",
      columns,
      rows,
      ([variant, one]) => html`<tr key=${`${variant} ${one.address}`}>
      <td>${variantName(variant, colour(variant))}</td>
      <td>${used(one)}${one.failing && html` <small class="why">the last ${count(one.failing.attempts)} attempts failed, the last one: ${errorWords(one.failing.error)}, since ${ago(one.failing.since, now)}</small>`}</td>
      <td class="mono">${one.address}</td>
      <td class="number">${count(one.in_flight)}</td><td class="number">${count(one.waiting)}</td></tr>`
    )
  );
}

// An address is healthy until it fails: that says nothing before its first response.
function used({ state, responded }) {
  if (state === "healthy" && responded === false) return badge("No response yet", "", "No request or probe of this process has had a response from it");
  return badge(sentence(state), TONES[state] ?? "");
}

// From the route of an engine to that which compares copies of its requests, and back.
function copies({ engine, copies }, route) {
  const link = (name) => html`<a href=${href("routes", name)}>${name}</a>`;
  const from = Object.keys(copies ?? {}).filter((one) => copies[one] === route);
  return [
    copies?.[route] && html`<p key=${`to-${engine}`}>Copies of its requests that reach this gateway are compared on ${link(copies[route])}.</p>`,
    from.map((one) => html`<p key=${`from-${one}`}>Requests here are copies of those of ${link(one)}, which the engine ${engine} serves.</p>`)
  ];
}

// The nodes of the engine that serves the route in the gateway's place.
function nodes(engine, route, now) {
  const newest = engine.epochs[route];
  const lost = engine.lost_share === null ? "" : ` Of the rows of the last five minutes, ${share(engine.lost_share)} were lost.`;
  const columns = [
    { title: "Node", by: (one) => one.node },
    { title: "State", by: (one) => one.state },
    { title: "Epoch", by: (one) => one.epochs[route] },
    { title: "Last poll", by: (one) => one.seen },
    { title: "Rows", by: (one) => one.rows, number: true },
    { title: "Lost", by: (one) => one.lost, number: true }
  ];
  return section(
    `engine-${engine.engine}`,
    `Nodes of ${engine.engine}`,
    `They serve this route at epoch ${count(newest)} or earlier.${lost}`,
    engine.nodes.length
      ? table(`nodes-${engine.engine}`, `Nodes of ${engine.engine}`, columns, engine.nodes, (one) => {
          const field = (rest) => `engines.${engine.engine}.${one.node}.${rest}`;
          return html`<tr key=${one.node} data-node=${one.node}><th scope="row" class="mono">${one.node}</th>
              <td>${badge(figure(field("state"), one.state, sentence(one.state)), NODE_TONES[one.state])} <small>${one.refused}</small></td>
              <td>${figure(field("epoch"), one.epochs[route], count(one.epochs[route]))}${one.behind.includes(route) && html` <small>behind</small>`}</td>
              <td>${when(one.seen, now)}</td><td class="number">${figure(field("rows"), one.rows, count(one.rows))}</td><td class="number">${engine.type === "kubernetes" ? "not counted" : figure(field("lost"), one.lost, count(one.lost))}</td></tr>`;
        })
      : html`<p class="empty">${
          engine.type === "kubernetes"
            ? "The HTTPRoutes have not been read yet."
            : "No node has asked for its routes yet: start one with 'turnout engine bootstrap'."
        }</p>`
  );
}

function failureList({ data, error }, now) {
  if (!data) return waiting(error);
  if (!data.outcomes.length) return html`<p class="empty">No errors on record.</p>`;
  return [
    byKind(data.outcomes),
    html`<ol class="log" key="list" tabindex="0" role="list" aria-label="Latest errors">${data.outcomes.slice(0, MAX_LISTED).map(
      (one) => html`<li key=${one.decision}>
    ${when(one.time, now)}<b><a href=${href("decisions", one.decision)}>${one.assigned}: ${errorWords(one.error)}</a></b>
    <span>${badge(String(one.status), one.status < 400 ? "good" : "bad")} ${outcome(one)} after ${milliseconds(one.total_ms)}</span></li>`
    )}</ol>`
  ];
}

// The latest errors by variant and kind, the most frequent first.
function byKind(outcomes) {
  const counts = new Map();
  for (const one of outcomes) {
    const named = `${one.assigned}: ${errorWords(one.error)}`;
    counts.set(named, (counts.get(named) ?? 0) + 1);
  }
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  return html`<p key="kinds">Of the last ${outcomes.length}: ${sorted.map(([named, n]) => `${named} ×${count(n)}`).join(", ")}.</p>`;
}
