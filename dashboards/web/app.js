// The dashboard: where we are, the one stream of the page, and what is shown while it is not to be had.

import { authorise, gatewayTime, get, HOME, loginAddress, Refused, seesConfig, send, Unreachable } from "./core/api.js";
import { keepFocus, rememberFocus } from "./core/focus.js";
import { clockTime, moment, zoneName } from "./core/format.js";
import { later } from "./core/later.js";
import { Live, SILENCE_MS } from "./core/live.js";
import { follow, here, href, typed, visit } from "./core/router.js";
import { askEarly } from "./core/series.js";
import { Overview, problems, routesOf } from "./pages/overview.js";
import { RoutePage } from "./pages/route.js";
import { notice } from "./parts/basics.js";
import { Component, html, render } from "./vendor/preact.js";

const ConfigPage = later(() => import("./pages/config.js"), "ConfigPage");
const DecisionPage = later(() => import("./pages/decision.js"), "DecisionPage");
const EventsPage = later(() => import("./pages/events.js"), "EventsPage");
const OutcomesPage = later(() => import("./pages/outcomes.js"), "OutcomesPage");
const TermsPage = later(() => import("./pages/terms.js"), "TermsPage");
const ShadowPage = later(() => import("./pages/shadow.js"), "ShadowPage");
const KEEP_EVENTS = 200;
const KEEP_ALLOCATIONS = 20; // a bandit adds one each second
const LOOK_MS = 60_000; // between two looks whether we are still logged in and the store is available
const OUTAGE_LOOK_MS = 3000; // the same for a store that is away
const TITLES = { overview: "Turnout", outcomes: "Outcomes", decision: "Decision", config: "Configuration", events: "Events", terms: "Terms and keys" };

class App extends Component {
  constructor() {
    super();
    this.live = null;
    this.watched = null;
    this.path = null;
    this.state = {
      page: here(),
      view: {},
      known: false,
      events: null,
      session: null,
      alive: 0, // when the figures were known to be of now
      heard: 0, // when the gateway last sent anything
      lost: null,
      outage: null,
      refused: null,
      broken: null,
      now: gatewayTime() / 1000
    };
  }

  componentDidMount() {
    follow(() => this.go());
    rememberFocus();
    addEventListener("keydown", toTerms);
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.go()));
    addEventListener("pagehide", () => this.stop());
    setInterval(() => document.hidden || this.setState({ now: gatewayTime() / 1000 }), 1000);
    setInterval(() => document.hidden || this.look(), LOOK_MS);
    setInterval(() => document.hidden || (this.state.outage && this.lookAtStore()), OUTAGE_LOOK_MS);
    this.look();
    this.go();
  }

  // Without this the figures of before would stay, below a bar that says that they are live.
  componentDidCatch(error) {
    console.error(error);
    this.setState({ broken: error });
  }

  componentDidUpdate() {
    keepFocus();
  }

  look() {
    this.lookAtSession();
    this.lookAtStore();
  }

  // Draining or unreachable: the stream says so.
  async lookAtStore() {
    const ready = await get("readyz").catch(() => null);
    this.setState({ outage: ready?.store_outage ?? null });
  }

  async lookAtSession() {
    const session = await get("dashboard/session").catch(() => null);
    if (!session) return;
    authorise(session);
    this.setState({ session });
  }

  go() {
    const page = here();
    const before = this.state.page;
    if (page.path !== before.path) scrollTo(0, 0);
    if (page.tab === "time" && (this.path === null || page.path !== before.path)) askEarly(page.route, page.query);
    this.setState({ page, broken: null, now: gatewayTime() / 1000 });
    const watch = page.route && page.name !== "decision" ? `route:${page.route}` : "routes";
    document.title = titleOf(page, watch === this.watched ? this.state.view : {});
    const about = page.route ? `&route=${encodeURIComponent(page.route)}` : "";
    const moves = page.route || page.name === "events" ? "" : "&allocations=false"; // shown on no other page
    const path = `events?view=${encodeURIComponent(watch)}${about}${moves}`;
    if (document.hidden || (this.live && path === this.path)) return;
    this.stop();
    if (watch !== this.watched) this.setState({ view: {}, known: false, events: null, refused: null });
    this.watched = watch;
    this.path = path;
    this.live = new Live(path, {
      patch: (changes, fresh) => this.patch(changes, fresh),
      event: (event) => this.setState(({ events }) => ({ events: kept([...(events ?? []), event]) })),
      alive: () => {
        if (this.state.lost) this.look(); // another login has another token
        if (this.state.refused) recent();
        this.setState(({ alive, outage }) => ({
          alive: outage ? alive : gatewayTime(),
          heard: gatewayTime(),
          now: gatewayTime() / 1000,
          lost: null,
          refused: null
        }));
      },
      ended: () => this.lookAtStore(),
      lost: (error) => this.setState(error instanceof Refused && error.status < 500 && error.status !== 401 ? { refused: error } : { lost: error })
    });
    const { live } = this; // a later one asks for itself
    const recent = () =>
      get(`events/recent?limit=${KEEP_EVENTS}&allocations=false${about}`).then(
        ({ events }) => this.live === live && this.setState({ events }),
        ({ status }) => this.live === live && !(status < 500) && setTimeout(recent, OUTAGE_LOOK_MS)
      );
    recent();
  }

  patch(changes, fresh) {
    this.setState(({ view, page }) => {
      const next = patched(fresh ? {} : view, changes, this.watched === "routes");
      document.title = titleOf(page, next);
      return { view: next, known: true };
    });
  }

  stop() {
    this.live?.stop();
    this.live = null;
  }

  render(_, state) {
    return [
      html`<${TopBar} key="top" ...${state} onLeave=${() => this.leave()} />`,
      html`<main id="content" tabindex="-1" key="content">${content(state)}</main>`
    ];
  }

  async leave() {
    this.stop();
    this.watched = null; // another page starts from nothing
    const refused = await send("POST", "dashboard/logout").catch((error) => error);
    if (refused) this.setState({ refused });
    else location.replace(`${HOME}login`);
  }
}

