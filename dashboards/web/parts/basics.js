// Small pieces that several pages use.

import { ago, clockTime, moment, share, time } from "../core/format.js";
import { GLOSSARY } from "../core/glossary.js";
import { POLICIES } from "../core/words.js";
import { html } from "../vendor/preact.js";

const MEANINGS = new Map(GLOSSARY.flatMap(([terms, meaning]) => terms.split(", ").map((term) => [term, meaning.replaceAll("`", "")])));
const TERM = new RegExp(`\\b((?:${[...MEANINGS.keys()].sort((a, b) => b.length - a.length).join("|")})s?)\\b`, "i");
const meaningOf = (word) => MEANINGS.get(word.toLowerCase()) ?? MEANINGS.get(word.toLowerCase().slice(0, -1));

// They turn the order of what follows: a note would change how its author is read.
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

// A text whose terms tell what they mean to the pointer.
export function explained(text) {
  if (typeof text !== "string") return text;
  return text
    .replace(TURNS, "")
    .split(TERM)
    .map((part, k) => (k % 2 ? html`<abbr title=${meaningOf(part)}>${part}</abbr>` : part));
}

export function badge(text, tone = "", title = null) {
  return html`<span class=${`badge ${tone}`} title=${title}>${text}</span>`;
}

export function policyBadge(policy) {
  return badge(POLICIES[policy] ?? policy, "policy");
}

// A variant's mark: its letter on its colour, so that neither is needed to tell it from the others.
export function swatch({ hue, ink, letter }) {
  return html`<span class="swatch" style=${{ background: hue, color: ink }} aria-hidden="true">${letter}</span>`;
}

export function variantName(name, look, ...rest) {
  return html`<span class="variant-name">${swatch(look)}<b>${name}</b>${rest}</span>`;
}

// The variants of an allocation in the order of the configuration, that of their letters.
export function inOrder(allocation, colour) {
  return Object.entries(allocation).sort(([a], [b]) => (colour(a).letter < colour(b).letter ? -1 : 1));
}

// How the traffic is shared now. Slivers stay visible; the text is what counts.
export function shareBar(allocation, colour, tall = false) {
  const parts = inOrder(allocation, colour).filter(([, p]) => p > 0);
  const words = parts.map(([name, p]) => `${name} ${share(p)}`).join(", ");
  return html`<div class=${`allocation${tall ? " tall" : ""}`} role="img" aria-label=${`Traffic: ${words}`}>
    ${parts.map(([name, p]) => html`<span key=${name} style=${{ flexGrow: String(p), background: colour(name).hue }} title=${`${name} ${share(p)}`}></span>`)}
  </div>`;
}

export function choices(label, options, chosen, onChoose) {
  return html`<div class="choices" role="group" aria-label=${label}>
    ${options.map(([value, text]) => html`<button type="button" key=${value} aria-pressed=${String(value === chosen)} onClick=${() => onChoose(value)}>${text}</button>`)}
  </div>`;
}

export function section(id, title, note, ...body) {
  return html`<section class="card" key=${id} id=${id} aria-labelledby=${`${id}-h`}>
    <div class="card-head"><h2 id=${`${id}-h`}>${explained(title)}</h2>${note && html`<p class="note">${explained(note)}</p>`}</div>
    ${body}
  </section>`;
}

export function notice(tone, title, detail, action = null) {
  return html`<div class=${`notice ${tone}`} role=${tone.startsWith("bad") ? "alert" : "status"} key=${`notice-${title}`}>
    <strong>${explained(title)}</strong>${detail && html`<span>${explained(detail)}</span>`}${action}
  </div>`;
}

// In place of what is not there yet.
export const waiting = (error) => html`<p class="empty" key="wait">${error?.message ?? "Loading…"}</p>`;

// What there is to do where there is nothing to see, with a line for the shell that works.
export function emptyState(title, detail, command = null) {
  return html`<div class="empty"><p><b>${title}</b></p>${detail && html`<p>${detail}</p>`}${command && html`<pre class="command" tabindex="0"><code>${command}</code></pre>`}</div>`;
}

export function when(at, now) {
  return html`<time datetime=${new Date(at * 1000).toISOString()} title=${time(at)}>${moment(at, now)} <small>${ago(at, now)}</small></time>`;
}

// To the second, where many happen in a minute.
export function exactly(at, now) {
  return html`<time datetime=${new Date(at * 1000).toISOString()} title=${time(at)}>${moment(at, now, true)}</time>`;
}

export function clockOf(at) {
  return html`<time datetime=${new Date(at * 1000).toISOString()} title=${time(at)}>${clockTime(at)}</time>`;
}

// A figure that a test, or a curious reader, can hold against the API's: `data-value` is it, unrounded.
export function figure(field, value, text, cls = "") {
  return html`<span class=${`figure ${cls}`} data-field=${field} data-value=${value === null || value === undefined ? "" : String(value)}>${text}</span>`;
}

// A wide thing that scrolls by itself, for the keyboard too.
export function scroller(label, ...body) {
  return html`<div class="table-scroll" role="group" aria-label=${label} tabindex="0">${body}</div>`;
}
