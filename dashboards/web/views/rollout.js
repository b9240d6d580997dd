// Where a rollout stands: its stages, and what each guardrail says.

import { h } from "../dom.js";
import { count, seconds, share } from "../format.js";
import { STATES, VERDICTS, sentence } from "../words.js";
import { badge, section } from "./parts.js";

const TONES = { running: "", waiting: "warn", paused: "warn", halted: "bad", promoted: "good", rolled_back: "bad" };
const VERDICT_TONES = { pass: "good", fail: "bad", inconclusive: "", error: "warn" };

export function rolloutView(report) {
  const found = report.rollout;
  if (!found) return null;
  return section(
    "rollout",
    "Rollout",
    report.candidate && `${report.candidate} against ${report.baseline}`,
    h(
      "div",
      { class: "rollout" },
      h(
        "p",
        { class: "rollout-state" },
        badge(STATES[found.state] ?? sentence(found.state), TONES[found.state] ?? ""),
        found.weight !== null && found.weight !== undefined && h("span", {}, `${share(found.weight)} of the traffic goes to ${report.candidate ?? "the candidate"}`),
        found.message && h("span", { class: "note" }, found.message),
      ),
      stages(report.stages, found),
      verdicts(found.verdicts),
    ),
  );
}

function stages(all, found) {
  if (!all) return null;
  const over = found.state === "promoted";
  return h(
    "ol",
    { class: "stages", "aria-label": "Stages" },
    all.map((stage, k) => {
      const state = over || k < found.stage ? "done" : k === found.stage ? "now" : "ahead";
      return h(
        "li",
        { key: String(k), class: state, "aria-current": state === "now" ? "step" : null },
        h("b", {}, share(stage.weight)),
        h("small", {}, [stage.for > 0 && seconds(stage.for), stage.min_samples > 0 && `${count(stage.min_samples)} answers`].filter(Boolean).join(", ")),
      );
    }),
    h("li", { class: over ? "done" : "ahead", key: "end" }, h("b", {}, "100%"), h("small", {}, "promoted")),
  );
}

function verdicts(found) {
  if (!found?.length) return null;
  return h(
    "table",
    { class: "plain verdicts" },
    h("caption", { class: "hidden" }, "Guardrails"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Guardrail"), h("th", { scope: "col" }, "Verdict"), h("th", { scope: "col" }, "What it rests on"))),
    h(
      "tbody",
      {},
      found.map((one, k) => {
        const [sign, text] = VERDICTS[one.verdict] ?? ["", one.verdict];
        return h(
          "tr",
          { key: `${one.metric}-${k}` },
          h("th", { scope: "row" }, one.metric),
          h("td", {}, badge(`${sign} ${text}`, VERDICT_TONES[one.verdict] ?? "")),
          h("td", { class: "note" }, one.message ?? one.reason ?? ""),
        );
      }),
    ),
  );
}
