// The figures of a route over time: what is asked for, also before the page that draws them is there.

import { get } from "./api.js";

const STEPS = [10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 86_400];
const FIELDS = "assigned,served,share,allocated,latency_ms,latency_interval_ms,rolling,rolling_error_rate,rolling_client_error_rate,to_date"; // what is drawn
const POINTS = 350;

export const rangeOf = ({ range }) => Number(range ?? 900);

// All of the period in the page's address, or only what follows the bucket that begins `after`.
export function seriesPath(route, query, after) {
  const span = query.since && query.until ? query.until - query.since : rangeOf(query);
  const period = query.since && query.until ? `since=${query.since}&until=${query.until}` : `last=${span}`;
  const step = STEPS.find((s) => s >= span / POINTS) ?? STEPS.at(-1);
  const tail = after === undefined ? "" : `&after=${after}`;
  return `routes/${encodeURIComponent(route)}/series?${period}&step=${step}&fields=${FIELDS}${tail}`;
}

let early = null; // {path, asked}

// Asks for them while the report of the route and the script of the page are on their way.
export function askEarly(route, query) {
  const path = seriesPath(route, query);
  early = { path, asked: get(path) };
  early.asked.catch(() => {}); // told to who takes it
}

export function getSeries(path, signal) {
  const found = early?.path === path ? early.asked : get(path, signal);
  early = null;
  return found;
}
