// What a person decides from: the headline, where the rollout stands, the scorecard, and pictures of the difference.

import { useGet } from "../core/data.js";
import { count, none, probability, share } from "../core/format.js";
import { href } from "../core/router.js";
import { FEW, lossOf, metricsOf } from "../core/words.js";
import { emptyState, figure, section, variantName } from "../parts/basics.js";
import { headline } from "../parts/headline.js";
import { Pictures } from "../parts/pictures.js";
import { scorecard } from "../parts/scorecard.js";
import { Segments } from "../parts/segments.js";
import { table } from "../parts/table.js";
import { timeline } from "../parts/timeline.js";
import { html, useState } from "../vendor/preact.js";
import { Agreement, shadowList } from "./agreement.js";
import { newestStep, steps } from "./history.js";

export function FirstTab(given) {
  return given.report.policy === "shadow" ? html`<${Agreement} ...${given} />` : html`<${Decide} ...${given} />`;
}

function Decide({ report, colour, now, session }) {
  const history = useGet(`routes/${encodeURIComponent(report.route)}/history?limit=6`, { again: newestStep(report) });
  return [
    headline(report, colour),
    timeline(report, now),
    report.rollout?.phase === "shadow" && shadowList(report, colour),
    report.contextual && html`<${Segments} key="segments" report=${report} colour=${colour} />`,
    report.rollout || metricsOf(report).length || report.recent.assigned || total(report) ? scorecard(report, colour) : start(report),
    report.segments.length > 0 && html`<${Segments} key="segments" report=${report} colour=${colour} now=${now} />`,
    variants(report, colour),
    html`<${Opened} key="pictures" report=${report} colour=${colour} now=${now} />`,
    report.agreement && report.rollout?.phase !== "shadow" && shadowList(report, colour),
    history.data &&
      section(
        "happened",
        "What happened",
        html`<a href=${href("routes", report.route, "history")}>All steps</a>`,
        steps(history.data.steps, now, report, session)
      )
  ];
}

function Opened(given) {
  const [open, setOpen] = useState(false);
  return html`<details class="card pictures" onToggle=${(e) => setOpen(e.currentTarget.open)}>
    <summary><h2>Pictures</h2> <span class="note">where the difference may lie, and how it stood over time; latency quantile by quantile</span></summary>
    ${open && html`<${Pictures} ...${given} />`}
  </details>`;
}

const total = (report) => Object.values(report.variants).reduce((sum, v) => sum + v.assigned, 0);

function start(report) {
  const { protocol, hostname, port, origin } = location;
  const grpc = report.example.startsWith("grpcurl"); // which wants a port, and no scheme
  const own = grpc ? `${hostname}:${port || (protocol === "https:" ? 443 : 80)}` : origin;
  const command = report.example.replace(/ADDRESS(?=:)/, grpc ? hostname : `${protocol}//${hostname}`).replace("ADDRESS", own);
  return section(
    "start",
    "No requests yet",
    null,
    emptyState(`Send one through ${report.example.includes("ADDRESS") ? "the gateway" : "its engine"}`, "It appears here within a second.", command)
  );
}

// Who gets what, and what the posterior says of it: figures to look up, not to decide by.
function variants(report, colour) {
  const names = Object.keys(report.variants);
  const contested = names.some((name) => report.variants[name].probability_best !== null);
  const column = (title, by, tip) => ({ title, by: (name) => by(report.variants[name], name), tip, number: true });
  const columns = [
    { title: "Variant", by: (name) => name },
    column("Share", (_, name) => report.allocation[name]),
    column("Requests", (v) => v.assigned, "Assigned to it"),
    column("Served", (v) => v.served, "Responses"),
    column("Fallbacks", (v) => v.fallbacks, "Assigned to it, served by another")
  ];
  if (contested)
    columns.push(
      column("P(best)", (v) => v.probability_best, "Probability that it is the best"),
      column("Expected loss", (v) => v.expected_loss, "Of choosing it now, on average")
    );
  const note = contested
    ? `P(best) and the expected loss are of the means of ${report.metric}, under the policy's prior: not for deciding by themselves.`
    : null;
  return section(
    "variants",
    "Variants",
    note,
    table("variants", "Variants", columns, names, (name) => variant(report, name, colour(name), contested))
  );
}

function variant(report, name, look, contested) {
  const v = report.variants[name];
  const field = (rest) => `variants.${name}.${rest}`;
  const few = report.metric in report.metrics && v.rewards[report.metric].observations < FEW;
  const cell = (rest, value, text) =>
    html`<td class=${`number${few && rest.startsWith("p") ? " thin" : ""}`}>${figure(rest === "share" ? `allocation.${name}` : field(rest), value, text)}</td>`;
  return html`<tr key=${name} data-variant=${name}>
    <th scope="row">${variantName(name, look)}${role(report, name)}</th>
    ${cell("share", report.allocation[name] ?? 0, name in report.allocation ? share(report.allocation[name]) : none)}
    ${cell("assigned", v.assigned, count(v.assigned))}
    ${cell("served", v.served, count(v.served))}
    ${cell("fallbacks", v.fallbacks, count(v.fallbacks))}
    ${contested && cell("probability_best", v.probability_best, probability(v.probability_best))}
    ${contested && cell("expected_loss", v.expected_loss, lossOf(report, v))}
  </tr>`;
}

function role(report, name) {
  const shadow = report.shadows?.[name];
  const roles = [name === report.baseline && "baseline", name === report.candidate && "candidate", shadow !== undefined && `shadow of ${share(shadow)}`].filter(
    Boolean
  );
  return roles.length ? html`<small>${roles.join(" · ")}</small>` : null;
}
