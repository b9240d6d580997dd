// What happened last: events of the route, and requests whose variant failed.

import { h } from "../dom.js";
import { ago, milliseconds, time } from "../format.js";
import { event, sentence } from "../words.js";
import { badge, section } from "./parts.js";

export function logView(events, failures, now) {
  return h("div", { class: "two", key: "log" }, eventsView(events, now), failuresView(failures, now));
}

function eventsView(events, now) {
  const shown = events ? gathered([...events].reverse()) : [];
  return section(
    "events",
    "Events",
    null,
    shown.length
      ? h(
          "ol",
          { class: "log" },
          shown.map((one) => {
            const [title, detail] = event(one);
            const more = one.times > 1 && h("small", {}, ` ${one.times} changes, the last:`);
            return h("li", { key: one.key }, when(one.time, now), h("div", {}, h("b", {}, title), more), h("span", {}, detail));
          }),
        )
      : h("p", { class: "empty" }, events ? "Nothing has happened yet." : "Loading…"),
  );
}

// A bandit changes its allocation every second: a run of such changes is one entry, its oldest naming it.
function gathered(events) {
  const found = [];
  for (const one of events) {
    const last = found.at(-1);
    if (one.kind === "allocation" && last?.kind === "allocation" && one.route === last.route) {
      last.times += 1;
      last.key = String(one.id);
    } else found.push({ ...one, times: 1, key: String(one.id) });
  }
  return found;
}

function failuresView(failures, now) {
  return section(
    "failures",
    "Latest errors",
    "Of the assigned variant, also where a fallback hid them.",
    failures?.length
      ? h(
          "ol",
          { class: "log" },
          failures.map((one) =>
            h(
              "li",
              { key: one.decision },
              when(one.time, now),
              h("b", {}, `${one.assigned}: ${sentence(one.error)}`),
              h("span", {}, badge(String(one.status), one.status < 400 ? "good" : "bad"), ` ${outcome(one)} after ${milliseconds(one.total_ms)}`),
            ),
          ),
        )
      : h("p", { class: "empty" }, failures ? "No errors on record." : "Loading…"),
  );
}

function outcome(one) {
  if (one.fallback) return `answered by ${one.served}`;
  return one.served ? "answered all the same" : one.status < 400 ? "answered by a fixed answer" : "the client got the error";
}

function when(at, now) {
  return h("time", { datetime: new Date(at * 1000).toISOString(), title: time(at) }, ago(at, now));
}
