// The configuration: the text in force, its history with differences, and an editor that says while one types what is
// wrong, and before it is applied what will change.

import { getText, post, send, Unreachable } from "../core/api.js";
import { useGet } from "../core/data.js";
import { useDraft } from "../core/drafts.js";
import { choose, here } from "../core/router.js";
import { because } from "../core/words.js";
import { Ask } from "../parts/ask.js";
import { badge, choices, notice, section, waiting, when } from "../parts/basics.js";
import { html, useEffect, useRef, useState } from "../vendor/preact.js";

const CHECK_MS = 400; // after the last key
const AGAIN_MS = 2000; // after a request without a response

export function ConfigPage({ now, session }) {
  const { query } = here();
  const [again, setAgain] = useState(0);
  const [current, setCurrent] = useState(null);
  const [draft, setDraft] = useDraft("config");
  const [editing, setEditing] = useState(draft !== null);
  const [ask, setAsk] = useState(null);
  const [error, setError] = useState(null);
  const [refused, setRefused] = useState(null);
  const question = (asked) => {
    setRefused(null);
    setAsk(asked);
  };
  const history = useGet("config/history?limit=50", { again, every: 30 });
  useEffect(() => {
    let timer = null;
    const failed = (found) => {
      setError(found);
      if (!(found.status < 500)) timer = setTimeout(read, AGAIN_MS);
    };
    const read = () => getText("config").then(setCurrent, failed);
    read();
    return () => clearTimeout(timer);
  }, [again]);
  const refresh = () => setAgain(again + 1);
  const renew = () => {
    refresh();
    setDraft(null);
    setEditing(false);
  };
  const newest = history.data?.revisions[0]?.revision;
  useEffect(() => {
    if (newest > current?.revision) refresh();
  }, [newest]);
  const may = session?.scopes?.includes("config");
  if (error && !current) return [html`<h1 key="h">Configuration</h1>`, html`<p class="notice bad" role="alert" key="error">${error.message}</p>`];
  if (!current) return [html`<h1 key="h">Configuration</h1>`, waiting()];
  const shown = Number(query.revision) || null;
  return [
    html`<div class="page-head" key="h"><h1>Configuration</h1><span class="note">revision ${current.revision} is in force</span>
      ${may && !editing && html`<button type="button" class="quiet" onClick=${() => setEditing(true)}>Edit</button>`}</div>`,
    refused && !ask && html`<p class="notice bad" role="alert" key="refused">${refused.message}</p>`,
    editing
      ? html`<${Editor} key="editor" base=${current} text=${draft ?? current.text} onText=${setDraft} onCancel=${renew} onApply=${(checked, text) => question(applying(checked, text, current, renew, refresh))} />`
      : section("text", "In force", null, numbered(current.text)),
    shown &&
      html`<${Difference} key=${`d${shown}`} revision=${shown} current=${current} may=${may} onRestore=${() => question(restoring(shown, current, renew))} />`,
    history.data && section("revisions", "Revisions", "Newest first.", revisions(history.data.revisions, now, shown)),
    ask && html`<${Ask} key="ask" ask=${ask} error=${refused} onError=${setRefused} onClose=${() => setAsk(null)} />`
  ];
}

function numbered(text) {
  return html`<pre class="yaml" tabindex="0" aria-label="The configuration in force"><code>${text.split("\n").map((line, k) => html`<span class="line" key=${k}><i>${k + 1}</i>${line}${"\n"}</span>`)}</code></pre>`;
}

