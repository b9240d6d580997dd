// The traffic of the last hour by variant, as small as a word: how much there was, and how its shares moved.

import { share } from "../core/format.js";
import { html } from "../vendor/preact.js";

const [WIDTH, HEIGHT] = [120, 28];
const MOVED = 0.02; // of the traffic: a smaller change is not worth a word

// trend: {since, step, expected: {variant: [counts]}}
export function spark(trend, colour) {
  const names = Object.keys(trend.expected).filter((name) => trend.expected[name].some((n) => n));
  const totals = trend.expected[names[0]]?.map((_, k) => names.reduce((sum, name) => sum + trend.expected[name][k], 0)) ?? [];
  const most = Math.max(...totals, 0);
  if (!most) return html`<div class="spark"></div>`;
  const width = WIDTH / totals.length;
  const below = totals.map(() => 0);
  const layers = names.map((name) => {
    const boxes = trend.expected[name].map((n, k) => {
      below[k] += n;
      const top = HEIGHT * (1 - below[k] / most);
      return n
        ? `M${(k * width).toFixed(1)} ${top.toFixed(1)}h${(width + 0.1).toFixed(1)}v${((n / most) * HEIGHT).toFixed(1)}h-${(width + 0.1).toFixed(1)}z`
        : "";
    });
    return html`<path key=${name} d=${boxes.join("")} fill=${colour(name).hue} />`;
  });
  const label = moves(trend, names, totals);
  return html`<div class="spark" data-field="trend" data-value=${totals.join()}><svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${label}><title>${label}</title>${layers}</svg></div>`;
}

// "The last hour: v2 from 10% to 40% of the traffic."
function moves({ expected }, names, totals) {
  const known = totals.map((n, k) => (n ? k : -1)).filter((k) => k >= 0);
  const part = (name, k) => expected[name][k] / totals[k];
  const said = names
    .map((name) => [name, part(name, known[0]), part(name, known.at(-1))])
    .filter(([, first, last]) => Math.abs(last - first) > MOVED)
    .map(([name, first, last]) => `${name} from ${share(first)} to ${share(last)}`);
  return `The last hour: ${said.length ? `${said.join(", ")} of the traffic` : "no share moved"}.`;
}
