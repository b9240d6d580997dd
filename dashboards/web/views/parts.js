// Small pieces that several views use.

import { h } from "../dom.js";
import { share } from "../format.js";
import { POLICIES } from "../words.js";

export function badge(text, tone = "", title = null) {
  return h("span", { class: `badge ${tone}`, title }, text);
}

export function policyBadge(policy) {
  return badge(POLICIES[policy] ?? policy, "policy");
}

export function swatch(colour) {
  return h("span", { class: "swatch", style: { background: colour }, "aria-hidden": "true" });
}

// How the traffic is shared now. Slivers stay visible; the text is what counts.
export function allocationBar(allocation, colour, tall = false) {
  const parts = Object.entries(allocation).filter(([, p]) => p > 0);
  const words = parts.map(([name, p]) => `${name} ${share(p)}`).join(", ");
  return h(
    "div",
    { class: `allocation${tall ? " tall" : ""}`, role: "img", "aria-label": `Traffic: ${words}` },
    parts.map(([name, p]) =>
      h("span", { key: name, style: { "flex-grow": String(p), background: colour(name) }, title: `${name} ${share(p)}` }),
    ),
  );
}

export function choices(label, options, chosen, onChoose) {
  return h(
    "div",
    { class: "choices", role: "group", "aria-label": label },
    options.map(([value, text]) =>
      h(
        "button",
        { type: "button", key: value, "aria-pressed": String(value === chosen), onClick: () => onChoose(value) },
        text,
      ),
    ),
  );
}

export function section(id, title, note, ...body) {
  return h(
    "section",
    { class: "card", key: id, id, "aria-labelledby": `${id}-h` },
    h("div", { class: "card-head" }, h("h2", { id: `${id}-h` }, title), note && h("p", { class: "note" }, note)),
    body,
  );
}

export function notice(tone, title, detail, action = null) {
  return h(
    "div",
    { class: `notice ${tone}`, role: tone === "bad" ? "alert" : "status", key: `notice-${title}` },
    h("strong", {}, title),
    detail && h("span", {}, detail),
    action,
  );
}

// A figure that a test, or a curious reader, can hold against the API's: `data-value` is it, unrounded.
export function figure(field, value, text, cls = "") {
  return h("span", { class: `figure ${cls}`, "data-field": field, "data-value": value === null || value === undefined ? "" : String(value) }, text);
}
