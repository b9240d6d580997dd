// Focus whose element is gone does not fall to the top of the page: it goes to the same row, or to the content.

let focused = null;
let row = null; // a row that is drawn again, elsewhere, has the same name

export function rememberFocus() {
  addEventListener("focusin", ({ target }) => {
    focused = target;
    if (!target.closest("dialog")) row = target.closest("[data-route]")?.dataset.route;
  });
  addEventListener("focusout", ({ target }) => setTimeout(() => left(target)));
}

// What was left is not what is gone; a question that closes takes its buttons with it.
function left(element) {
  if (element === focused && element.isConnected && !element.closest("dialog") && document.activeElement === document.body) focused = null;
}

export function keepFocus() {
  if (!focused || focused.isConnected || document.activeElement !== document.body) return;
  const link = row && document.querySelector(`[data-route="${CSS.escape(row)}"] a`);
  if (link) link.focus();
  else document.getElementById("content").focus({ preventScroll: true });
}