function Editor({ base, text: edited, onText, onCancel, onApply }) {
  const [began] = useState(base.revision);
  const [checked, setChecked] = useState(null);
  const gutter = useRef(null);
  useEffect(() => {
    let current = true;
    let timer = setTimeout(check, CHECK_MS);
    setChecked(null);
    async function check() {
      const found = await post("config/check", { text: edited }).catch(unchecked);
      if (!current) return;
      setChecked(found);
      if (found.again) timer = setTimeout(check, AGAIN_MS);
    }
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [edited, base.revision]);
  const faults = checked?.faults ?? [];
  const lines = edited.split("\n").length;
  const bad = new Set(faults.map((fault) => fault.line));
  const changed = edited !== base.text;
  return section(
    "edit",
    "Edit",
    null,
    base.revision > began &&
      notice("warn", `Revision ${base.revision} was applied while you were editing`, "Your text is kept. See below that it does not revert that revision."),
    html`<div class="editor">
      <pre class="gutter" ref=${gutter} aria-hidden="true">${Array.from({ length: lines }, (_, k) => html`<span key=${k} class=${bad.has(k + 1) ? "bad" : ""}>${k + 1}</span>`)}</pre>
      <textarea aria-label="Configuration text" spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off" rows=${Math.min(32, Math.max(12, lines))} value=${edited}
        onInput=${(e) => onText(e.target.value === base.text ? null : e.target.value)} onScroll=${(e) => (gutter.current.scrollTop = e.target.scrollTop)}></textarea>
    </div>
    <div class="faults" aria-live="polite">
      ${checked === null && html`<p class="note">Checking…</p>`}
      ${faults.map((fault, k) => html`<p class="fault" key=${k} data-line=${fault.line}>${fault.line ? html`<b>Line ${fault.line}</b> ` : ""}${fault.message}${fault.hint ? html` <small>${fault.hint}</small>` : ""}</p>`)}
      ${checked && !faults.length && (changed ? effects(checked) : html`<p class="note">Nothing is changed yet.</p>`)}
    </div>
    <div class="buttons">
      <button type="button" class="quiet" onClick=${onCancel}>Cancel</button>
      <button type="button" class="primary" disabled=${!changed || !checked || faults.length > 0} onClick=${() => onApply(checked, edited)}>Apply…</button>
    </div>`
  );
}

// A check that failed. Without a response nothing is left open, since nothing was to be changed.
function unchecked(error) {
  const again = error instanceof Unreachable;
  const message = again ? "The gateway does not respond. The text is checked again when it does." : error.message;
  return { faults: error.faults?.length ? error.faults : [{ line: 0, message, hint: "" }], changes: [], difference: "", again };
}

function effects(checked) {
  return [
    html`<h3>What changes</h3>`,
    html`<ul class="says">${checked.changes.map((text) => html`<li key=${text}>${text}</li>`)}</ul>`,
    diff(checked.difference)
  ];
}

function diff(text) {
  if (!text) return null;
  const tone = { "+": "added", "-": "removed", "@": "place" };
  return html`<pre class="diff" tabindex="0" aria-label="Difference">${text.split("\n").map((line, k) => html`<span key=${k} class=${tone[line[0]] ?? ""}>${line}${"\n"}</span>`)}</pre>`;
}

function applying(checked, text, current, done, refresh) {
  return {
    title: "Apply this configuration?",
    says: checked.changes,
    action: "Apply",
    run: async (reason) => {
      try {
        await send("PUT", `config?${new URLSearchParams({ reason })}`, text, { "content-type": "application/yaml", "if-match": current.etag });
      } catch (refused) {
        if (refused.code === "precondition_failed") refused.message = "Nothing was changed: another revision was applied first. Your text is kept.";
        refresh();
        throw refused;
      }
      done();
    }
  };
}

function restoring(revision, current, done) {
  return {
    title: `Restore revision ${revision}?`,
    says: [`Its text becomes a new revision and is in force immediately, in place of revision ${current.revision}.`],
    action: "Restore",
    run: async (reason) => {
      await post("config/restore", { revision, reason }, { "if-match": current.etag });
      choose({ revision: null });
      done();
    }
  };
}

// What a revision changed, or what was changed since.
function Difference({ revision, current, may, onRestore }) {
  const old = revision !== current.revision;
  const since = (old && here().query.since === "1") || revision <= 1;
  const [from, to] = since ? [revision, current.revision] : [revision - 1, revision];
  const found = useGet(from === to ? null : `config/difference?from=${from}&to=${to}`);
  const step = (title, number) =>
    number >= 1 &&
    number <= current.revision &&
    html`<button type="button" class="quiet" onClick=${() => choose({ revision: number, since: null })}>${title} ${number}</button>`;
  return section(
    "difference",
    since ? `Revision ${revision} to ${current.revision}` : `Revision ${revision}`,
    since ? "What was changed since." : "What it changed.",
    html`<div class="buttons">${step("◂ Revision", revision - 1)}${step("▸ Revision", revision + 1)}
      ${
        old &&
        revision > 1 &&
        choices(
          "Compare",
          [
            ["", "What it changed"],
            ["1", "Since then"]
          ],
          since ? "1" : "",
          (value) => choose({ since: value })
        )
      }</div>`,
    from === to
      ? html`<p class="note">It is the first revision, and in force.</p>`
      : found.error
        ? html`<p class="notice bad" role="alert">${found.error.message}</p>`
        : found.data
          ? (diff(found.data.difference) ?? html`<p class="note">The texts are the same.</p>`)
          : waiting(),
    may && old && html`<div class="buttons"><button type="button" class="quiet" onClick=${onRestore}>Restore revision ${revision}…</button></div>`
  );
}

function revisions(found, now, shown) {
  return html`<ol class="log whole" role="list">${found.map(
    (one) => html`<li key=${one.revision} data-revision=${one.revision}>
    ${when(one.time, now)}<div><b>Revision ${one.revision}</b> by ${one.author}${because(one.origin) && html` <span class="note">${because(one.origin)}</span>`} ${one.current && badge("in force", "good")} <button type="button" class="quiet" aria-pressed=${String(shown === one.revision)} onClick=${() => choose({ revision: one.revision, since: null })}>Difference</button></div>
  </li>`
  )}</ol>`;
}
