// Shadows: how often they agree with what the client got, and what became of the copies.

import { interval, reach } from "../charts/interval.js";
import { h } from "../dom.js";
import { count, estimate, share } from "../format.js";
import { FEW, sentence } from "../words.js";
import { figure, section, swatch } from "./parts.js";

export function agreementView(report, colour) {
  if (!report.agreement) return null;
  const names = Object.keys(report.agreement);
  const means = names.map((name) => asEstimate(report.agreement[name]));
  const scale = reach(means, [0, 1]);
  return section(
    "agreement",
    "Shadow agreement",
    "Copies of requests, compared with what the client got; their answers reach nobody.",
    h("ul", { class: "shadows" }, names.map((name, k) => shadow(report, name, means[k], scale, colour(name)))),
  );
}

function asEstimate(found) {
  return { count: found.compared, mean: found.rate, interval: found.interval };
}

function shadow(report, name, found, scale, hue) {
  const said = estimate(found, "fraction");
  const copied = report.shadows?.[name];
  const field = (rest) => `agreement.${name}.${rest}`;
  return h(
    "li",
    { key: name, "data-shadow": name },
    h("div", { class: "variant-name" }, swatch(hue), h("b", {}, name), copied !== undefined && h("small", {}, `${share(copied)} of requests`)),
    found.count
      ? [
          h("div", { class: "estimate-text" }, figure(field("rate"), found.mean, said.mean), h("small", {}, `${said.interval} agree`)),
          interval(found, scale, hue, `${said.mean} agree, 95% interval ${said.interval}`),
        ]
      : h("p", { class: "thin" }, "nothing compared yet"),
    h(
      "small",
      { class: found.count < FEW ? "thin" : "" },
      figure(field("compared"), found.count, count(found.count)),
      " compared",
      found.count < FEW && found.count > 0 && ": too few to tell",
      copies(report.shadow_counts?.[name]),
    ),
  );
}

function copies(counts) {
  const parts = Object.entries(counts ?? {}).filter(([, n]) => n > 0);
  return parts.length ? ` · ${parts.map(([what, n]) => `${sentence(what).toLowerCase()} ${count(n)}`).join(" · ")}` : "";
}
