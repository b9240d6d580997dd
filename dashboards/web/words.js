// What the figures say, in sentences; careful ones while the data are thin.

import { count, loss, probability, share } from "./format.js";

export const FEW = 30; // rewards of a variant below which nothing is claimed
const CLEAR = 0.95;

export const POLICIES = {
  single: "Single variant",
  split: "Fixed split",
  shadow: "Shadow",
  canary: "Canary",
  bandit: "Bandit",
};

export const STATES = {
  running: "Running",
  waiting: "Waiting for you",
  paused: "Paused",
  halted: "Halted",
  promoted: "Promoted",
  rolled_back: "Rolled back",
};

export const VERDICTS = {
  pass: ["✓", "pass"],
  fail: ["✕", "fail"],
  inconclusive: ["?", "can't tell yet"],
  error: ["!", "could not look"],
};

// {tone, title, detail}: tone is one of good, open, thin.
export function standing(report) {
  return report.rollout && report.candidate ? rollout(report) : contest(report);
}

const ROLLOUT_TONES = { running: "open", promoted: "good", halted: "bad", rolled_back: "bad" };

function rollout(report) {
  const { state, phase, verdicts } = report.rollout;
  const tone = ROLLOUT_TONES[state] ?? "thin";
  const title = `${STATES[state] ?? sentence(state)}: ${report.candidate} has ${share(report.allocation[report.candidate] ?? 0)} of the traffic`;
  const told = (wanted) => (verdicts ?? []).filter((v) => v.verdict === wanted).map((v) => v.metric).join(", ");
  if (told("fail")) return { tone: "bad", title, detail: `A guardrail fails: ${told("fail")}.` };
  if (told("error")) return { tone: "thin", title, detail: `A guardrail could not be looked at: ${told("error")}.` };
  if (told("inconclusive")) return { tone, title, detail: `Too early to tell: ${told("inconclusive")}.` };
  if (phase === "bandit" && state === "running") return { tone, title, detail: contest(report).title + "." };
  return { tone, title, detail: verdicts?.length ? "All guardrails pass." : contest(report).title + "." };
}

function contest(report) {
  const names = Object.keys(report.metrics);
  if (!names.length) {
    return thin("No reward metric is declared", "Variants can be compared by errors and latency only.");
  }
  if (report.contextual) return dependsOnRequest(report);
  const taking = Object.entries(report.variants).filter(([, v]) => v.probability_best !== null);
  if (!report.metric || taking.length < 2) return withoutContest(report, names);
  const single = report.metric in report.metrics ? report.metric : null;
  const rewards = ([, v]) => (single ? Math.floor(v.rewards[single].observations) : leastRewards(v));
  const few = taking.filter((one) => rewards(one) < FEW);
  if (few.length) {
    const listed = few.map((one) => `${one[0]} has ${count(rewards(one))}`).join(", ");
    return thin("Too few rewards to tell", `Each variant needs about ${FEW}; ${listed}.`);
  }
  const [name, best] = taking.reduce((a, b) => (b[1].probability_best > a[1].probability_best ? b : a));
  const odds = probability(best.probability_best);
  const type = single ? report.metrics[single].type : "real";
  const cost = loss(best.expected_loss, type).replace("<", "less than ");
  const risk = `If you chose ${name} now, you would expect to lose ${cost} of ${report.metric}.`;
  if (report.stop?.winner) return settled(report.stop, odds, risk);
  if (best.probability_best >= CLEAR) {
    return { tone: "good", title: `${name} is best with ${odds} probability`, detail: risk };
  }
  return { tone: "open", title: `No clear winner yet: ${name} leads with ${odds}`, detail: risk };
}

// A bandit's stop rule has named its winner.
function settled({ state, winner, command }, odds, risk) {
  if (state === "handed_over") return { tone: "good", title: `${winner} has won and gets everything`, detail: `To take that back: ${command}` };
  return { tone: "good", title: `${winner} has won: it is best with ${odds} probability`, detail: `${risk} To hand over: ${command}` };
}

function dependsOnRequest({ contextual, metric }) {
  const seen = contextual.features.join(", ");
  const learned = Object.values(contextual.rewards).reduce((a, b) => a + b, 0);
  if (!learned) return thin("Nothing learned yet", `Shares are even until ${metric} is reported; then they follow ${seen}.`);
  const detail = `Shares follow ${seen}; the averages below are over the requests that each variant got, which differ.`;
  return { tone: "open", title: "Which variant is best depends on the request", detail };
}

function withoutContest(report, names) {
  const rewarded = Object.values(report.variants).some((v) => names.some((n) => v.rewards[n].count > 0));
  if (!rewarded) {
    return thin("No rewards yet", `Report ${names.join(", ")} through POST /-/feedback, and the variants can be compared.`);
  }
  if (Object.keys(report.variants).length < 2) return thin("One variant only", "There is nothing to compare it with.");
  return thin("Nothing to compare yet", "Only one variant has rewards so far.");
}

function leastRewards(variant) {
  return Math.min(...Object.values(variant.rewards).map((r) => Math.floor(r.observations)));
}

function thin(title, detail) {
  return { tone: "thin", title, detail };
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
    case "winner":
      return ["Winner", winner(data)];
    case "config":
      return ["Configuration", `revision ${data.revision} by ${data.author}`];
    case "config_refused":
      return ["Configuration refused", String(data.error ?? "")];
    default:
      return [sentence(one.kind), data.message ?? plain(data)];
  }
}

function winner({ before, state, winner: name, by, command }) {
  if (state === "learning") return `${before === "handed_over" ? "taken back" : "no longer clear"}, by ${by}`;
  return `${name} ${state === "asking" ? `has won; to hand over: ${command}` : `gets everything, by ${by}`}`;
}

function step({ source, target, phase, stage, weight, actor, reason }) {
  const name = (state) => (STATES[state] ?? sentence(state)).toLowerCase();
  const moved = source && source !== target ? `${name(source)} → ${name(target)}` : `${name(target)}, ${phase === "bandit" ? phase : `stage ${stage + 1}`}`;
  return [moved, `${share(weight)} of the traffic`, reason, actor && `by ${actor}`].filter(Boolean).join(" · ");
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

// The metrics worth showing: those with a reward, and the policy's own; else the first, to say that it waits.
export function metricsOf(report) {
  const all = Object.entries(report.metrics);
  const used = all.filter(([name]) => name === report.metric || Object.values(report.variants).some((v) => v.rewards[name].count > 0));
  return used.length ? used : all.slice(0, 1);
}