// The view with its changes; in the list of routes those are of single fields, and null is a route that is gone.
function patched(view, changes, listed) {
  const next = { ...view, ...changes };
  if (!listed) return next;
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) delete next[name];
    else next[name] = { ...view[name], ...value };
  }
  return next;
}

// The newest events: those of allocations push no others out.
function kept(events) {
  const moves = events.filter((one) => one.kind === "allocation");
  const others = events.length - moves.length;
  const gone = new Set([
    ...moves.slice(0, Math.max(0, moves.length - KEEP_ALLOCATIONS)),
    ...events.filter((one) => one.kind !== "allocation").slice(0, Math.max(0, others - KEEP_EVENTS))
  ]);
  return gone.size ? events.filter((one) => !gone.has(one)) : events;
}

// The number of routes that need a person stands in the tab's title.
function titleOf(page, view) {
  if (page.route) return `${page.route} · Turnout`;
  const waiting = page.name === "overview" ? routesOf(view).filter((route) => problems(route).length).length : 0;
  const title = TITLES[page.name] ?? "Turnout";
  return `${waiting ? `(${waiting}) ` : ""}${title === "Turnout" ? title : `${title} · Turnout`}`;
}

function content(state) {
  const { page, known, refused, broken } = state;
  const needsView = ["overview", "route"].includes(page.name);
  if (page.name === "nowhere") return refusedPage("No such page", "The dashboard has no page at this address.");
  if (broken) return refusedPage("This page can't be drawn", broken.message);
  if (refused)
    return refusedPage(
      refused.status === 403 ? "This key may not see this" : refused.status === 404 ? "No such route" : "The gateway refused",
      refused.message,
      refused.status === 404 ? "warn" : "bad"
    );
  if (needsView && !known) return [html`<h1 key="h">${page.route ?? "Routes"}</h1>`, banner(state) ?? html`<p class="empty" key="wait">Loading…</p>`];
  return [banner(state), pageOf(state)];
}

function refusedPage(title, detail, tone = "bad") {
  return [html`<h1 key="h">${title}</h1>`, notice(tone, title, detail, html`<a href=${href()}>All routes</a>`)];
}

function banner({ lost, outage, alive, now }) {
  const seen = Math.min(alive / 1000, outage?.since ?? Infinity);
  const stale = alive ? ` What you see is from ${moment(seen, now)} ${zoneName(seen)}.` : "";
  if (outage && !(lost instanceof Unreachable)) return notice("bad", "The store is unavailable", outage.message + stale);
  if (!lost) return null;
  if (lost.status === 401)
    return notice("bad stale", "Your login has ended", "What you typed stays here.", html`<a href=${loginAddress()} target="_blank">Log in in another tab</a>`);
  return notice("bad stale", "The gateway can't be reached", `${lost.message}${stale} Trying again…`);
}

