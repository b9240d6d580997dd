// The addresses behind each variant.

import { h } from "../dom.js";
import { count } from "../format.js";
import { sentence } from "../words.js";
import { badge, section, swatch } from "./parts.js";

const TONES = { healthy: "good", unhealthy: "bad", ejected: "warn", stalled: "warn" };

export function healthView(report, colour) {
  const rows = Object.entries(report.health).flatMap(([variant, found]) => found.map((one) => [variant, one]));
  return section(
    "health",
    "Addresses",
    "As this gateway process sees them.",
    h(
      "div",
      { class: "table-scroll" },
      h(
        "table",
        { class: "plain" },
        h("thead", {}, h("tr", {}, ["Variant", "Address", "State"].map((t) => h("th", { scope: "col" }, t)), ["In flight", "Waiting"].map((t) => h("th", { scope: "col", class: "number" }, t)))),
        h(
          "tbody",
          {},
          rows.map(([variant, one]) =>
            h(
              "tr",
              { key: `${variant} ${one.address}` },
              h("td", {}, h("span", { class: "variant-name" }, swatch(colour(variant)), variant)),
              h("td", { class: "mono" }, one.address),
              h("td", {}, badge(sentence(one.state), TONES[one.state] ?? "")),
              h("td", { class: "number" }, count(one.in_flight)),
              h("td", { class: "number" }, count(one.waiting)),
            ),
          ),
        ),
      ),
    ),
  );
}
