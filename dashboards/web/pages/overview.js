// All routes, a line each: what needs a person, what moves by itself, what is steady, what is idle.

import { palette } from "../core/colours.js";
import { ago, count, counted, difference, estimate, kind, milliseconds, moment, perSecond, seconds, share } from "../core/format.js";
import { choose, here, href, typed } from "../core/router.js";
import {
  agreed,
  alarmed,
  bounded,
  deadVariant,
  errorWords,
  event,
  failure,
  nextOf,
  ofVariant,
  POLICIES,
  reasonOf,
  STATES,
  sentence,
  verdictsOf
} from "../core/words.js";
import { badge, choices, emptyState, explained, figure, inOrder, notice, shareBar } from "../parts/basics.js";
import { spark } from "../parts/spark.js";
import { html, useEffect } from "../vendor/preact.js";
import { useSteering } from "./steering.js";

const GROUPS = [
  ["needs", "Needs you"],
  ["moving", "Moving"],
  ["steady", "Steady"],
  ["idle", "Idle"]
];
const MAX_IDLE = 3;
const MAX_STEP_CHARS = 60;
const TOLD = ["alarm", "rollout", "winner"]; // the steps that say what the problem of the row says
const COMPUTING = "The comparison is being computed.";
const SORTS = {
  name: (r) => r.route,
  requests: (r) => -r.recent.assigned,
  errors: (r) => -(r.recent.error_rate.mean ?? -1),
  p99: (r) => -(r.recent.latency_ms?.p99 ?? -1)
};

export function Overview({ view, now, ...given }) {
  const { query } = here();
  useEffect(() => {
    addEventListener("keydown", toSearch);
    return () => removeEventListener("keydown", toSearch);
  }, []);
  const steering = useSteering(given, true);
  const all = routesOf(view);
  if (!all.length)
    return [
      html`<h1 key="h">Routes</h1>`,
      emptyState("No routes yet", "Add one under 'routes' in the configuration; it appears here by itself.", "turnout check turnout.yaml")
    ];
  const { refused, alarms = [] } = view[""] ?? {};
  const wanted = (query.search ?? "").toLowerCase();
  const found = all.filter((route) => route.route.toLowerCase().includes(wanted));
  const key = SORTS[query.sort] ?? SORTS.name;
  const chosen = GROUPS.some(([name]) => name === query.group) ? query.group : "";
  const grouped = (name) => found.filter((route) => groupOf(route) === name).sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
  return [
    html`<div class="page-head" key="h"><h1>Routes</h1>
      <label class="search"><span class="hidden">Search routes</span><input type="search" placeholder="Search ( / )" value=${query.search ?? ""} onInput=${(e) => choose({ search: e.target.value })} /></label>
      <label class="search">Sort by <select value=${query.sort ?? "name"} onChange=${(e) => choose({ sort: e.target.value === "name" ? null : e.target.value })}>
        <option value="name">name</option><option value="requests">requests</option><option value="errors">errors</option><option value="p99">p99</option>
      </select></label>
      ${choices("Group", [["", "All"], ...GROUPS.map(([name, title]) => [name, `${title} ${grouped(name).length}`])], chosen, (name) => choose({ group: name }))}
    </div>`,
    refused &&
      notice(
        "bad",
        "A configuration was refused",
        `${refused.faults} fault${refused.faults > 1 ? "s" : ""}, the first at ${refused.place}${refused.path ? ` (${refused.path})` : ""}; by ${refused.author}, ${ago(refused.time, now)}. The one in force stays.`
      ),
    alarms.map((alarm) => notice("bad", sentence(alarm.code), alarmed(alarm, now))),
    html`<p class="route-head" aria-hidden="true" key="head">${["", "What it does", "Shares", "Last hour"].map((text) => html`<span key=${text}>${text}</span>`)}<span class="facts"><span>Req/s</span><span>Errors</span><span>p99</span></span></p>`,
    html`<div class="groups" key="groups">${GROUPS.filter(([name]) => !chosen || name === chosen).map(([name, title]) => group(name, title, grouped(name), now, steering))}</div>`,
    steering.told,
    steering.dialog(all.find((route) => route.route === steering.asked)),
    found.length ? null : html`<p class="empty" key="none">No route's name contains “${query.search}”.</p>`
  ];
}

// The key "/" leads to the search, unless it is typed into something.
function toSearch(event) {
  if (event.key !== "/" || typed(event)) return;
  event.preventDefault();
  document.querySelector(".search input").focus();
}

// The entry without a name concerns all of them.
export function routesOf(view) {
  return Object.entries(view)
    .filter(([name, route]) => name && route)
    .map(([, route]) => route);
}

export function groupOf(route) {
  if (problems(route).length) return "needs";
  const rollout = route.rollout?.state;
  if (rollout && rollout !== "promoted") return "moving"; // also without traffic: it waits for some
  if (!route.recent.assigned) return "idle";
  if (rollout || route.stop?.state === "handed_over") return "steady";
  return route.policy === "bandit" || route.policy === "shadow" ? "moving" : "steady";
}

