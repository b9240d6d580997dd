// Figures as people read them: no more digits than the interval allows, and times in the reader's own zone.

const NONE = "–";
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const minutes = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const clock = new Intl.DateTimeFormat(undefined, minutes);
const exact = { ...minutes, second: "2-digit" };
const precise = new Intl.DateTimeFormat(undefined, exact);
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const full = new Intl.DateTimeFormat(undefined, {
  year: "numeric",
  month: "short",
  day: "numeric",
  ...exact,
  timeZoneName: "short"
});

export const none = NONE;

export function count(n) {
  if (n === null || n === undefined) return NONE;
  return Math.abs(n - Math.round(n)) < 0.05 ? whole.format(n) : fixed(n, 1);
}

// "1 request", "1,234 requests".
export function counted(n, noun) {
  const said = count(n);
  return `${said} ${noun}${said === "1" ? "" : "s"}`;
}

export function short(n) {
  if (n < 10_000) return whole.format(n);
  return formatter("compact", { notation: "compact", maximumSignificantDigits: 3 }).format(n);
}

// To make a formatter takes far longer than to use it, and a pointer that moves over charts uses dozens.
const formatters = new Map();

function formatter(key, options) {
  if (!formatters.has(key)) formatters.set(key, new Intl.NumberFormat(undefined, options));
  return formatters.get(key);
}

function fixed(number, digits) {
  const x = Math.abs(number) < 0.5 * 10 ** -digits ? 0 : number; // no "-0"
  return formatter(`fixed ${digits}`, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(x).replace("-", "−");
}

// How many decimals an interval of this half-width leaves room for: its own first digit, no more.
function decimals(half, most = 6) {
  return Math.min(most, Math.max(0, Math.ceil(-Math.log10(half))));
}

// A number with the digits that its interval leaves room for; with three where it has no width, and where `most`
// decimals would leave none of them.
function rounded(x, half, most = 6, digits = decimals(half, most)) {
  const tiny = half < 10 ** -most && Math.abs(x) < 10 ** (2 - most);
  return half > 0 && !tiny ? fixed(x, digits) : significant(x, 3);
}

export function share(p) {
  if (p === null || p === undefined) return NONE;
  if (p <= 0) return "0%";
  if (p >= 1) return "100%";
  if (p < 0.001) return "<0.1%";
  if (p > 0.999) return ">99.9%";
  const percent = p * 100;
  return `${fixed(percent, Math.abs(percent - Math.round(percent)) < 0.05 ? 0 : 1)}%`;
}

// A probability that is itself an estimate: whole percents, but honest at the ends.
export function probability(p) {
  if (p === null || p === undefined) return NONE;
  if (p < 0.001) return "<0.1%";
  if (p > 0.999) return ">99.9%";
  return `${fixed(p * 100, p < 0.01 || p > 0.99 ? 1 : 0)}%`;
}

const relative = (type) => type === "boolean" || type === "fraction";

// An estimate {count, mean, interval} of a metric's type, as {mean, interval} in words.
export function estimate(found, type) {
  if (!found || found.mean === null) return { mean: NONE, interval: "" };
  const factor = relative(type) ? 100 : 1;
  const unit = relative(type) ? "%" : "";
  if (!found.interval) return { mean: significant(found.mean * factor, 3) + unit, interval: "" };
  const [low, high] = found.interval.map((end) => end * factor);
  const text = (x) => rounded(x, (high - low) / 2, relative(type) ? 3 : 6);
  return { mean: text(found.mean * factor) + unit, interval: `${text(low)} – ${text(high)}${unit}` };
}

// A tick of an axis, with as many decimals as the step needs: .25 steps have two.
export function tick(x, step, type) {
  const factor = relative(type) ? 100 : 1;
  const size = Math.abs(step * factor) || 1;
  let digits = 0;
  while (digits < 9 && Math.abs(size * 10 ** digits - Math.round(size * 10 ** digits)) > 1e-6 * size * 10 ** digits) digits += 1;
  return fixed(x * factor, digits) + (relative(type) ? "%" : "");
}

// Round values from `low` to `high`, about five, and their step: an axis's labels stand where they say.
export function roundTicks(low, high) {
  const rough = (high - low || Math.abs(high) || 1) / 5;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((factor) => factor * size >= rough * 0.999);
  const values = [];
  // Where the ends are neighbouring floats, k + 1 is k: the loop would not end.
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9 && k + 1 !== k; k += 1) values.push(k * step);
  return { values, step };
}

