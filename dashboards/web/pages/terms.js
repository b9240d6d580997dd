// What the words of the dashboard mean, and its keys.

import { GLOSSARY } from "../core/glossary.js";
import { section } from "../parts/basics.js";
import { html } from "../vendor/preact.js";

const KEYS = [
  ["/", "Search the routes"],
  ["?", "This page"],
  ["Tab", "Next control; the first one skips the bar at the top"],
  ["Enter", "On a column head: sort by it, reverse the order, restore it"],
  ["← →", "On a chart's slider: choose the moment that all charts show"],
  ["Esc", "Close a dialog; return the slider to now"]
];

export function TermsPage() {
  return [
    html`<h1 key="h">Terms and keys</h1>`,
    section(
      "keys",
      "Keys",
      null,
      html`<dl class="terms">${KEYS.map(([key, what]) => html`<div key=${key}><dt>${key.split(" ").map((one) => html`<kbd>${one}</kbd> `)}</dt><dd>${what}.</dd></div>`)}</dl>`
    ),
    section(
      "terms",
      "Terms",
      null,
      html`<dl class="terms">${GLOSSARY.map(([term, meaning]) => html`<div key=${term}><dt>${term}</dt><dd>${written(meaning)}</dd></div>`)}</dl>`
    )
  ];
}

// Every second part stands between backticks.
const written = (text) => text.split("`").map((part, k) => (k % 2 ? html`<code>${part}</code>` : part));