const silent = ({ now, heard }) => now * 1000 - heard > SILENCE_MS;

function pageOf(state) {
  const { page, view, events, now, session, lost, outage } = state;
  const given = { page, now, session, events };
  const stale = Boolean(lost) || silent(state);
  switch (page.name) {
    case "overview":
      return html`<${Overview} key="overview" view=${view} now=${now} session=${session} stale=${stale} away=${Boolean(outage)} />`;
    case "route":
      return html`<${RoutePage} key=${page.route} report=${view} stale=${stale} away=${Boolean(outage)} ...${given} />`;
    case "shadow":
      return html`<${ShadowPage} key="shadow" ...${given} />`;
    case "outcomes":
      return html`<${OutcomesPage} key="outcomes" routes=${routesOf(view).map((one) => one.route)} ...${given} />`;
    case "decision":
      return html`<${DecisionPage} key="decision" ...${given} />`;
    case "config":
      return html`<${ConfigPage} key="config" ...${given} />`;
    case "terms":
      return html`<${TermsPage} key="terms" />`;
    default:
      return html`<${EventsPage} key="events" ...${given} />`;
  }
}

function TopBar({ page, session, lost, outage, heard, now, onLeave }) {
  const links = [
    ["", "Routes", ["overview", "route", "shadow"]],
    ["outcomes", "Outcomes", ["outcomes", "decision"]],
    ["events", "Events", ["events"]],
    ...(seesConfig(session) ? [["config", "Configuration", ["config"]]] : [])
  ];
  const [cls, text] = lost ? ["off", "Unreachable"] : outage ? ["off", "Not updated"] : silent({ now, heard }) ? ["", "Connecting"] : ["on", "Live"];
  return html`<header class="top">
    <a class="brand" href=${href()} aria-label="Turnout">${mark()}<span>Turnout</span></a>
    <nav aria-label="Pages">${links.map(([path, title, names]) => html`<a key=${title} href=${path ? href(path) : href()} aria-current=${names.includes(page.name) ? "page" : null}>${title}</a>`)}</nav>
    <div class="spacer"></div>
    <span class=${`live ${cls}`} role="status"><span class="dot" aria-hidden="true"></span>${text}<span class="clock"> · ${clockTime(now)} ${zoneName(now)}</span></span>
    <a class="quiet" href=${href("terms")} title="Terms and keys ( ? )" aria-label="Terms and keys" aria-current=${page.name === "terms" ? "page" : null}>?</a>
    <${ThemeButton} />
    ${session?.auth && html`<button class="quiet" type="button" title=${`Logged in with the key ${session.id}`} onClick=${onLeave}>Log out</button>`}
  </header>`;
}

// The key "?" leads to what the words mean.
function toTerms(event) {
  if (event.key === "?" && !typed(event)) visit(href("terms"));
}

function mark() {
  return html`<svg viewBox="0 0 32 32" width="24" height="24" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#1f6feb" /><g fill="none" stroke-linecap="round" stroke-width="3"><path d="M6 21h20" stroke="#fff" /><path d="M6 21h6c6 0 6-10 12-10h2" stroke="#9cc7ff" /></g></svg>`;
}

const THEMES = { undefined: ["dark", "◐", "System theme"], dark: ["light", "●", "Dark theme"], light: [undefined, "○", "Light theme"] };

class ThemeButton extends Component {
  render() {
    const [next, sign, title] = THEMES[document.documentElement.dataset.theme];
    const turn = () => {
      if (next) document.documentElement.dataset.theme = next;
      else delete document.documentElement.dataset.theme;
      remember(next);
      this.forceUpdate();
    };
    return html`<button class="quiet" type="button" title=${`${title}; click to change`} aria-label=${`${title}; change`} onClick=${turn}>${sign}</button>`;
  }
}

function remember(theme) {
  try {
    localStorage.setItem("turnout", JSON.stringify({ theme }));
  } catch {
    // A browser that keeps nothing still shows everything.
  }
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem("turnout") ?? "{}").theme;
  } catch {
    return undefined;
  }
}

const theme = remembered();
if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
render(html`<${App} />`, document.getElementById("app"));
