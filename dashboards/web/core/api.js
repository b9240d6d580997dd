// Calls of the control API. Everything is found from this script's own address, so that a proxy may serve the
// gateway below a path of its own.

import { typing } from "./drafts.js";

const SELF = document.currentScript.src;
export const HOME = new URL(".", SELF).pathname; // …/-/dashboard/
export const API = new URL("..", SELF).pathname; // …/-/
const TIMEOUT_MS = 10_000;

export class Refused extends Error {
  constructor(status, { code, message, faults }) {
    super(message);
    this.status = status;
    this.code = code;
    this.faults = faults ?? [];
  }
}

export class Unreachable extends Error {}

const SAME_CLOCK_MS = 30_000; // of two clocks that differ by less: the response took some of it

let ahead = 0; // ms that this computer's clock is ahead of the gateway's

// The gateway's time, in ms: all times on a page are its, and how long ago they were counts by its clock.
export const gatewayTime = () => Date.now() - ahead;

// Whether this login sees the configuration; one that is not known yet may.
export const seesConfig = (session) => !session || session.scopes.includes("config");

let token = "";
let ended = false; // another login has another token

// A change from a page carries the token that the session was given.
export function authorise(session) {
  ended = false;
  token = session.csrf ?? "";
}

export function loginAddress() {
  return `${HOME}login?${new URLSearchParams({ next: location.pathname.slice(HOME.length) + location.search })}`;
}

export async function get(path, signal, timeout) {
  return (await call(path, { headers: { accept: "application/json" }, signal, timeout })).json();
}

export async function getText(path) {
  const response = await call(path, {});
  return { text: await response.text(), etag: response.headers.get("etag"), revision: Number(response.headers.get("x-revision")) };
}

export async function post(path, body, headers = {}) {
  return send("POST", path, JSON.stringify(body), { "content-type": "application/json", ...headers });
}

export async function send(method, path, body, headers = {}) {
  if (ended) authorise(await get("dashboard/session"));
  const sent = call(path, { method, body, timeout: 2 * TIMEOUT_MS, headers: token ? { ...headers, "x-turnout-csrf": token } : headers });
  const response = await sent.catch((error) => {
    if (error instanceof Unreachable) error.message = "The gateway does not respond: whether it made the change is not known. Look again before you repeat it.";
    throw error;
  });
  return response.status === 204 ? null : response.json();
}

export async function stream(path, headers, signal) {
  return call(path, { headers: { accept: "text/event-stream", ...headers }, signal, timeout: null });
}

async function call(path, { signal, timeout = TIMEOUT_MS, ...options }) {
  const signals = [signal, timeout && AbortSignal.timeout(timeout)].filter(Boolean);
  let response;
  try {
    response = await fetch(API + path, { cache: "no-store", credentials: "same-origin", ...options, signal: AbortSignal.any(signals) });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("The gateway does not respond.");
  }
  const difference = Date.now() - Date.parse(response.headers.get("date"));
  ahead = Math.abs(difference) > SAME_CLOCK_MS ? difference : 0; // also without a date
  if (response.ok) return response;
  ended ||= response.status === 401;
  if (response.status === 401 && typing())
    throw new Refused(401, { code: "unauthenticated", message: "Your login has ended. Log in again in another tab: what you typed stays here." });
  if (response.status === 401) location.replace(loginAddress());
  const body = await response.json().catch(() => null);
  throw new Refused(response.status, body?.error ?? { code: "unknown", message: `The gateway responded with status ${response.status}.` });
}
