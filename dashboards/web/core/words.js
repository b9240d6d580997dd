// What the figures say, in sentences. A claim rests on an always-valid interval, never on a probability alone.

import { count, counted, difference, estimate, kind, loss, milliseconds, moment, seconds, share, significant } from "./format.js";

export const FEW = 30; // rewards of a variant below which an undecided metric is called thin

export const POLICIES = { single: "Single variant", split: "Fixed split", shadow: "Shadow", canary: "Canary", bandit: "Bandit" };

export const STATES = { running: "Running", waiting: "Waiting for you", paused: "Paused", halted: "Halted", promoted: "Promoted", rolled_back: "Rolled back" };

export const VERDICTS = { pass: ["✓", "pass"], fail: ["✕", "fail"], inconclusive: ["?", "can't tell yet"], error: ["!", "no verdict"] };

const TONES = { running: "open", waiting: "warn", paused: "thin", promoted: "good", halted: "bad", rolled_back: "bad" };
const ENDED = ["rolled_back", "halted", "promoted"];

// What went wrong, by the codes of docs/errors.md; the API and the log have the codes.
const ERRORS = {
  backend_connect: "unreachable",
  backend_connect_timeout: "connecting took too long",
  backend_tls: "TLS handshake failed",
  backend_overloaded: "at its limit of requests",
  backend_unhealthy: "no healthy address",
  backend_first_byte_timeout: "no response in time",
  backend_stalled: "stopped responding",
  backend_total_timeout: "response took too long",
  backend_reset: "connection closed before a response",
  backend_protocol: "response is not valid HTTP",
  backend_status: "error status",
  backend_idle_timeout: "response stalled",
  backend_truncated: "response broke off"
};

export const errorWords = (code) => ERRORS[code] ?? code.replaceAll("_", " ");

// A message of the gateway, which names errors by their codes.
export const inWords = (message) => message.replace(/\bbackend_\w+/g, errorWords);

// {tone, title, detail} of a route: tone is one of good, open, warn, bad, thin.
export function standing(report) {
  const failing = deadVariant(report);
  if (failing) return failing;
  if (report.rollout && report.candidate) return rollout(report);
  if (report.policy === "shadow") return agreement(report);
  return contest(report);
}

// A variant that traffic is sent to and none of whose addresses serves.
export function deadVariant(report) {
  for (const [name, addresses] of Object.entries(report.health)) {
    if (!(report.allocation[name] > 0) || !addresses.length) continue;
    if (!addresses.every((one) => one.state === "failing" || one.state === "unhealthy")) continue;
    const run = addresses.find((one) => one.failing)?.failing;
    const alarm = report.alarms.find((alarm) => ofVariant(alarm, name))?.since ?? Infinity;
    const at = (since) => moment(since, report.as_of);
    const since = run && (alarm < run.since ? `in alarm since ${at(alarm)}` : `each attempt since ${at(run.since)} failed`);
    const detail = run ? `${sentence(errorWords(run.error))}: ${since}.` : "Its probes fail.";
    return { tone: "bad", variant: name, title: `${name} does not serve`, detail };
  }
  return null;
}

// Whether an alarm says that the variant fails.
export const ofVariant = ({ code, message }, name) => code === "variant_failing" && message.startsWith(`${name} `);

// The verdicts to show: those of now, or, once the rollout has ended, those that decided.
export function verdictsOf(found) {
  const ended = ENDED.includes(found.state) && !found.bake_until && found.decided?.target === found.state;
  return { verdicts: found.verdicts ?? [], frozen: ended ? found.decided : null };
}

// An alarm's message is of the moment at which it was raised.
export function alarmed({ since, message }, now) {
  return `${since ? `Since ${moment(since, now)}: ` : ""}${inWords(message)}`;
}

// What a canary's gate asks of its candidate as a shadow.
export function gateOf(report) {
  const asked = report.rollout && verdictsOf(report.rollout).verdicts.find((one) => one.metric === "agreement");
  return asked?.limit ?? null;
}

// The verdict with which client errors that no guardrail is on hold a stage.
export const heldOf = (found) => verdictsOf(found).verdicts.find(({ reason }) => reason?.startsWith("client errors: "));

