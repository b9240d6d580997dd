// The buttons of a rollout, for those who may: each says what will be true before it is pressed. The safe directions
// (roll back, pause) act immediately.

import { post } from "../core/api.js";
import { share } from "../core/format.js";
import { failure, heldOf, STATES, sentence, verdictsOf } from "../core/words.js";
import { Ask } from "../parts/ask.js";
import { html, useState } from "../vendor/preact.js";

const NAMES = { promote: "Promote", rollback: "Roll back", pause: "Pause", resume: "Resume", confirm: "Confirm", set: "Set share", restart: "Restart" };
const OF_BANDIT = { resume: "Resume", promote: "Hand over", rollback: "Take back" };
const ORDER = ["pause", "resume", "confirm", "set", "restart", "promote", "rollback"]; // what takes everything back stands apart, at the end
const EFFECTS = {
  resume: "Guardrails are judged from then on.",
  restart: "Guardrails count only requests and rewards from then on: for a new build under the same name."
};
const ACCEPTED = "The client errors so far are accepted for this stage; clearly more of them hold it again.";
const SAFE = new Set(["rollback", "pause"]);

export function Steering({ report, ...given }) {
  const { buttons, dialog, told } = useSteering(given);
  const [shown, asked] = [buttons(report), dialog(report)];
  return [(shown || asked) && html`<div class="steering" key="steering">${shown}${asked}</div>`, told];
}

// The buttons of each route, and one question, which stays with what was typed, whatever changes: {buttons(report),
// dialog(report), asked: the route in question, told: what was done, for who does not see the buttons change}. `named`: buttons of several routes, whose names say which.
export function useSteering({ session, stale, away }, named = false) {
  const [ask, setAsk] = useState(null);
  const [error, setError] = useState(null); // {route, message}
  const [done, setDone] = useState("");

  async function act(report, action, reason, weight) {
    const body = { action, ...(weight === undefined ? {} : { weight }) };
    const sent = post(`routes/${encodeURIComponent(report.route)}/rollout`, { ...body, ...guard(report, action, reason) });
    const found = await sent.catch((refused) => {
      if (refused.status === 409) refused.message = `Nothing was changed. ${refused.message.replace("read the route again", "look again")}`;
      throw refused;
    });
    setDone(`${report.route}: ${STATES[found.state] ?? sentence(found.state)}`);
  }

  function press(report, action) {
    const { route } = report;
    setError(null);
    setDone("");
    if (SAFE.has(action)) act(report, action, "").catch(({ message }) => setError({ route, message }));
    else setAsk({ ...question(report, action, (...given) => act(report, ...given)), route, seen: stateOf(report) });
  }

  function buttons(report) {
    const may = session?.scopes?.includes("steer") && (session.routes === null || session.routes.includes(report.route));
    const possible = may ? possibleOf(report).filter((action) => !named || action !== "set") : [];
    if (!possible.length) return null;
    const names = report.rollout ? NAMES : OF_BANDIT;
    const off = (action) => stale || (away && !SAFE.has(action));
    return [
      possible.map(
        (action) =>
          html`<button key=${action} type="button" class=${action === "rollback" ? "danger" : "quiet"} aria-label=${named ? `${names[action]} ${report.route}` : null} disabled=${off(action)} onClick=${() => press(report, action)}>${names[action]}</button>`
      ),
      !ask && error?.route === report.route && html`<p class="notice bad" role="alert">${error.message}</p>`
    ];
  }

  const dialog = (report) =>
    ask &&
    html`<${Ask} key="ask" ask=${ask} moved=${ask.seen !== stateOf(report)} error=${error} onError=${(failure) => setError(failure && { route: ask.route, message: failure.message })} onClose=${() => setAsk(null)} />`;
  return { buttons, dialog, asked: ask?.route, told: html`<p class="hidden" role="status" key="done">${done}</p>` };
}

const stateOf = (report) => report?.rollout?.state ?? report?.stop?.state;

function possibleOf(report) {
  const found = report.rollout;
  if (found) return ORDER.filter((action) => found.possible?.includes(action) && !(action === "resume" && found.state === "rolled_back")); // there it restarts
  const ofWinner = { asking: ["promote"], handed_over: ["rollback"] }[report.stop?.state] ?? [];
  return report.held ? ["resume", ...ofWinner] : ofWinner;
}

