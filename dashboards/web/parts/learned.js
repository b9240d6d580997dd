// What a bandit with features has learned: a row for each column of the features, a coefficient for each variant.

import { count, estimate } from "../core/format.js";
import { html } from "../vendor/preact.js";
import { figure, section, variantName } from "./basics.js";
import { axis, forest } from "./forest.js";

export function learned(report, colour) {
  const known = report.contextual?.coefficients ?? {};
  const names = Object.keys(known);
  if (!names.length) return null;
  const columns = Object.keys(known[names[0]]);
  const note = `What each feature adds to the mean of ${report.metric}; a number's from the middle of its range to its upper end. Bars are 95% credible intervals.`;
  return section(
    "learned",
    "What was learned",
    note,
    columns.map((column) => row(column, names, known, report, colour))
  );
}

function row(column, names, known, report, colour) {
  const scale = axis([...names.map((name) => known[name][column]), { mean: 0, interval: null }]);
  return html`<div class="metric" key=${column} data-column=${column}><h3>${column}</h3><div class="metric-rows">
    ${names.map((name) => {
      const found = known[name][column];
      const said = estimate(found, "real");
      return html`<div class="metric-row" key=${name}>
        <div>${variantName(name, colour(name))} <small>${count(report.contextual.rewards[name])} rewards</small></div>
        <div class="estimate"><div class="estimate-text">${figure(`contextual.${name}.${column}`, found.mean, said.mean)}<small>${said.interval}</small></div>
        ${forest({ ...found, scale, zero: 0, hue: colour(name).hue, label: `${said.mean}, 95% interval ${said.interval}` })}</div>
      </div>`;
    })}
  </div></div>`;
}
