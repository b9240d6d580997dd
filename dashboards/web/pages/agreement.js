// Shadows: how often they agree with what the client got, and what became of the copies.

import { count, estimate, share } from "../core/format.js";
import { href } from "../core/router.js";
import { FEW, sentence } from "../core/words.js";
import { figure, section, variantName } from "../parts/basics.js";
import { axis, forest } from "../parts/forest.js";
import { headline } from "../parts/headline.js";
import { scorecard } from "../parts/scorecard.js";
import { html } from "../vendor/preact.js";

export function Agreement({ report, colour }) {
  return [headline(report, colour), shadowList(report, colour), scorecard(report, colour)];
}

export function shadowList(report, colour) {
  const names = Object.keys(report.agreement ?? {});
  if (!names.length) return null;
  const found = names.map((name) => ({ count: report.agreement[name].compared, mean: report.agreement[name].rate, interval: report.agreement[name].interval }));
  const scale = axis(found, [], [0, 1]);
  return section(
    "agreement",
    "Agreement",
    "Copies of requests, compared with what the client got; always-valid 95% intervals.",
    html`<ul class="shadows">${names.map((name, k) => shadow(report, name, found[k], scale, colour(name)))}</ul>`
  );
}

function shadow(report, name, found, scale, look) {
  const said = estimate(found, "fraction");
  const copied = report.shadows?.[name];
  const field = (rest) => `agreement.${name}.${rest}`;
  return html`<li key=${name} data-shadow=${name}>
    ${variantName(name, look, copied !== undefined && html` <small>${share(copied)} of requests</small>`)}
    ${
      found.count
        ? html`<div class="estimate-text">${figure(field("rate"), found.mean, said.mean)}<small>${said.interval} agree</small></div>${forest({ ...found, scale, hue: look.hue, thin: found.count < FEW, label: `${said.mean} agree, 95% interval ${said.interval}` })}`
        : html`<p class="thin">nothing compared yet</p>`
    }
    <small class=${found.count < FEW ? "thin" : ""}>${figure(field("compared"), found.count, count(found.count))} compared${found.count < FEW && found.count > 0 ? ": too few to tell" : ""}${copies(report.shadow_counts?.[name])}</small>
    <p><a href=${href("routes", report.route, "shadow", name)}>Disagreements of ${name}</a></p>
  </li>`;
}

function copies(counts) {
  const parts = Object.entries(counts ?? {}).filter(([, n]) => n > 0);
  return parts.length ? ` · ${parts.map(([what, n]) => `${sentence(what).toLowerCase()} ${count(n)}`).join(" · ")}` : "";
}
