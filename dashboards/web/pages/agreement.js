// Shadows: how often they agree with what the client got, and what became of the copies.

import { useGet } from "../core/data.js";
import { count, counted, estimate, milliseconds, share, significant } from "../core/format.js";
import { href } from "../core/router.js";
import { errorWords, FEW, gateOf, sentence } from "../core/words.js";
import { figure, section, variantName } from "../parts/basics.js";
import { axis, forest } from "../parts/forest.js";
import { headline } from "../parts/headline.js";
import { scorecard } from "../parts/scorecard.js";
import { html } from "../vendor/preact.js";

const EVERY_S = 30;

export function Agreement({ report, colour }) {
  return [headline(report, colour), shadowList(report, colour), scorecard(report, colour)];
}

export function shadowList(report, colour) {
  const names = Object.keys(report.agreement ?? {});
  if (!names.length) return null;
  const found = names.map((name) => ({ count: report.agreement[name].compared, mean: report.agreement[name].rate, interval: report.agreement[name].interval }));
  const gate = gateOf(report);
  const scale = axis(found, gate === null ? [] : [gate], [0, 1]);
  return section(
    "agreement",
    "Agreement",
    "Copies of requests, compared with what the client got; always-valid 95% intervals.",
    html`<ul class="shadows">${names.map((name, k) => shadow(report, name, found[k], scale, colour(name), name === report.candidate ? gate : null))}</ul>`
  );
}

function shadow(report, name, found, scale, look, gate) {
  const said = estimate(found, "fraction");
  const copied = report.shadows?.[name];
  const field = (rest) => `agreement.${name}.${rest}`;
  return html`<li key=${name} data-shadow=${name}>
    ${variantName(name, look, copied !== undefined && html` <small>${share(copied)} of requests</small>`)}
    ${
      found.count
        ? html`<div class="estimate-text">${figure(field("rate"), found.mean, said.mean)}<small>${said.interval} agree${gate !== null && `; the gate requires ${share(gate)}`}</small></div>${forest({ ...found, scale, limit: gate, hue: look.hue, thin: found.count < FEW, label: `${said.mean} agree, 95% interval ${said.interval}` })}`
        : html`<p class="thin">nothing compared yet</p>`
    }
    <small class=${found.count < FEW ? "thin" : ""}>${figure(field("compared"), found.count, count(found.count))} compared${found.count < FEW && found.count > 0 ? ": too few to tell" : ""}${copies(report.shadow_counts?.[name])}</small>
    <${LatencyRatio} route=${report.route} name=${name} />
    <p><a href=${href("routes", report.route, "shadow", name)}>Disagreements of ${name}</a></p>
  </li>`;
}

// The newest responses next to the primary's: how much slower, and what failed.
function LatencyRatio({ route, name }) {
  const { data } = useGet(`routes/${encodeURIComponent(route)}/shadow?${new URLSearchParams({ shadow: name })}`, { every: EVERY_S });
  if (!data?.seen) return null;
  const failures = data.failed.reduce((sum, [, n]) => sum + n, 0);
  const kinds = data.failed.map(([kind, n]) => `${errorWords(kind)} ×${count(n)}`).join(", ");
  const field = (rest) => `shadow.${name}.${rest}`;
  const ratio = ([q, one]) => {
    if (!one || one.relative === null) return null;
    const ends = one.relative_interval?.map((end) => (end === null ? "…" : `×${significant(1 + end, 2)}`)).join(" to ");
    return html`<li key=${q}>${q} ${figure(field(`latency_ms.${q}`), data.latency_ms[q], milliseconds(data.latency_ms[q]))}, ${figure(field(`latency.${q}`), one.relative, `×${significant(1 + one.relative, 3)}`)} of the primary's ${ends ? `(${ends})` : "(too few to tell)"}</li>`;
  };
  return html`<ul class="note" data-latency=${name}>${Object.entries(data.latency).map(ratio)}
    <li>${figure(field("failed"), failures, count(failures))} of its last ${counted(data.seen, "response")} failed${kinds && `: ${kinds}`}</li></ul>`;
}

function copies(counts) {
  const parts = Object.entries(counts ?? {}).filter(([, n]) => n > 0);
  return parts.length ? ` · ${parts.map(([what, n]) => `${sentence(what.replace(/:(.*)/, " ($1)")).toLowerCase()} ${count(n)}`).join(" · ")}` : "";
}