function rollout(report) {
  const found = report.rollout;
  const { verdicts, frozen } = verdictsOf(found);
  const tone = TONES[found.state] ?? "thin";
  const name = report.candidate;
  const state = STATES[found.state] ?? sentence(found.state);
  // Its share is 0 a moment before that is published.
  const given = found.state === "rolled_back" ? ended(found, name) : `${state}: ${name} has ${share(report.allocation[name] ?? 0)} of the traffic`;
  const told = (wanted) => verdicts.filter((v) => v.verdict === wanted);
  if (frozen) return { tone, title: found.state === "promoted" ? given : ended(found, name), detail: why(frozen, told("fail"), report) };
  const title = found.phase === "shadow" ? `${state} as a shadow: ${agreed(report, name)}` : given;
  if (told("fail").length)
    return {
      tone: "bad",
      title,
      detail: `Over its limit: ${told("fail")
        .map((v) => failure(v, report))
        .join("; ")}.`
    };
  if (told("error").length)
    return {
      tone: "warn",
      title,
      detail: `No verdict on ${told("error")
        .map((v) => v.metric)
        .join(", ")}: ${told("error")[0].reason}`
    };
  const held = heldOf(found);
  if (held && found.state === "running") return { tone: "warn", title, detail: `${sentence(held.reason)}.` };
  if (told("inconclusive").length) return { tone, title, detail: undecided(told("inconclusive"), found) };
  if (found.state === "waiting") return { tone, title, detail: `${sentence(found.reason || "all stages are passed")}.${nextOf(found)}` };
  if (found.phase === "shadow") return { tone, title, detail: "The stages begin once the gate passes." };
  if (found.phase === "bandit" && found.state === "running") return { tone, title, detail: `${contest(report).title}.` };
  return { tone, title, detail: verdicts.length ? "All guardrails pass." : `${contest(report).title}.` };
}

// What a person can do about a rollout that does not go on by itself.
export function nextOf({ state, possible }) {
  if (state === "waiting") return possible?.includes("confirm") ? " Confirm it or roll it back." : " Promote it or roll it back.";
  return state === "paused" ? " Resume it or roll it back." : "";
}

function ended(found, name) {
  return found.state === "rolled_back" ? `Rolled back: ${name} gets no traffic` : "Halted: it waits for a person";
}

function why(step, failed, report) {
  if (failed.length) return `What decided: ${failed.map((v) => failure(v, report)).join("; ")}.`;
  const reason = reasonOf(step);
  return step.actor ? `By ${step.actor}${reason ? `: ${reason}` : ""}.` : `${sentence(reason || "no reason was kept")}.`;
}

