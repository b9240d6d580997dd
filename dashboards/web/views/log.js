// What happened last: events of the route, and requests whose variant failed.

import { h } from "../dom.js";
import { ago, milliseconds, time } from "../format.js";
import { event, sentence } from "../words.js";
import { badge, section } from "./parts.js";

export function logView(events, failures, now) {
  return h("div", { class: "two", key: "log" }, eventsView(events, now), failuresView(failures, now));
}

function eventsView(events, now) {
  const shown = events ? [...events].reverse() : [];
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
            return h("li", { key: String(one.id) }, when(one.time, now), h("b", {}, title), h("span", {}, detail));
          }),
        )
      : h("p", { class: "empty" }, events ? "Nothing has happened yet." : "Loading…"),
  );
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
