// One route: what to decide, over time, its health, its history.

import { palette } from "../core/colours.js";
import { useGet } from "../core/data.js";
import { count, moment } from "../core/format.js";
import { later } from "../core/later.js";
import { href } from "../core/router.js";
import { alarmed, sentence } from "../core/words.js";
import { figure, notice, policyBadge } from "../parts/basics.js";
import { html } from "../vendor/preact.js";
import { Steering } from "./steering.js";

const FirstTab = later(() => import("./decide.js"), "FirstTab");
const HealthTab = later(() => import("./health.js"), "HealthTab");
const HistoryTab = later(() => import("./history.js"), "HistoryTab");
const TimeTab = later(() => import("./time.js"), "TimeTab");

export function RoutePage({ page, report: live, events, now, session, stale, away }) {
  const { baseline } = page.query;
  const chosen = baseline && baseline !== live.compared_with && baseline in live.variants;
  const other = useGet(chosen ? `routes/${encodeURIComponent(live.route)}?baseline=${encodeURIComponent(baseline)}` : null, { every: 5 });
  const report = chosen && other.data ? other.data : live;
  const colour = palette(Object.keys(report.variants));
  const first = report.policy === "shadow" ? "Agreement" : "Decide";
  const tabs = [
    [null, first],
    ["time", "Over time"],
    ["health", "Health"],
    ["history", "History"]
  ];
  const given = { report, colour, events, now, session };
  return [
    html`<div class="page-head" key="head">
      <h1>${report.route}</h1>
      <div class="badges">${policyBadge(report.policy)}<span class="note" title="The numbers of the allocation and of the configuration in force">epoch ${figure("epoch", report.epoch, count(report.epoch))} · revision ${figure("revision", report.revision, count(report.revision))}</span></div>
      <${Steering} report=${report} session=${session} stale=${stale} away=${away} />
    </div>`,
    html`<nav class="tabs" key="tabs" aria-label="Parts of this route">
      ${tabs.map(([tab, title]) => html`<a key=${title} href=${href("routes", report.route, ...(tab ? [tab] : []))} aria-current=${page.tab === tab ? "page" : null}>${title}</a>`)}
    </nav>`,
    chosen &&
      other.error &&
      notice(
        "bad stale",
        `The comparison with ${baseline} can't be read`,
        `${other.error.message}${report === live ? "" : ` What you see is from ${moment(report.as_of, now)}.`}`
      ),
    report.alarms.map((alarm) => notice("bad", sentence(alarm.code), alarmed(alarm, now))),
    page.tab === null && html`<${FirstTab} key="first" ...${given} />`,
    page.tab === "time" && html`<${TimeTab} key="time" ...${given} />`,
    page.tab === "health" && html`<${HealthTab} key="health" ...${given} />`,
    page.tab === "history" && html`<${HistoryTab} key="history" ...${given} />`
  ];
}
