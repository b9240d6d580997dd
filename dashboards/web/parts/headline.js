// The headline of a route: what it comes to, how the traffic is shared, and the last minutes.

import { count, estimate, milliseconds, seconds, share } from "../core/format.js";
import { standing } from "../core/words.js";
import { html } from "../vendor/preact.js";
import { explained, figure, inOrder, shareBar, swatch } from "./basics.js";

export function headline(report, colour) {
  const said = standing(report);
  return html`<section class=${`card verdict tone-${said.tone}`} key="verdict" aria-label="Summary">
    <div class="verdict-words"><p class="verdict-title" id="verdict">${said.title}</p><p class="note">${explained(said.detail)}</p></div>
    <div class="verdict-traffic">${shareBar(report.allocation, colour, true)}
      <ul class="legend">
        ${inOrder(report.allocation, colour)
          .filter(([name, p]) => p > 0 || !(name in (report.shadows ?? {})))
          .map(([name, p]) => html`<li key=${name}>${swatch(colour(name))}${name} <b>${share(p)}</b></li>`)}
        ${Object.entries(report.shadows ?? {}).map(([name, p]) => html`<li key=${`s-${name}`}>${swatch(colour(name))}${name} <b>shadow ${share(p)}</b></li>`)}
      </ul>
    </div>
    ${facts(report.recent)}
  </section>`;
}

function facts(found) {
  const rate = estimate(found.error_rate, "boolean");
  const span = seconds(found.seconds);
  const fact = (term, ...value) => html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`;
  const ms = (field, value) => figure(field, value, milliseconds(value));
  return html`<dl class="facts" aria-label=${`Last ${span}`}>
    ${fact(`Requests, ${span}`, figure("recent.assigned", found.assigned, count(found.assigned)))}
    ${fact("Errors", figure("recent.error_rate", found.error_rate.mean, rate.mean), " ", html`<small>${rate.interval}${found.fallbacks > 0 && ` · a fallback served ${count(found.fallbacks)}`}</small>`)}
    ${fact("Latency p50 · p99", ms("recent.p50", found.latency_ms?.p50), " · ", ms("recent.p99", found.latency_ms?.p99))}
    ${fact("Gateway's own p50 · p99", ms("recent.gateway.p50", found.gateway_ms?.p50), " · ", ms("recent.gateway.p99", found.gateway_ms?.p99))}
  </dl>`;
}
