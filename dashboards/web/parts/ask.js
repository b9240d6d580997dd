// A question before something is done: what will be true afterwards, a reason, and the two ways out.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";

// ask: {title, says: [sentences], action, tone, typed: a name that must be typed,
// children, run(reason) -> Promise}. The error belongs to the page: it stays there when the question is closed.
export function Ask({ ask, moved = false, error, onError, onClose }) {
  const dialog = useRef(null);
  const cancel = useRef(null);
  const [reason, setReason] = useState("");
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    dialog.current.showModal();
    cancel.current.focus();
  }, []);
  async function confirm(event) {
    event.preventDefault();
    if (busy) return; // a disabled button would lose focus
    setBusy(true);
    onError(null);
    try {
      await ask.run(reason.trim());
      dialog.current?.close(); // focus goes back to where it was
    } catch (failure) {
      onError(failure);
      setBusy(false);
    }
  }
  return html`<dialog ref=${dialog} class="ask" aria-labelledby="ask-title" onClose=${onClose}>
    <form onSubmit=${confirm}>
      <h2 id="ask-title">${ask.title}</h2>
      ${ask.children}
      <ul class="says">${ask.says.filter(Boolean).map((text) => html`<li key=${text}>${text}</li>`)}</ul>
      ${ask.typed && html`<label><span>Type <b>${ask.typed}</b> to go on</span><input value=${typed} autocomplete="off" onInput=${(e) => setTyped(e.target.value)} /></label>`}
      <label>Reason (kept in the history)<input name="reason" maxlength="200" value=${reason} autocomplete="off" onInput=${(e) => setReason(e.target.value)} /></label>
      ${error && html`<p class="notice bad" role="alert">${error.message}</p>`}
      ${moved && !busy && !error && html`<p class="notice warn" role="alert">The rollout's state has changed since you opened this. Close it and look again.</p>`}
      <div class="buttons">
        <button type="button" class="quiet" ref=${cancel} onClick=${() => dialog.current.close()}>Cancel</button>
        <button type="submit" class=${`primary ${ask.tone ?? ""}`} aria-disabled=${busy ? "true" : null} disabled=${ask.typed && typed !== ask.typed}>${ask.action}</button>
      </div>
    </form>
  </dialog>`;
}
