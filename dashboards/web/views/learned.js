// What a bandit with features has learned: a row for each column of the features, a coefficient for each variant.

import { interval, reach } from "../charts/interval.js";
import { h } from "../dom.js";
import { count, estimate } from "../format.js";
import { figure, section, swatch } from "./parts.js";

export function learnedView(report, colour) {
  const known = report.contextual?.coefficients ?? {};
  const names = Object.keys(known);
  if (!names.length) return null;
  const columns = Object.keys(known[names[0]]);
  return section(
    "learned",
    "What was learned",
    `What each feature adds to the mean of ${report.metric}; a number's from the middle of its range to its upper end. Bars are 95% credible intervals.`,
    h(
      "div",
      { class: "table-scroll" },
      h(
        "table",
        { class: "compare" },
        h("thead", {}, head(names, report.contextual.rewards, colour)),
        h("tbody", {}, columns.map((column) => row(column, names, known, colour))),
      ),
    ),
  );
}

function head(names, rewards, colour) {
  const variant = (name) =>
    h("th", { scope: "col", key: name }, h("span", { class: "variant-name" }, swatch(colour(name)), name), h("small", {}, `${count(rewards[name])} rewards`));
  return h("tr", {}, h("th", { scope: "col" }, "Feature"), names.map(variant));
}

function row(column, names, known, colour) {
  const scale = reach([...names.map((name) => known[name][column]), { mean: 0, interval: null }]);
  return h(
    "tr",
    { key: column, "data-column": column },
    h("th", { scope: "row" }, column),
    names.map((name) => h("td", { key: name, class: "estimate", "data-label": name }, coefficient(known[name][column], scale, colour(name), `contextual.${name}.${column}`))),
  );
}

function coefficient(found, scale, hue, field) {
  const said = estimate(found, "real");
  return [
    h("div", { class: "estimate-text" }, figure(field, found.mean, said.mean), h("small", {}, said.interval)),
    interval(found, scale, hue, `${said.mean}, 95% interval ${said.interval}`),
  ];
}
