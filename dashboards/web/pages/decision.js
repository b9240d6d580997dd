// The story of one decision: why this variant, where the time went, what came of it.

import { useGet } from "../core/data.js";
import { milliseconds, moment, seconds, share, time } from "../core/format.js";
import { href } from "../core/router.js";
import { errorWords, outcome, STATES, sentence } from "../core/words.js";
import { badge, explained, figure, section, swatch, waiting } from "../parts/basics.js";
import { forest } from "../parts/forest.js";
import { html } from "../vendor/preact.js";

export function DecisionPage({ page, now }) {
  const { data, error } = useGet(`decisions/${encodeURIComponent(page.decision)}`, { every: 15 });
  const head = html`<div class="page-head" key="head"><h1>Decision <span class="mono">${page.decision.slice(0, 12)}…</span></h1></div>`;
  if (!data) return [head, waiting(error)];
  const { outcome: made, rewards, shadows } = data;
  return [
    head,
    html`<p key="line"><a href=${href("routes", data.route)}>${data.route}</a> · ${time(data.time)}${made && html` · ${badge(made.status ? String(made.status) : "decided", made.status < 400 ? "good" : "bad")} ${outcome(made)}, ${milliseconds(made.total_ms)}`}</p>`,
    made && why(made, data.draw, now),
    made && whereTimeWent(made),
    section(
      "rewards",
      "Rewards",
      null,
      rewards.length ? html`<ul>${rewards.map((one) => reward(one, data))}</ul>` : html`<p class="note">None was reported.</p>`,
      windows(data, now)
    ),
    shadows.length > 0 && section("shadows", "Shadows", null, html`<ul>${shadows.map(shadow)}</ul>`),
    html`<details class="card" key="raw"><summary>As JSON</summary><pre class="command" tabindex="0">${JSON.stringify(data, null, 2)}</pre></details>`
  ];
}

function why(made, draw, now) {
  const place = [draw?.phase && stageOf(draw), `epoch ${made.epoch}`, `revision ${made.revision}`].filter(Boolean).join(", ");
  const how = made.forced
    ? `The client chose ${made.assigned} itself (x-variant): it does not count in any statistic.`
    : html`${sentence(made.policy)}, ${explained(place)}: ${made.assigned} was drawn with probability ${figure("propensity", made.propensity, share(made.propensity))}.`;
  const unit = made.forced
    ? ""
    : made.sticky
      ? html`The unit <a class="mono" href=${href("outcomes", { route: made.route, unit: made.unit })}>${made.unit}</a> keeps its variant while the shares stay.`
      : `The request named no unit${made.propensity < 1 ? ": chance decided" : ""}.`;
  const features = Object.entries(made.features ?? {})
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");
  return section(
    "why",
    `Why ${made.assigned}`,
    null,
    html`<p>${how} ${unit}</p>${features && html`<p class="note">Features: ${features}.${!draw && !made.forced ? " They gave this request shares of its own." : ""}</p>`}${draw && drawn(draw, made, now)}`
  );
}

function stageOf({ phase, stage, state }) {
  if (["promoted", "rolled_back"].includes(state)) return STATES[state].toLowerCase();
  return phase === "shadow" ? "in its gate" : phase === "bandit" ? "as a bandit" : `stage ${stage + 1}`;
}

const REASONS = { config: "by the configuration", posterior: "by what was learned" };

// The shares then, and where among them the unit fell.
function drawn({ shares, since, reason, point, range }, { assigned }, now) {
  const all = Object.entries(shares).map(
    ([name, p], k) => html`<span key=${name}>${k ? " · " : ""}${name} ${figure(`draw.shares.${name}`, p, share(p))}</span>`
  );
  const at = (x) => x.toFixed(4);
  const said = point !== null && `${assigned} has the part from ${at(range[0])} to ${at(range[1])}`;
  return [
    html`<p class="note">Shares since ${moment(since, now)} (${REASONS[reason] ?? reason}): ${all}</p>`,
    said && [
      html`<p class="note">Of the line from 0 to 1, ${said}; the unit lies at ${figure("draw.point", point, at(point))}.</p>`,
      forest({ mean: point, interval: range, scale: [0, 1], hue: "var(--accent)", label: `${said}, the unit lies at ${at(point)}` })
    ]
  ];
}

function whereTimeWent(made) {
  const client = Math.max(0, made.total_ms - made.gateway_ms - made.backend_ms);
  const parts = [
    ["gateway", made.gateway_ms, "gateway_ms"],
    ["backend", made.backend_ms, "backend_ms"],
    ["client and body", client, "client_ms"]
  ];
  const tries = made.attempts ?? [];
  return section(
    "time",
    "Where the time went",
    null,
    html`<div class="allocation tall" aria-hidden="true">${parts.map(([name, ms], k) => ms > 0 && html`<span key=${name} style=${{ flexGrow: String(ms), background: `var(--hue-${k})` }} title=${name}></span>`)}</div>
    <ul class="legend">${parts.map(([name, ms, field], k) => html`<li key=${name}>${swatch({ hue: `var(--hue-${k})`, ink: `var(--ink-${k}, #000)`, letter: "" })}${name} <b>${figure(field, ms, milliseconds(ms))}</b></li>`)}</ul>`,
    tries.length > 0 &&
      html`<ol class="attempts">${tries.map(([variant, address, result, ms], k) => html`<li key=${k}>${variant} at <span class="mono">${address}</span>: ${errorWords(result)} after ${milliseconds(ms)}</li>`)}</ol>`
  );
}

const waited = (s) => (s < 1 ? milliseconds(Math.max(0, s * 1000)) : seconds(s));

function reward(one, data) {
  const value = one.value === null ? "retracted" : String(one.type === "boolean" ? one.value === 1 : one.value);
  const tags = Object.entries(one.tags ?? {})
    .map(([name, v]) => `${name}=${v}`)
    .join(", ");
  return html`<li key=${one.metric}>${one.metric} = <b>${value}</b> after ${waited(one.time - data.time)}${tags && html` <small>(${tags})</small>`}</li>`;
}

// Which metrics may still be reported for this decision.
function windows({ outcome: made, rewards, open_until }, now) {
  if (made?.forced) return null;
  const waiting = Object.entries(open_until).filter(([metric]) => !rewards.some((one) => one.metric === metric));
  const [open, over] = [waiting.filter(([, until]) => until > now), waiting.filter(([, until]) => until <= now)];
  const until = ([metric, at], k) => html`<span key=${metric}>${k ? ", " : ""}${metric} until ${figure(`open_until.${metric}`, at, moment(at, now))}</span>`;
  return html`<p class="note">${open.length > 0 && html`Still accepted: ${open.map(until)}. `}${over.length > 0 && html`Too late for ${over.map(([metric]) => metric).join(", ")}.`}</p>`;
}

function shadow(one) {
  const why = one.error ? sentence(errorWords(one.error)) : one.detail;
  const said = one.agrees === null ? `was not compared${why ? `: ${why}` : ""}` : one.agrees ? "agrees" : "differs";
  return html`<li key=${one.shadow}>${one.shadow} ${said}, ${milliseconds(one.latency_ms)}${one.agrees === false && one.detail && html` <span class="mono">${JSON.stringify(one.detail)}</span>`}</li>`;
}
