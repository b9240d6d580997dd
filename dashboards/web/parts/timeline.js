// Where a rollout stands among its stages.

import { ago, clockTime, count, counted, kind, seconds, share } from "../core/format.js";
import { bounded, reasonOf, STATES, sentence } from "../core/words.js";
import { html } from "../vendor/preact.js";
import { badge, explained, section } from "./basics.js";

const TONES = { running: "", waiting: "warn", paused: "warn", halted: "bad", promoted: "good", rolled_back: "bad" };
const PHASES = { shadow: "as a shadow", bandit: "as a bandit" };

export function timeline(report, now) {
  const found = report.rollout;
  if (!found) return null;
  const note = report.candidate && `${report.candidate} against ${report.baseline}`;
  return section("rollout", "Rollout", note, html`<div class="rollout">${state(report, found, now)}${stages(report, found)}</div>`);
}

function state(report, found, now) {
  const weight = found.phase !== "shadow" && found.weight !== null && found.weight !== undefined;
  const since = found.since && `since ${clockTime(found.since)} (${ago(found.since, now)})`;
  const reason = reasonOf({ actor: found.decided?.actor, reason: found.reason });
  const more = [since, reason, progress(found, now)].filter(Boolean).join(" · ");
  return html`<p class="rollout-state">${badge(STATES[found.state] ?? sentence(found.state), TONES[found.state] ?? "")}
    ${found.state !== "promoted" && PHASES[found.phase] && html`<span>${PHASES[found.phase]}</span>`}
    ${weight && html`<span>${share(found.weight)} of the traffic goes to ${report.candidate ?? "the candidate"}</span>`}
    <span class="note">${explained(more)}</span></p>`;
}

function progress(found, now) {
  if (found.state !== "running") return found.bake_until > now ? `watched for ${seconds(found.bake_until - now)} more` : "";
  const parts = [];
  const open = (found.verdicts ?? []).filter((v) => v.verdict === "inconclusive").map((v) => v.metric);
  const over = `the stage's time is over${open.length ? `, waiting for a verdict on ${open.join(", ")}` : ""}`;
  if (found.stage_ends) parts.push(found.stage_ends > now ? `${seconds(found.stage_ends - now)} of this stage left` : over);
  if (found.min_samples) parts.push(`${count(found.samples)} of ${counted(found.min_samples, found.phase === "shadow" ? "comparison" : "request")}`);
  return parts.join(", ");
}

// No stage runs once a rollout has ended, so none is "now". It ends in its bake after all stages.
function stages({ stages: all, candidate, metrics }, found) {
  if (!all) return null;
  const gate = found.phase === "shadow" && (found.verdicts ?? []).find((one) => one.metric === "agreement");
  const over = found.state === "promoted";
  const bandit = found.phase === "bandit";
  const ended = ["rolled_back", "halted"].includes(found.state);
  const baking = ended && found.decided?.source === "promoted";
  const asked = found.state === "waiting" ? found.leads_to?.confirm?.stage : null;
  const place = (k) => (over || baking || bandit || k < found.stage ? "done" : k > found.stage ? "ahead" : ended ? "failed" : "now");
  return html`<ol class="stages" aria-label="Stages">
    ${gate && html`<li class=${ended ? "failed" : "now"} key="gate" aria-current=${ended ? null : "step"}><b>shadow</b><small>${candidate} agrees in ${bounded(gate, kind(gate.metric, metrics))}${ended && ", ended here"}</small></li>`}
    ${all.map((stage, k) => {
      const says = [
        stage.for > 0 && seconds(stage.for),
        stage.min_samples > 0 && counted(stage.min_samples, "request"),
        stage.confirm && (asked === k ? "waits for you" : place(k) === "ahead" && "confirmed by a person"),
        place(k) === "failed" && "ended here"
      ]
        .filter(Boolean)
        .join(", ");
      return html`<li key=${k} class=${place(k)} aria-current=${place(k) === "now" ? "step" : null}><b>${share(stage.weight)}</b><small>${says}</small></li>`;
    })}
    ${bandit && html`<li class=${over || baking ? "done" : ended ? "failed" : "now"} key="bandit" aria-current=${over || ended ? null : "step"}><b>bandit</b><small>by what it earns</small></li>`}
    <li class=${over ? "done" : baking ? "failed" : "ahead"} key="end"><b>100%</b><small>promoted${baking && ", ended here"}</small></li>
  </ol>`;
}
