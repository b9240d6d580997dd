// Where a rollout stands: its stages, and what each guardrail says, against its limit.

import { h } from "../dom.js";
import { ago, count, estimate, milliseconds, none, seconds, share, significant } from "../format.js";
import { STATES, VERDICTS, sentence } from "../words.js";
import { badge, section } from "./parts.js";

const TONES = { running: "", waiting: "warn", paused: "warn", halted: "bad", promoted: "good", rolled_back: "bad" };
const PHASES = { shadow: "as a shadow", bandit: "as a bandit" };
const VERDICT_TONES = { pass: "good", fail: "bad", inconclusive: "", error: "warn" };

export function rolloutView(report, now) {
  const found = report.rollout;
  if (!found) return null;
  return section(
    "rollout",
    "Rollout",
    report.candidate && `${report.candidate} against ${report.baseline}`,
    h("div", { class: "rollout" }, state(report, found, now), stages(report.stages, found), verdicts(report, found.verdicts)),
  );
}

function state(report, found, now) {
  const weight = found.weight !== null && found.weight !== undefined;
  return h(
    "p",
    { class: "rollout-state" },
    badge(STATES[found.state] ?? sentence(found.state), TONES[found.state] ?? ""),
    PHASES[found.phase] && h("span", {}, PHASES[found.phase]),
    weight && h("span", {}, `${share(found.weight)} of the traffic goes to ${report.candidate ?? "the candidate"}`),
    h("span", { class: "note" }, [found.since && `since ${ago(found.since, now)}`, found.reason, progress(found, now)].filter(Boolean).join(" · ")),
  );
}

function progress(found, now) {
  if (found.state !== "running") return found.bake_until > now ? `watched for ${seconds(found.bake_until - now)} more` : "";
  const parts = [];
  if (found.stage_ends) parts.push(found.stage_ends > now ? `${seconds(found.stage_ends - now)} of this stage left` : "the stage's time is over");
  if (found.min_samples) parts.push(`${count(found.samples)} of ${count(found.min_samples)} answers`);
  return parts.join(", ");
}

function stages(all, found) {
  if (!all) return null;
  const over = found.state === "promoted";
  const bandit = found.phase === "bandit";
  return h(
    "ol",
    { class: "stages", "aria-label": "Stages" },
    all.map((stage, k) => {
      const place = over || bandit || k < found.stage ? "done" : k === found.stage ? "now" : "ahead";
      return h(
        "li",
        { key: String(k), class: place, "aria-current": place === "now" ? "step" : null },
        h("b", {}, share(stage.weight)),
        h("small", {}, [stage.for > 0 && seconds(stage.for), stage.min_samples > 0 && `${count(stage.min_samples)} answers`].filter(Boolean).join(", ")),
      );
    }),
    bandit && h("li", { class: over ? "done" : "now", key: "bandit", "aria-current": over ? null : "step" }, h("b", {}, "bandit"), h("small", {}, "by what it earns")),
    h("li", { class: over ? "done" : "ahead", key: "end" }, h("b", {}, "100%"), h("small", {}, "promoted")),
  );
}

function verdicts(report, found) {
  if (!found?.length) return null;
  const head = ["Guardrail", "Baseline", "Candidate", "Difference", "Verdict", "What it rests on"];
  return h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      { class: "plain compare verdicts" },
      h("caption", { class: "hidden" }, "Guardrails"),
      h("thead", {}, h("tr", {}, head.map((text, k) => h("th", { scope: "col", class: k === 1 || k === 2 ? "number" : null }, text)))),
      h("tbody", {}, found.map((one, k) => verdict(report, one, k))),
    ),
  );
}

function verdict(report, one, k) {
  const [sign, text] = VERDICTS[one.verdict] ?? ["", one.verdict];
  const say = unit(report, one.metric);
  return h(
    "tr",
    { key: `${one.metric}-${k}`, "data-guardrail": one.metric },
    h("th", { scope: "row" }, one.metric, h("small", {}, limit(one, say))),
    h("td", { class: "number", "data-label": "Baseline" }, one.baseline === null || one.baseline === undefined ? none : say(one.baseline)),
    h("td", { class: "number", "data-label": "Candidate" }, one.candidate === null || one.candidate === undefined ? none : say(one.candidate)),
    h("td", { class: "estimate", "data-label": "Difference" }, difference(one, say)),
    h("td", { "data-label": "Verdict" }, badge(`${sign} ${text}`, VERDICT_TONES[one.verdict] ?? "")),
    h("td", { class: "note", "data-label": "Rests on" }, h("span", {}, rests(one))),
  );
}

// How a value of the metric is written.
function unit(report, metric) {
  if (metric.startsWith("latency_")) return milliseconds;
  const type = metric === "error_rate" || metric === "agreement" ? "fraction" : (report.metrics[metric]?.type ?? "real");
  return (x) => estimate({ mean: x, interval: null }, type).mean;
}

// A difference of shares is in percentage points.
const points = (text) => text.replace("%", " pp");

function limit(one, say) {
  if (one.limit === undefined) return "";
  switch (one.bound) {
    case "max_increase":
      return `at most ${points(say(one.limit))} more`;
    case "max_decrease":
      return `at most ${points(say(one.limit))} less`;
    case "max_ratio":
      return `at most ${significant(one.limit, 3)} times`;
    case "at_least":
      return `at least ${say(one.limit)}`;
    default:
      return `at most ${say(one.limit)}`;
  }
}

// The estimate, its always-valid interval, and the limit as a line: beyond it the guardrail fails.
function difference(one, say) {
  if (one.estimate === null || one.estimate === undefined) return h("span", { class: "thin" }, none);
  const write = one.bound === "max_ratio" ? (x) => `×${significant(x, 3)}` : one.bound?.startsWith("max") ? (x) => (x > 0 ? "+" : "") + points(say(x)) : say;
  const line = one.bound === "max_decrease" ? -one.limit : one.limit;
  const ends = (one.interval ?? [one.estimate, one.estimate]).map((end, k) => end ?? (k ? Infinity : -Infinity));
  const known = [...ends.filter(Number.isFinite), one.estimate, line];
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const air = (most - least || Math.abs(most) || 1) * 0.12;
  const at = (x) => `${Math.min(100, Math.max(0, ((x - least + air) / (most - least + 2 * air)) * 100))}%`;
  const words = one.interval ? ends.map((end) => (Number.isFinite(end) ? write(end) : "…")).join(" – ") : "";
  return [
    h("div", { class: "estimate-text" }, write(one.estimate), h("small", {}, words)),
    h(
      "div",
      { class: "interval", role: "img", "aria-label": `${write(one.estimate)}, interval ${words}, limit ${write(line)}` },
      one.interval && h("div", { class: "interval-bar", style: { left: at(ends[0]), right: `calc(100% - ${at(ends[1])})`, background: "var(--soft)" } }),
      h("div", { class: "interval-mean", style: { left: at(one.estimate), background: "var(--text)" } }),
      h("div", { class: "interval-limit", style: { left: at(line) }, title: `limit ${write(line)}` }),
    ),
  ];
}

function rests(one) {
  const more = one.more_requests === null || one.more_requests === undefined ? "" : `about ${count(one.more_requests)} more requests${one.minutes ? `, ${seconds(one.minutes * 60)} at the present rate` : ""}`;
  const samples = one.samples ? `${count(one.samples)} samples` : "";
  return [one.message, one.reason, samples, more].filter(Boolean).join(" · ");
}
