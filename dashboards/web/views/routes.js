// The list of routes: what each does, and whether all is well.

import { palette } from "../colours.js";
import { h } from "../dom.js";
import { count, estimate, milliseconds, share } from "../format.js";
import { STATES } from "../words.js";
import { allocationBar, badge, figure, notice, policyBadge, swatch } from "./parts.js";

export function routesView(routes) {
  if (!routes.length) {
    return notice("thin", "No routes yet", "Add one under 'routes' in the configuration; it appears here at once.");
  }
  return [
    h("h1", { key: "h" }, "Routes"),
    h("ul", { class: "routes", key: "list" }, routes.map(row)),
  ];
}

function row(route) {
  const colour = palette(Object.keys(route.health));
  const name = route.route;
  return h(
    "li",
    { class: "card route-row", key: name, "data-route": name },
    h(
      "div",
      { class: "route-name" },
      h("h2", {}, h("a", { href: `#/routes/${encodeURIComponent(name)}` }, name)),
      h("div", { class: "badges" }, policyBadge(route.policy), rollout(route.rollout), health(route.health)),
    ),
    h(
      "div",
      { class: "route-traffic" },
      allocationBar(route.allocation, colour),
      h(
        "ul",
        { class: "legend" },
        Object.entries(route.allocation).map(([variant, p]) =>
          h("li", { key: variant }, swatch(colour(variant)), variant, h("b", {}, figure(`${name}.allocation.${variant}`, p, share(p)))),
        ),
        Object.keys(route.shadows ?? {}).map((variant) =>
          h("li", { key: `s-${variant}` }, swatch(colour(variant)), variant, h("b", {}, "shadow")),
        ),
      ),
    ),
    recent(name, route.recent),
  );
}

function recent(name, found) {
  const minutes = Math.round(found.seconds / 60);
  const rate = estimate(found.error_rate, "boolean");
  return h(
    "dl",
    { class: "facts", "aria-label": `Last ${minutes} minutes` },
    fact(`Requests, ${minutes} min`, figure(`${name}.recent.assigned`, found.assigned, count(found.assigned))),
    fact("Errors", [figure(`${name}.recent.error_rate`, found.error_rate.mean, rate.mean), h("small", {}, rate.interval)]),
    fact("p50", figure(`${name}.recent.p50`, found.latency_ms?.p50, milliseconds(found.latency_ms?.p50))),
    fact("p99", figure(`${name}.recent.p99`, found.latency_ms?.p99, milliseconds(found.latency_ms?.p99))),
  );
}

function fact(term, value) {
  return h("div", { key: term }, h("dt", {}, term), h("dd", {}, value));
}

function rollout(found) {
  if (!found) return null;
  const tone = { promoted: "good", rolled_back: "bad", halted: "bad", paused: "warn", waiting: "warn" }[found.state];
  return badge(STATES[found.state] ?? found.state, tone ?? "");
}

function health(found) {
  const all = Object.values(found).flat();
  const bad = all.filter((one) => one.state !== "healthy").length;
  return bad ? badge(`${bad} of ${all.length} addresses down`, "bad") : null;
}