// What waits for a person, in sentences; the worst first.
export function problems(route, now) {
  const dead = deadVariant(route);
  const found = route.alarms.filter((alarm) => !dead || !ofVariant(alarm, dead.variant)).map((alarm) => alarmed(alarm, now));
  if (dead) found.unshift(`${dead.title}. ${dead.detail}${instead(route.recent)}`);
  for (const [variant, addresses] of Object.entries(route.health)) {
    const down = addresses.filter((one) => one.state === "failing" || one.state === "unhealthy");
    const alarmed = route.alarms.some((alarm) => ofVariant(alarm, variant));
    if (!down.length || alarmed || variant === dead?.variant) continue;
    const run = down.find((one) => one.failing)?.failing;
    const last = run ? `: the last ${count(run.attempts)} attempts failed (${errorWords(run.error)})` : ": its probes fail";
    found.push(`${variant}: ${down.length} of ${addresses.length} address${addresses.length > 1 ? "es" : ""} ${down[0].state}${last}.`);
  }
  const state = route.rollout?.state;
  const stopped = state === "paused" && !route.rollout.decided?.actor; // not by a person
  if (stopped || ["rolled_back", "halted", "waiting"].includes(state)) found.push(ended(route, now));
  if (route.held && !route.alarms.some(({ code }) => route.held.startsWith(code)))
    found.push(`The bandit ejects nothing and names no winner until it is resumed: ${route.held}.`);
  if (route.stop?.state === "asking") found.push(`${route.stop.winner} has won by its stop rule; a person decides.`);
  return found;
}

// Whether the clients noticed.
function instead({ fallbacks, seconds: span }) {
  return fallbacks ? ` A fallback served ${counted(fallbacks, "request")} in ${seconds(span)}.` : "";
}

function ended(route, now) {
  const { verdicts, frozen } = verdictsOf(route.rollout);
  const failed = verdicts.filter((one) => one.verdict === "fail");
  const step = frozen ?? route.rollout;
  const why = failed.length ? failed.map((one) => failure(one, route)).join("; ") : reasonOf(step);
  const at = step.time ?? step.since;
  const since = at ? (route.rollout.state === "rolled_back" ? ` ${ago(at, now)}` : ` since ${moment(at, now)}`) : "";
  return `${STATES[route.rollout.state]}${step.actor && !failed.length ? ` by ${step.actor}` : ""}${since}${why ? `: ${why}` : ""}.${nextOf(route.rollout)}`;
}

function group(name, title, routes, now, steering) {
  if (!routes.length) return null;
  if (name === "idle" && routes.length > MAX_IDLE) return idle(title, routes);
  return html`<section class=${`group ${name}`} key=${name} aria-labelledby=${`group-${name}`} data-group=${name}>
    <h2 id=${`group-${name}`}>${title} <span class="note">${routes.length}</span></h2>
    <ul class="routes card">${routes.map((route) => row(route, now, steering))}</ul>
  </section>`;
}

// Many that do nothing need no line each.
function idle(title, routes) {
  return html`<section class="group idle" key="idle" aria-labelledby="group-idle" data-group="idle"><h2 id="group-idle">${title} <span class="note">${routes.length}</span></h2>
    <ul class="card idle-list">${routes.map(({ route }) => html`<li key=${route} data-route=${route}><a href=${href("routes", route)}>${route}</a></li>`)}</ul></section>`;
}

function row(route, now, steering) {
  const name = route.route;
  const colour = palette(Object.keys(route.health));
  const told = problems(route, now);
  const field = (rest) => `${name}.recent.${rest}`;
  const { recent } = route;
  const rate = estimate(recent.error_rate, "boolean");
  const buttons = steering.buttons({ ...route, candidate: route.rollout?.candidate, baseline: route.rollout?.baseline });
  const step = route.last_step;
  const news = step && now - step.time < 3600 && !(told.length && TOLD.includes(step.kind));
  const shadowed = Object.keys(route.shadows ?? {});
  const alone = Object.keys(route.allocation).length === 1;
  return html`<li class=${`route-row${told.length ? " bad" : ""}`} key=${name} data-route=${name}>
    <div class="route-name"><a href=${href("routes", name)}>${name}</a> <small>${POLICIES[route.policy] ?? route.policy}</small></div>
    <div class="route-does">${told.length ? told.map((text) => html`<p class="problem" key=${text}>${explained(text)}</p>`) : doing(route, now)}
      ${news && html`<small>${step.kind === "rollout" && step.data.target === route.rollout?.state ? `since ${moment(step.time, now)}` : `${ago(step.time, now)}: ${lastStep(step)}`}</small>`}
    </div>
    ${buttons && html`<div class="steering">${buttons}</div>`}
    <div class="route-shares">${!alone && shareBar(route.allocation, colour)}
      <small>${inOrder(route.allocation, colour).map(([v, p], k) => html`<span key=${v}>${k ? " · " : ""}${v} ${figure(`${name}.allocation.${v}`, p, share(p))}</span>`)}${shadowed.length > 0 && ` · ${shadowed.length > 1 ? "shadows" : "shadow"} ${shadowed.join(", ")}`}</small>
    </div>
    ${spark(route.trend, colour)}
    <dl class="facts" aria-label=${`Last ${seconds(recent.seconds)}`}>
      ${fact("req/s", figure(field("assigned"), recent.assigned, perSecond(recent.assigned / recent.seconds)))}
      ${fact("errors", html`<span class=${recent.error_rate.interval?.[0] > 0.05 ? "alert" : ""}>${figure(field("error_rate"), recent.error_rate.mean, rate.mean)} <small>${rate.interval}</small></span>`)}
      ${fact("p99", figure(field("p99"), recent.latency_ms?.p99, milliseconds(recent.latency_ms?.p99)))}
    </dl>
  </li>`;
}