// What the page saw, so that a change from a stale one is refused. A bandit's epochs follow one another each second,
// and nothing may hold up the safe directions.
function guard(report, action, reason) {
  const seen = SAFE.has(action) ? {} : { if_state: stateOf(report) };
  if (seen.if_state && report.policy === "canary" && report.rollout.phase !== "bandit") seen.if_epoch = report.epoch;
  return reason ? { ...seen, reason } : seen;
}

function question(report, action, act) {
  const name = report.candidate ?? report.stop?.winner;
  const base = report.baseline ?? "the others";
  const now = report.allocation[name] ?? 0;
  if (action === "set")
    return { title: `Set the share of ${name}`, action: "Set share", says: [], children: null, weighed: true, ...sharing(report, name, base, now, act) };
  const run = (reason) => act(action, reason);
  if (!report.rollout && action === "resume") {
    const says = [report.held, "Variants are ejected and winners are named again, despite this.", EFFECTS.resume];
    return { title: "Resume the bandit?", action: NAMES.resume, says, run };
  }
  if (!report.rollout) {
    const says = [`${name} gets 100% of the traffic (now ${share(now)}), immediately; the bandit stops.`, "It can be taken back."];
    return { title: `Hand over to ${name}?`, action: "Hand over", says, run };
  }
  const failed = verdictsOf(report.rollout).verdicts.filter((one) => action === "promote" && one.verdict === "fail");
  const failing = failed.length > 0;
  const accepts = action === "resume" && heldOf(report.rollout);
  return {
    title: { promote: `Promote ${name}?`, confirm: "Confirm the next stage?" }[action] ?? `${NAMES[action]} the rollout?`,
    action: NAMES[action],
    tone: failing ? "danger" : "",
    typed: failing ? report.route : null,
    says: [
      ...consequences(report, report.rollout.leads_to[action], name, base, now),
      failing && `Over its limit: ${failed.map((one) => failure(one, report)).join("; ")}.`,
      accepts && ACCEPTED,
      !(accepts && report.rollout.state === "running") && EFFECTS[action]
    ],
    run
  };
}

// Who gets what after an action, and how many notice.
function consequences(report, { state, phase, stage, weight }, name, base, now) {
  if (weight === null) return [`The bandit decides again what ${name} and ${base} get.`];
  const then =
    state !== "promoted"
      ? { shadow: "It is a shadow until it agrees enough.", canary: `That is stage ${stage + 1}.` }[phase]
      : weight < 1 && `When its bake is over, ${name} gets 100%.`;
  return [`${name} gets ${share(weight)} of the traffic (now ${share(now)}), ${base} ${share(1 - weight)}, immediately.`, then, moving(report, weight, now)];
}

// Without a unit each request is drawn, and no user has a variant.
function moving(report, weight, now) {
  const moved = Math.abs(weight - now);
  return report.unit === "units" && moved > 0.0005 && `${share(moved)} of the users change variant.`;
}

function sharing(report, name, base, now, act) {
  const chosen = { weight: now };
  return {
    children: html`<${ShareSlider} report=${report} name=${name} base=${base} now=${now} chosen=${chosen} />`,
    run: (reason) => act("set", reason, chosen.weight)
  };
}

function ShareSlider({ report, name, base, now, chosen }) {
  const [weight, setWeight] = useState(now);
  const set = (value) => {
    chosen.weight = Math.min(1, Math.max(0, Math.round(Number(value) * 10) / 1000)); // as it is shown
    setWeight(chosen.weight);
  };
  return html`<div class="share-slider">
    <label>Share of ${name}<input type="range" min="0" max="100" step="1" value=${weight * 100} onInput=${(e) => set(e.target.value)} /></label>
    <label><span class="hidden">Percent</span><input type="number" min="0" max="100" step="0.1" value=${Number((weight * 100).toFixed(1))} onInput=${(e) => set(e.target.value)} />%</label>
    <p aria-live="polite">${name} gets ${share(weight)}, ${base} ${share(1 - weight)}, immediately. ${moving(report, weight, now)} The rollout holds there until it is resumed.</p>
  </div>`;
}