// Why a person did it, without the command, which the state says.
export const reasonOf = ({ actor, reason }) =>
  actor ? (reason ?? "").replace(/^(rollback|pause|resume|confirm|restart|promote|set [\d.e-]+)(: | (?=\()|$)/, "") : (reason ?? "");

function undecided(verdicts, { samples = 0, min_samples = 0 }) {
  const asked = Math.max(...verdicts.map((v) => v.more_requests ?? 0));
  const most = asked && Math.max(asked, min_samples - samples);
  const minutes = asked && (Math.max(...verdicts.map((v) => v.minutes ?? 0)) * most) / asked;
  const more = most ? ` About ${counted(most, "more request")}${minutes ? `, ${seconds(minutes * 60)} at this rate` : ""}.` : "";
  return `Keep waiting: ${verdicts.map((v) => v.metric).join(", ")} ${verdicts.length > 1 ? "are" : "is"} undecided.${more}`;
}

// "error_rate +6.6 pp (limit +1 pp)"
export function failure(one, report) {
  const ratio = one.bound?.endsWith("_ratio");
  if (one.estimate === null || one.estimate === undefined) return one.metric;
  const what = kind(one.metric, report.metrics ?? {});
  if (!ratio && !one.bound?.startsWith("max_")) return `${one.metric} ${level(one.estimate, what)} (${bounded(one, what)})`;
  if (ratio) return `${one.metric} ×${significant(one.estimate, 3)} (limit ×${significant(one.limit, 3)})`;
  const limit = one.bound === "max_decrease" ? -one.limit : one.limit;
  return `${one.metric} ${difference(one.estimate, one.interval, what).text} (limit ${difference(limit, null, what).text})`;
}

// "at least 98%": a bound on a level, not on a difference.
export function bounded(one, what) {
  return `${one.bound === "at_least" ? "at least" : "at most"} ${level(one.limit, what)}`;
}

export function level(value, what) {
  return what === "ms" ? milliseconds(value) : estimate({ mean: value, interval: null }, what).mean;
}

// "v2 agrees in 98.2% of 111 responses"
export function agreed(report, name) {
  const found = report.agreement?.[name];
  if (!found?.compared) return `no response of ${name} is compared yet`;
  return `${name} agrees in ${estimate({ mean: found.rate, interval: found.interval }, "fraction").mean} of ${counted(found.compared, "response")}`;
}

function agreement(report) {
  const all = Object.entries(report.agreement ?? {});
  if (!all.length) return thin("No shadow is configured", "Add one under 'shadows'; its responses reach no client.");
  const compared = all.filter(([, one]) => one.compared > 0);
  if (!compared.length) return thin("Nothing compared yet", "Each copied request is compared with what the client got.");
  const detail = "Always-valid 95% intervals below. Shadows' responses reach no client.";
  return { tone: "open", title: compared.map(([name]) => agreed(report, name)).join(", "), detail };
}

/** The observed difference is too large on average, because the winner was named for it; the shrunk one less so. */
function lead(stop) {
  if (!stop.lead) return "";
  const { difference, over, shrunk } = stop.lead;
  return `Expect a lead of at most about ${significant(shrunk, 2)} over ${over} (shrunk from ${significant(difference, 2)}). `;
}

export function contest(report) {
  if (report.contextual) return dependsOnRequest(report);
  const stop = report.stop;
  if (stop?.state === "handed_over") return { tone: "good", title: `${stop.winner} has won and gets everything`, detail: `To take that back: ${stop.command}` };
  if (stop?.state === "asking")
    return {
      tone: "warn",
      title: `The stop rule names ${stop.winner} the winner`,
      detail: `${[...claims(report), ""].join("; ").replace(/; $/, ". ")}${lead(stop)}To hand over: ${stop.command}`
    };
  const metrics = Object.keys(report.standings);
  if (!metrics.length) return withoutContest(report);
  if (metrics.length > 1) return scorecard(report, metrics);
  return oneMetric(report, metrics[0]);
}

function oneMetric(report, metric) {
  const found = report.standings[metric];
  const { leader, against, leads } = found;
  const said = difference(found.difference.absolute, found.difference.interval, kind(metric, report.metrics));
  const detail = `${leader} − ${against}: ${said.text} (${said.interval ? `${said.interval}, always valid` : "no interval yet"}).`;
  const few = thinOnes(report, metric);
  if (leads) return { tone: "good", title: `${leader} is ${goal(report, metric)} in ${metric}`, detail };
  if (few.length) return thin("Too few rewards to tell", `Each variant needs about ${FEW}; ${few.map(([name, n]) => `${name} has ${count(n)}`).join(", ")}.`);
  return { tone: "open", title: `No difference is shown in ${metric} yet`, detail };
}

// With several metrics no variant has won until a person weighs them.
function scorecard(report, metrics) {
  const said = claims(report);
  if (!said.length) {
    const few = metrics.every((metric) => thinOnes(report, metric).length);
    if (few) return thin("Too few rewards to tell", `Each variant needs about ${FEW} in each metric.`);
    return { tone: "open", title: `No difference is shown in ${metrics.join(", ")} yet`, detail: "The intervals of all differences include zero." };
  }
  const leaders = new Set(metrics.filter((m) => report.standings[m].leads).map((m) => report.standings[m].leader));
  const trailers = new Set(metrics.filter((m) => report.standings[m].trails).map((m) => report.standings[m].last));
  const clear = leaders.size === 1 && metrics.every((m) => report.standings[m].leads) && ![...leaders].some((v) => trailers.has(v));
  return {
    tone: clear ? "good" : "open",
    title: said.join(", "),
    detail: clear ? "Best in every reported metric." : "Several metrics: weighing them is up to you."
  };
}

// "huge is best in rating and speed", "huge is worst in cost": what is shown, whatever the metric.
function claims(report) {
  const found = new Map();
  const claim = (text, metric) => found.set(text, [...(found.get(text) ?? []), metric]);
  for (const [metric, one] of Object.entries(report.standings)) {
    if (one.leads) claim(`${one.leader} is ${goal(report, metric)}`, metric);
    if (one.trails && !(one.leads && Object.keys(report.variants).length === 2)) claim(`${one.last} is worst`, metric);
  }
  return [...found].map(([text, metrics]) => `${text} in ${metrics.join(", ").replace(/, ([^,]*)$/, " and $1")}`);
}

function goal(report, metric) {
  return taking(report, metric).length > 2 ? "best" : "better";
}

function taking(report, metric) {
  return Object.entries(report.variants).filter(([, v]) => v.rewards[metric]?.count > 0);
}

function thinOnes(report, metric) {
  return taking(report, metric)
    .map(([name, v]) => [name, Math.floor(v.rewards[metric].observations)])
    .filter(([, n]) => n < FEW);
}

function dependsOnRequest({ contextual, metric }) {
  const seen = contextual.features.join(", ");
  const learned = Object.values(contextual.rewards).reduce((a, b) => a + b, 0);
  if (!learned) return thin("Nothing learned yet", `Shares are even until ${metric} is reported; then they follow ${seen}.`);
  const detail = `Shares follow ${seen}; the averages below are over the requests that each variant got, which differ.`;
  return { tone: "open", title: "Which variant is best depends on the request", detail };
}

function withoutContest(report) {
  const several = Object.keys(report.allocation).length > 1;
  const rewarded = Object.keys(report.metrics).some((metric) => taking(report, metric).length);
  if (!several && !report.uses.length) return thin("One variant serves everything", "There is nothing to compare it with; its errors and latency are below.");
  if (!rewarded && !report.uses.length)
    return thin("No rewards are reported", "Variants are compared by errors and latency. Report a metric with POST /-/feedback to compare by it.");
  if (!rewarded) return thin("No rewards yet", `Report ${report.uses.join(", ")} with POST /-/feedback, and the variants can be compared.`);
  if (!several) return thin("One variant only", "There is nothing to compare it with.");
  return thin("Nothing to compare yet", "Only one variant has rewards so far.");
}

function thin(title, detail) {
  return { tone: "thin", title, detail };
}

// The metrics worth a row: those with a reward, and those that the route itself names.
export function metricsOf(report) {
  return Object.entries(report.metrics).filter(([name]) => report.uses.includes(name) || taking(report, name).length);
}

// An expected loss of choosing the variant now, or nothing.
export function lossOf(report, variant) {
  const metric = report.metrics[report.metric];
  return loss(variant.expected_loss, metric?.type ?? "real", metric ? variant.rewards[report.metric].interval : null);
}

export function event(one) {
  const data = one.data ?? {};
  switch (one.kind) {
    case "allocation": {
      const shares = Object.entries(data.allocation ?? {}).map(([name, p]) => `${name} ${share(p)}`);
      return ["Allocation", `${shares.join(" · ")}${data.reason ? ` (${data.reason})` : ""}`];
    }
    case "rollout":
      return ["Rollout", data.target ? step(data) : (data.message ?? plain(data))];
    case "guardrail":
      return ["Guardrail", `${data.variant}: ${data.reason}`];
    case "steered":
      return [
        "Steered",
        [
          `${data.action}${data.weight === null || data.weight === undefined ? "" : ` ${share(data.weight)}`}`,
          data.reason,
          data.by && `by ${data.by}`,
          ...trail(data)
        ]
          .filter(Boolean)
          .join(" · ")
      ];
    case "winner":
      return ["Winner", winner(data)];
    case "config":
      return ["Configuration", [`revision ${data.revision} by ${data.author}`, because(data.origin)].filter(Boolean).join(" · ")];
    case "config_refused":
      return ["Configuration refused", String(data.error ?? "")];
    case "alarm":
      return [sentence(data.code ?? "alarm"), inWords(data.message ?? "")];
    case "alarm_over":
      return ["Alarm over", sentence(data.code ?? "")];
    case "note":
      return ["Note", `${data.text ?? ""}${data.author ? ` · by ${data.author}` : ""}`];
    case "health":
    case "ejection":
      return [`${sentence(data.state ?? one.kind)}`, [data.backend, data.address, inWords(data.reason ?? "")].filter(Boolean).join(" · ")];
    default:
      return [sentence(one.kind), data.message ?? plain(data)];
  }
}

// Why a person made a revision: its origin ends with that.
export const because = (origin = "") => (origin.startsWith("restore of revision ") ? origin : origin.startsWith("PUT: ") ? origin.slice(5) : "");

function winner({ before, state, winner: name, by, command, ...data }) {
  const from = ["", ...trail(data)].join(" · ");
  if (state === "learning") return `${before === "handed_over" ? "taken back" : "no longer clear"}, by ${by}${from}`;
  return `${name} ${state === "asking" ? `has won; to hand over: ${command}` : `gets everything, by ${by}${from}`}`;
}

// Where a person steered from; only for those who may steer.
function trail({ session, address }) {
  return [session && `session ${session}`, address && `from ${address}`].filter(Boolean);
}

function step({ source, target, phase, stage, weight, actor, ...data }) {
  const name = (state) => (STATES[state] ?? sentence(state)).toLowerCase();
  const moved = source && source !== target ? `${name(source)} → ${name(target)}` : `${name(target)}, ${phase === "bandit" ? phase : `stage ${stage + 1}`}`;
  return [moved, weight !== undefined && `${share(weight)} of the traffic`, reasonOf({ actor, ...data }), actor && `by ${actor}`, ...trail(data)]
    .filter(Boolean)
    .join(" · ");
}

export function sentence(text) {
  const spaced = String(text).replaceAll("_", " ");
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

function plain(data) {
  return Object.entries(data)
    .map(([key, value]) => `${key.replaceAll("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(" · ");
}

// How a request ended, for its client.
export function outcome(one) {
  if (one.status === 0) return `${one.assigned} for the client to use`;
  if (one.fallback) return `${one.served} served it instead`;
  if (one.status < 400) return one.served ? `${one.served} served it` : "a fixed response served it";
  return `the client got the ${one.status}`;
}
