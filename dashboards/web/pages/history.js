// Every step of a route: who or what took it, why, and the evidence as it stood; with notes.

import { post, seesConfig } from "../core/api.js";
import { useGet } from "../core/data.js";
import { useDraft } from "../core/drafts.js";
import { href } from "../core/router.js";
import { event, failure, VERDICTS } from "../core/words.js";
import { badge, explained, section, waiting, when } from "../parts/basics.js";
import { html, useState } from "../vendor/preact.js";

const TONES = { pass: "good", fail: "bad", error: "warn" };

// Changes with each step that the report knows of: then the history is read again.
export const newestStep = ({ revision, rollout, stop }) => [revision, rollout?.decided?.time, stop?.state].join();

export function HistoryTab({ report, now, session }) {
  const [again, setAgain] = useState(0);
  const history = useGet(`routes/${encodeURIComponent(report.route)}/history?limit=200`, {
    again: `${again} ${newestStep(report)}`
  });
  const may = session?.scopes?.includes("steer") && (session.routes === null || session.routes.includes(report.route));
  return section(
    "history",
    "History",
    "Steps of the rollout, the bandit's winner, alarms, notes and revisions; newest first.",
    html`<${NoteForm} may=${may} route=${report.route} onDone=${() => setAgain(again + 1)} />`,
    history.data ? steps(history.data.steps, now, report, session) : waiting(history.error)
  );
}

export function steps(found, now, report = { metrics: {} }, session = null) {
  if (!found.length) return html`<p class="empty">Nothing has happened yet.</p>`;
  return html`<ol class="log steps" role="list">${found.map((one) => step(one, now, report, seesConfig(session)))}</ol>`;
}

function step(one, now, report, linked) {
  const [title, detail] = event(one);
  const evidence = (one.data.evidence ?? []).filter((verdict) => verdict.verdict);
  return html`<li key=${`${one.kind}-${one.id}`} data-step=${one.kind}>
    ${when(one.time, now)}<div><b>${title}</b>${linked && one.kind === "config" && html` <a href=${href("config", { revision: one.data.revision })}>difference</a>`}</div>
    <span>${explained(detail)}</span>
    ${evidence.length > 0 && html`<ul class="evidence">${evidence.map((v) => html`<li key=${v.metric}>${badge((VERDICTS[v.verdict] ?? ["", v.verdict]).join(" "), TONES[v.verdict] ?? "")} ${failure(v, report)}</li>`)}</ul>`}
  </li>`;
}

function NoteForm({ may, route, onDone }) {
  const [text, setText] = useDraft(`note ${route}`);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  async function add(submitted) {
    submitted.preventDefault();
    if (busy) return;
    setBusy(true);
    try {
      await post(`routes/${encodeURIComponent(route)}/notes`, { text });
      setText(null);
      setError(null);
      onDone();
    } catch (failed) {
      setError(failed);
    }
    setBusy(false);
  }
  if (!may && !text) return null;
  return html`<form class="note-form" onSubmit=${add}>
    <label for="note">Note</label><input id="note" value=${text ?? ""} maxlength="500" required onInput=${(e) => setText(e.target.value || null)} /><button class="quiet" type="submit">Add note</button>
    ${error && html`<p class="notice bad" role="alert">${error.message}</p>`}
  </form>`;
}
