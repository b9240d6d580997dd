// What is being typed: it outlives its page, and no login takes it away.

import { useState } from "../vendor/preact.js";

const drafts = new Map();

addEventListener("beforeunload", (event) => drafts.size && event.preventDefault());

export const typing = () => drafts.size > 0 || document.querySelector("dialog[open]") !== null;

// As useState, for a text that is not sent yet; null when there is none.
export function useDraft(key) {
  const [text, set] = useState(drafts.get(key) ?? null);
  const keep = (next) => {
    if (next === null) drafts.delete(key);
    else drafts.set(key, next);
    set(next);
  };
  return [text, keep];
}
