// The page: where we are, what is asked for how often, and what is shown while it is not to be had.

import { Refused, Unreachable, get, logout } from "./api.js";
import { h, render } from "./dom.js";
import { Stream } from "./live.js";
import { notice } from "./views/parts.js";
import { RANGES, routeView } from "./views/route.js";
import { routesView } from "./views/routes.js";

const EVERY = 1500; // milliseconds between two looks at the figures
const EVERY_SERIES = 5000; // and at the history, which costs more; an event hastens both
const KEEP_STALE = 2; // looks that may fail before the page says that it is out of date

const state = { page: null, routes: null, report: null, series: null, events: null, failures: null, session: null, problem: null, fetched: 0, missed: 0, now: Date.now() / 1000 };
const remembered = recall();
const ui = {
  hover: null,
  tables: new Set(),
  choices: { range: 900, rewards: "to_date", quantile: "p99", metric: null, ...remembered.choices },
  onHover: (at) => ((ui.hover = at), draw()),
  onTable: (id) => (ui.tables.has(id) ? ui.tables.delete(id) : ui.tables.add(id), draw()),
  onChoice: choose,
};

let controller = null; // of the requests of the page we are on
let timer = null;
let seriesAt = 0;
let drawing = false;
const stream = new Stream("events", onEvent);

// Where we are -------------------------------------------------------------------------------------
function where() {
  const found = location.hash.match(/^#\/routes\/([^?]+)/);
  return found ? { name: "route", route: decodeURIComponent(found[1]) } : { name: "routes" };
}

function go() {
  const page = where();
  const same = state.page?.name === page.name && state.page?.route === page.route;
  state.page = page;
  if (!same) {
    Object.assign(state, { report: null, series: null, events: null, failures: null, problem: null });
    ui.hover = null;
    window.scrollTo(0, 0);
  }
  document.title = page.route ? `${page.route} · Turnout` : "Turnout";
  look(true);
}

// Looking ------------------------------------------------------------------------------------------
async function look(all = false) {
  clearTimeout(timer);
  controller?.abort();
  if (document.hidden) return;
  controller = new AbortController();
  const { signal } = controller;
  try {
    await fetchPage(signal, all);
    Object.assign(state, { problem: null, fetched: Date.now(), missed: 0 });
  } catch (error) {
    if (signal.aborted) return;
    fail(error);
  }
  draw();
  timer = setTimeout(look, state.missed ? Math.min(EVERY * 2 ** state.missed, 10_000) : EVERY);
}

async function fetchPage(signal, all) {
  state.session ??= await get("dashboard/session", signal);
  if (state.page.name === "routes") {
    state.routes = (await get("routes", signal)).routes;
    return;
  }
  const name = encodeURIComponent(state.page.route);
  state.report = await get(`routes/${name}`, signal);
  draw();
  if (!all && Date.now() - seriesAt < EVERY_SERIES) return;
  const until = Math.ceil(state.report.as_of);
  const [series, events, failures] = await Promise.all([
    get(`routes/${name}/series?since=${until - ui.choices.range}&until=${until}${stepping(until)}`, signal),
    get(`events/recent?route=${name}&limit=40`, signal),
    get(`outcomes?route=${name}&errors=true&limit=12`, signal),
  ]);
  Object.assign(state, { series, events: events.events, failures: failures.outcomes });
  seriesAt = Date.now();
}

// Of a short history finer steps, so that a gateway that has just begun has something to show.
const STEPS = [10, 20, 30, 60, 120, 300, 600, 1800, 3600];
function stepping(until) {
  const first = state.series?.buckets[0]?.start;
  if (first === undefined) return ui.choices.range > 900 ? "" : "&step=10";
  const span = Math.min(ui.choices.range, (until - first) * 1.3);
  const step = STEPS.find((s) => s >= span / 120);
  return step ? `&step=${step}` : "";
}

function fail(error) {
  state.missed += 1;
  if (error instanceof Refused && error.status === 401) {
    location.replace("login");
    return;
  }
  if (error instanceof Refused || error instanceof Unreachable) state.problem = error;
  else {
    state.problem = new Unreachable(`The page failed: ${error.message}`);
    console.error(error);
  }
}

// News makes us look sooner, but not more often than twice a second.
let hurried = 0;
function onEvent(event) {
  const concerns = !event.route || state.page.name === "routes" || event.route === state.page.route;
  if (!concerns || Date.now() - hurried < 500) return;
  hurried = Date.now();
  look(Date.now() - seriesAt > 2000);
}

// Showing ------------------------------------------------------------------------------------------
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    state.now = Date.now() / 1000;
    render(document.getElementById("top"), topBar());
    render(document.getElementById("content"), content());
  });
}

