// Why the last try was refused, if it was.

const REASONS = {
  unauthenticated: "The key is unknown. Check it, or generate one with 'turnout keys new'.",
  forbidden: "This key may not read. Use one with the scope 'read'."
};

const reason = REASONS[new URLSearchParams(location.search).get("refused")];
if (reason) {
  const place = document.getElementById("refused");
  place.textContent = reason;
  place.hidden = false;
  document.getElementById("key").setAttribute("aria-invalid", "true");
}
