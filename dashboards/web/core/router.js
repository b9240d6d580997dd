// Where we are: real paths below the dashboard's own, and everything of the view in the query.

import { HOME } from "./api.js";

const PAGES = [
  ["overview", /^$/, []],
  ["route", /^routes\/([^/]+)(?:\/(time|health|history))?$/, ["route", "tab"]],
  ["shadow", /^routes\/([^/]+)\/shadow\/([^/]+)$/, ["route", "shadow"]],
  ["outcomes", /^outcomes$/, []],
  ["decision", /^decisions\/([^/]+)$/, ["decision"]],
  ["config", /^config$/, []],
  ["events", /^events$/, []],
  ["terms", /^terms$/, []]
];

export function here(pathname = location.pathname, search = location.search) {
  const path = pathname.startsWith(HOME) ? pathname.slice(HOME.length) : "";
  for (const [name, pattern, names] of PAGES) {
    const found = path.match(pattern);
    if (!found) continue;
    const parts = names.map((key, k) => [key, found[k + 1] === undefined ? null : unescaped(found[k + 1])]);
    return { name, path, query: Object.fromEntries(new URLSearchParams(search)), ...Object.fromEntries(parts) };
  }
  return { name: "nowhere", path, query: {} };
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch (_error) {
    return text; // not as a browser writes it: there is no route of this name
  }
}

// The address of a page: href("routes", name, "time") with its parts escaped; a last object is the query.
export function href(...parts) {
  const query = typeof parts.at(-1) === "object" ? parts.pop() : {};
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  return HOME + parts.map(encodeURIComponent).join("/") + search;
}

let listener = () => {};

// Calls `onVisit` whenever the address changed, and follows links within the dashboard without loading the page again.
export function follow(onVisit) {
  listener = onVisit;
  addEventListener("popstate", () => listener());
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || link.target || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (link.origin !== location.origin || here(link.pathname).name === "nowhere" || link.hash) return;
    if (!link.pathname.startsWith(HOME)) return;
    event.preventDefault();
    visit(link.pathname + link.search);
  });
}

// Whether a key was typed into something, or means something to the browser.
export const typed = (event) => event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog") !== null;

export function visit(address) {
  history.pushState(null, "", address);
  listener();
}

// Changes the query: null takes a name out. The page stays. `undoable`: the browser's Back leads to the query before.
export function choose(changes, undoable = false) {
  const query = { ...here().query, ...changes };
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const address = location.pathname + (given.length ? `?${new URLSearchParams(given)}` : "");
  if (undoable) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  listener();
}