// "running → rolled back": what it was, without reason and author.
function lastStep(one) {
  const [title, detail] = event(one);
  const [first] = detail.split(" · ");
  if (!first || first.length > MAX_STEP_CHARS) return title;
  return one.kind === "rollout" ? first : `${title}: ${first}`;
}

function fact(term, value) {
  return html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`;
}

// What the route does by itself now, in a line.
function doing(route, now) {
  const rollout = route.rollout;
  if (rollout)
    return html`<p>${badge(STATES[rollout.state] ?? rollout.state, rollout.state === "promoted" ? "good" : "")} ${explained(canary(route, rollout, now))}</p>`;
  if (route.stop?.state === "handed_over") return html`<p>${route.stop.winner} has won and gets everything.</p>`;
  if (route.policy === "shadow") return html`<p>${shadows(route)}</p>`;
  if (route.features) return html`<p>Which variant is best depends on ${route.features.join(", ")}.</p>`;
  const several = Object.keys(route.allocation).length > 1;
  const idle = several ? "No rewards to compare by." : "One variant serves everything.";
  return html`<p>${(several && leads(route)) || (route.recent.assigned ? idle : "No traffic.")}</p>`;
}

function leads(route) {
  if (!route.standings) return COMPUTING;
  const said = Object.entries(route.standings)
    .slice(0, 2)
    .map(([metric, one]) => lead(route, metric, one));
  return said.join("; ");
}

function canary(route, rollout, now) {
  const told = (verdict) => (rollout.verdicts ?? []).filter((one) => one.verdict === verdict);
  if (rollout.state === "promoted") return rollout.bake_until > now ? `${share(rollout.weight)}, watched for ${seconds(rollout.bake_until - now)} more` : "";
  if (rollout.phase === "bandit") return `as a bandit${leads(route) && ` · ${leads(route)}`}`;
  const gate = rollout.phase === "shadow" && (rollout.verdicts ?? []).find((one) => one.metric === "agreement");
  if (gate)
    return `as a shadow: ${agreed(route, rollout.candidate)}, the gate requires ${bounded(gate, "fraction")} and ${counted(rollout.min_samples, "comparison")}`;
  const stage = rollout.stages ? `stage ${rollout.stage + 1} of ${rollout.stages}` : rollout.phase;
  const left = rollout.state === "running" && rollout.stage_ends > now ? `${seconds(rollout.stage_ends - now)} left` : "";
  const failed = told("fail").map((one) => failure(one, route));
  const open = told("inconclusive").map((one) => one.metric);
  const minutes = Math.max(0, ...told("inconclusive").map((one) => one.minutes ?? 0));
  return [
    rollout.state === "paused" && rollout.decided && `by ${rollout.decided.actor}`,
    stage,
    share(rollout.weight),
    left,
    failed.length ? `over its limit: ${failed.join("; ")}` : "",
    open.length ? `undecided: ${open.join(", ")}${minutes ? ` (about ${seconds(minutes * 60)} more)` : ""}` : ""
  ]
    .filter(Boolean)
    .join(" · ");
}

function shadows(route) {
  if (!route.standings) return COMPUTING;
  const said = Object.entries(route.agreement ?? {})
    .filter(([, one]) => one.compared)
    .map(([name, one]) => [name, estimate({ mean: one.rate, interval: one.interval }, "fraction")])
    .map(([name, said]) => `${name} agrees ${said.mean} (${said.interval})`);
  return said.length ? said.join(", ") : "Nothing compared yet.";
}

function lead(route, metric, one) {
  const said = difference(one.difference.absolute, one.difference.interval, kind(metric, route.metrics));
  const interval = said.interval ? ` (${said.interval})` : "";
  const told = one.leads ? `${one.leader} leads by` : `undecided, ${one.leader} − ${one.against}`;
  return `${metric}: ${told} ${said.text}${interval}`;
}