function content() {
  const problem = problemNotice();
  if (state.page.name === "routes") {
    if (!state.routes) return problem ?? h("p", { class: "empty" }, "Loading…");
    return [problem, routesView(state.routes)];
  }
  if (!state.report) return problem ?? h("p", { class: "empty" }, "Loading…");
  return [problem, routeView(state, ui)];
}

function problemNotice() {
  const { problem } = state;
  if (!problem) return null;
  const shown = state.page.name === "routes" ? state.routes : state.report;
  if (problem instanceof Unreachable) {
    if (shown && state.missed < KEEP_STALE) return null; // the header says so already
    const stale = shown ? ` What you see is from ${new Date(state.fetched).toLocaleTimeString()}.` : "";
    return notice("bad", "The gateway can't be reached", `${problem.message}${stale} Trying again…`);
  }
  if (problem.status === 404) return notice("warn", "No such route", problem.message, h("a", { href: "#/" }, "All routes"));
  if (problem.status === 403) return notice("bad", "This key may not see this", problem.message, h("a", { href: "#/" }, "All routes"));
  return notice("bad", "The gateway refused", problem.message);
}

function topBar() {
  const { page, session } = state;
  return [
    h("a", { class: "brand", href: "#/", key: "brand" }, h("img", { src: "mark.svg", alt: "", width: "24", height: "24" }), "Turnout"),
    h("nav", { key: "nav", "aria-label": "Breadcrumb" }, page.name === "route" && [h("a", { href: "#/" }, "Routes"), h("span", { "aria-hidden": "true" }, "/"), h("span", { "aria-current": "page" }, page.route)]),
    h("div", { class: "spacer", key: "spacer" }),
    h("span", { class: `live ${liveness()[0]}`, role: "status", key: "live" }, h("span", { class: "dot", "aria-hidden": "true" }), liveness()[1]),
    themeButton(),
    session?.auth && h("button", { class: "quiet", type: "button", key: "out", title: `Logged in with the key ${session.id}`, onClick: leave }, "Log out"),
  ];
}

function liveness() {
  if (state.missed) return ["off", state.problem instanceof Refused ? "Refused" : "Unreachable"];
  return state.fetched ? ["on", "Live"] : ["", "Connecting"];
}

async function leave() {
  stream.stop();
  await logout();
  location.replace("login");
}

// Choices that outlive the page ----------------------------------------------------------------------
function choose(name, value) {
  ui.choices = { ...ui.choices, [name]: value };
  remember();
  if (name === "range") {
    state.series = null;
    seriesAt = 0;
    look(true);
  }
  draw();
}

function recall() {
  try {
    const found = JSON.parse(localStorage.getItem("turnout") ?? "{}");
    if (!["to_date", "rolling"].includes(found.choices?.rewards)) delete found.choices?.rewards;
    if (found.choices && !RANGES.some(([v]) => Number(v) === found.choices.range)) delete found.choices.range;
    return found;
  } catch {
    return {};
  }
}

function remember() {
  try {
    const { range, rewards, quantile } = ui.choices;
    localStorage.setItem("turnout", JSON.stringify({ choices: { range, rewards, quantile }, theme: document.documentElement.dataset.theme }));
  } catch {
    // A browser that keeps nothing still shows everything.
  }
}

const THEMES = { undefined: ["dark", "◐", "System theme"], dark: ["light", "●", "Dark theme"], light: [undefined, "○", "Light theme"] };

function themeButton() {
  const [next, sign, title] = THEMES[document.documentElement.dataset.theme];
  const turn = () => {
    if (next) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    remember();
    draw();
  };
  return h("button", { class: "quiet", type: "button", key: "theme", title: `${title}; click to change`, "aria-label": `${title}; change`, onClick: turn }, sign);
}

// Beginning ------------------------------------------------------------------------------------------
if (remembered.theme in THEMES && remembered.theme) document.documentElement.dataset.theme = remembered.theme;
window.addEventListener("hashchange", go);
window.addEventListener("pagehide", () => stream.stop());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream.stop();
    clearTimeout(timer);
    controller?.abort();
  } else {
    stream.start();
    look(true);
  }
});
go();
if (!document.hidden) stream.start();