// The same of a logarithmic axis: 1, 2, 5, 10 …
export function roundLogTicks(low, high) {
  const values = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1)
    values.push(...[1, 2, 5].map((factor) => factor * 10 ** power).filter((value) => value >= low && value <= high));
  return values;
}

// A tick of an axis of differences: "+2 pp".
export function signedTick(x, step, what) {
  const size = tick(Math.abs(x), step, what).replace("%", " pp") + (what === "ms" ? " ms" : "");
  return /[1-9]/.test(size) ? (x > 0 ? "+" : "−") + size : size;
}

// What a metric's values are written in: "fraction", "ms", or "real".
export function kind(metric, declared) {
  if (metric.startsWith("latency_")) return "ms";
  if (["error_rate", "client_error_rate", "agreement"].includes(metric)) return "fraction";
  return relative(declared[metric]?.type) ? "fraction" : "real";
}

// A difference of means with its interval, in words: {text: "+1.6 pp", interval: "−7.0 to +7.7"}.
export function difference(absolute, interval, what) {
  if (absolute === null || absolute === undefined) return { text: NONE, interval: "" };
  const factor = what === "fraction" ? 100 : 1;
  const unit = { fraction: " pp", ms: " ms" }[what] ?? "";
  const ends = (interval ?? [null, null]).map((end) => (end === null ? null : end * factor));
  const known = ends.filter((end) => end !== null);
  const half = known.length === 2 ? (ends[1] - ends[0]) / 2 : known.length ? Math.abs(known[0] - absolute * factor) : null;
  const coarse = decimals(half);
  const digits = known.some((x) => x && Math.abs(x) < 0.5 / 10 ** coarse) ? coarse + 1 : coarse; // an end keeps its sign
  const size = (x) => (half === null ? significant(Math.abs(x), 2) : rounded(Math.abs(x), half, 6, digits));
  const text = (x) => (/[1-9]/.test(size(x)) ? (x > 0 ? "+" : "−") : "±") + size(x);
  const said = known.length ? ends.map((end) => (end === null ? "…" : text(end))).join(" to ") : "";
  return { text: text(absolute * factor) + unit, interval: said };
}

export function significant(x, digits) {
  if (x === 0) return "0";
  return formatter(`significant ${digits}`, { maximumSignificantDigits: digits }).format(x).replace("-", "−");
}

// An expected loss in the metric's own unit (percentage points for shares), with no more digits than the metric's
// interval leaves room for.
export function loss(x, type, interval = null) {
  if (x === null || x === undefined) return NONE;
  const factor = relative(type) ? 100 : 1;
  const unit = relative(type) ? " pp" : "";
  const half = interval ? ((interval[1] - interval[0]) / 2) * factor : 0.01;
  if (x * factor === 0) return `0${unit}`;
  if (!(half > 0)) return significant(x * factor, 3) + unit;
  const digits = decimals(half);
  const least = 10 ** -digits;
  if (x * factor < least) return `<${fixed(least, digits)}${unit}`;
  return fixed(x * factor, digits) + unit;
}

// A rate without its unit: "4.9", "1.2K".
export function perSecond(rate) {
  return rate >= 99.5 || rate === 0 ? short(Math.round(rate)) : rate.toPrecision(2).replace(/\.0$/, "");
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms >= 10_000) return `${significant(ms / 1000, 3)} s`;
  if (ms >= 1000) return `${fixed(ms / 1000, 2)} s`;
  return `${significant(ms, ms < 1 ? 2 : 3)} ms`;
}

export function seconds(s) {
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400 && s % 3600) return `${Math.round(s / 60)} min`;
  if (s < 129_600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} d`;
}

const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" });

// "CET": the zone in which all times of the page are written.
export function zoneName(at = Date.now() / 1000) {
  return zone.formatToParts(at * 1000).find((part) => part.type === "timeZoneName")?.value ?? "";
}

// A tick of a time axis that shows `span` seconds.
export function tickTime(at, span) {
  return (span > 172_800 ? day : span < 600 ? precise : clock).format(at * 1000);
}

export function clockTime(at) {
  return clock.format(at * 1000);
}

// The clock today, with the date before and after.
export function moment(at, now, exactly = false) {
  const said = (exactly ? precise : clock).format(at * 1000);
  return Math.abs(now - at) < 43_200 ? said : `${day.format(at * 1000)} ${said}`;
}

export function time(at) {
  return full.format(at * 1000);
}

export function ago(at, now) {
  const past = Math.max(0, now - at);
  return past < 5 ? "just now" : `${seconds(past)} ago`;
}
