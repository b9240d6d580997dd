// Why the last try was refused, if it was; the form leads on to the page that was wanted.

const REASONS = {
  unauthenticated: "The key is unknown. Check it, or generate one with 'turnout keys new'.",
  forbidden: "This key may not read. Use one with the scope 'read'.",
  rate_limited: "Too many logins failed. Wait a few seconds, then try again.",
  store_unavailable: "The store is unavailable. Log in once it is back."
};

const query = new URLSearchParams(location.search);
const wait = Number(query.get("wait"));
if (wait > 0) REASONS.rate_limited = `Too many logins failed. Try again in ${wait} second${wait > 1 ? "s" : ""}.`;
const next = query.get("next");
if (next) document.querySelector("form").action += `?${new URLSearchParams({ next })}`;
const reason = REASONS[query.get("refused")];
if (reason) {
  const place = document.getElementById("refused");
  place.textContent = reason;
  place.hidden = false;
  document.getElementById("key").setAttribute("aria-invalid", "true");
}
