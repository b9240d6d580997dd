"""The comparisons on the page of ``turnout report``: guardrails, metrics, segments and shadows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from gateway.commands.report_text import (
    NO_RATIO,
    NONE,
    Content,
    Html,
    Interval,
    Kind,
    difference,
    ends,
    factor_of,
    kind_of,
    loss,
    number,
    probability,
    share,
    table,
    tag,
    time,
    too_uncertain,
    value,
    words,
)
from policies.types import CLIENT_ERROR_RATE

Json = dict[str, Any]

MAX_ROWS: Final = 60
"""Segments on the page; the data have all."""
MAX_KINDS: Final = 10
WIDTH: Final = 140.0
"""Of the picture of an interval, in pixels."""
VERDICTS: Final = {"pass": "✓ pass", "fail": "✕ fail", "inconclusive": "? inconclusive", "error": "! error"}
BETTER: Final = {True: "better", False: "worse", None: "undecided"}
BREAK: Final = Html("<br>")


def guardrails(found: Json) -> Html:
    """Of a canary's candidate, or of each variant of a bandit."""
    verdicts = found["rollout"]["verdicts"] if found["rollout"] is not None else found["guardrails"]
    if not verdicts:
        return tag("p", "No guardrail has a verdict: none is configured, none has data, or a person decided.")
    rows = []
    for one in verdicts:
        limit, estimate, picture = judged(one, found["metrics"])
        past = f", {_adjusted(one)}" if one["adjusted_by"] else ""
        levels = f"α: fail {number(one['alpha'])}, pass {number(one['alpha_pass'] or one['alpha'])}"
        seen = [f"{number(one['samples'])} {one['unit']}{past}", BREAK, tag("small", levels)]
        why = [BREAK, tag("small", one["reason"])] if one["reason"] else None
        name = f"{one['variant']}: {one['metric']}" if "variant" in one else one["metric"]
        rows.append([name, limit, estimate, picture, [verdict(one), why], seen])
    header = ["Metric", "Limit", "Against the baseline", "Interval", "Verdict", "Observations"]
    level = "each end of an interval holds at every look with probability 1 − α (pass)"
    return table(f"As they {_when(found['rollout'])}; {level}", header, rows)


def _adjusted(one: Json) -> str:
    return "adjusted by the past" if one["adjusted_by"] == "past" else "adjusted by a covariate"


def _when(rollout: Json | None) -> str:
    if rollout is None:
        return "stand now, or stood when they ejected their variant"
    decided = rollout["decided"]
    ended = rollout["state"] in ("promoted", "rolled_back", "halted") and not rollout.get("bake_until")
    return f"stood when they decided, at {time(decided['time'])}" if ended and decided else "stand now"


def verdict(one: Json) -> Html:
    return tag("b", VERDICTS.get(one["verdict"], one["verdict"]), class_=f"n {one['verdict']}")


def judged(one: Json, declared: Json) -> tuple[str, Content, Html]:
    """The limit and the estimate of a guardrail, and its picture."""
    kind, bound, limit = kind_of(one["metric"], declared), one["bound"], one["limit"]
    estimate, interval = one["estimate"], one["interval"]
    if bound in ("max_increase", "max_decrease"):
        edge = -limit if bound == "max_decrease" else limit
        said = [difference(estimate, kind), " ", ends(interval, factor_of(kind), "+")]
        return difference(edge, kind), said, forest(estimate, interval, [0.0], edge)
    if bound in ("max_ratio", "min_ratio"):
        edge, said = f"×{number(limit)}", [f"×{number(estimate)} ", ends(interval)]
    else:
        edge, said = value(limit, kind), [value(estimate, kind), " ", ends(interval, factor_of(kind))]
    marks = [1.0] if bound.endswith("_ratio") else []
    least = "at most" if bound in ("max_ratio", "at_most") else "at least"
    return f"{least} {edge}", said, forest(estimate, interval, marks, limit)


def metrics(found: Json) -> Iterator[Html]:
    variants, metric = found["variants"], found["metric"]
    rows: list[list[Content]] = []
    for name, about, means in _measured(found):
        kind, lifts = kind_of(name, found["metrics"]), {v: variants[v]["lift"].get(name) for v in means}
        known = [e for one in lifts.values() if one for e in (one["absolute"], *(one["interval"] or ()))]
        axis = [0.0, *(end for end in known if end is not None)]
        rows.append([[name, tag("small", f" {about}")]])
        rows += [
            [v, *mean, *(_lift(lifts[v], kind, axis) if v != found["compared_with"] else ("baseline", None))]
            for v, mean in means.items()
        ]
    header = [
        "Variant",
        "Values",
        "Mean or quantile",
        f"Difference from {found['compared_with']}",
        "Interval",
    ]
    yield table("With 95 % intervals; those of differences are always-valid", header, rows)
    best = {name: one for name, one in variants.items() if one["probability_best"] is not None}
    if best:
        kind = kind_of(metric or "", found["metrics"])
        said = (
            f"{name} {probability(one['probability_best'])} (expected loss {loss(one['expected_loss'], kind)})"
            for name, one in best.items()
        )
        yield tag("p", f"Probability of being best in {metric or 'utility'}: {', '.join(said)}.")


_OF_ERRORS: Final = {
    "error_rate": "failures of the assigned variant",
    CLIENT_ERROR_RATE: "responses of the assigned variant that are charged to the client, such as 404 and 422",
}


def _measured(found: Json) -> Iterator[tuple[str, str, dict[str, tuple[str, Content]]]]:
    """By metric: its name, what it is, and by variant the number of values and the mean with its interval."""
    variants = found["variants"]
    for metric, about in _OF_ERRORS.items():
        # An older gateway has no client errors.
        each = {n: v[metric] for n, v in variants.items() if metric in v}
        rates = {n: (number(one["count"]), _mean(one, "share")) for n, one in each.items()}
        yield metric, f"{about}; minimize", rates
    for q in ("p50", "p95", "p99"):
        quantiles: dict[str, tuple[str, Content]] = {
            n: (
                number(v["served"]),
                [value(v["latency_ms"][q], "ms"), " ", ends(v["latency_interval_ms"][q])],
            )
            for n, v in variants.items()
            if v["latency_ms"] is not None
        }
        if quantiles:
            yield f"latency_{q}", "to the last byte of the response; minimize", quantiles
    for metric, declared in found["metrics"].items():
        rewards = {n: v["rewards"][metric] for n, v in variants.items()}
        if any(one["count"] for one in rewards.values()):
            said = [
                declared["type"],
                declared["description"],
                declared["goal"],
                f"missing: {declared['missing']}",
            ]
            kind = kind_of(metric, found["metrics"])
            means = {n: (_values(one), _mean(one, kind)) for n, one in rewards.items()}
            yield metric, "; ".join(filter(None, said)), means


def _values(one: Json) -> str:
    fewer = one["observations"] != one["count"]
    return number(one["count"]) + (f" ({number(one['observations'])} observations)" if fewer else "")


def _mean(one: Json, kind: Kind) -> Content:
    if one["mean"] is None:
        return NONE
    return [value(one["mean"], kind), " ", ends(one["interval"], factor_of(kind))]


def _lift(one: Json | None, kind: Kind, axis: Sequence[float]) -> tuple[Content, Content]:
    """A difference, absolute and relative, and its picture."""
    if one is None or one["absolute"] is None:
        return "not compared" if one is None else "no difference can be computed yet", None
    how = [one["method"]] if one["method"] != "pooled" else []
    how += ["by unit"] if one["unit"] == "units" else []
    how += [_adjusted(one)] if one["adjusted_by"] else []
    relative: Content = [share(one["relative"], "+"), " ", ends(one["relative_interval"], 100.0, "+"), BREAK]
    if too_uncertain(one["relative_interval"]):
        relative = [NO_RATIO, BREAK]
    said = [
        [difference(one["absolute"], kind), " ", ends(one["interval"], factor_of(kind), "+"), BREAK],
        relative if one["relative"] is not None else None,
        [tag("b", BETTER[one["better"]]), tag("small", "".join(f", {part}" for part in how))],
    ]
    return said, forest(one["absolute"], one["interval"], axis, None)


def forest(
    estimate: float | None, interval: Interval | None, axis: Sequence[float], limit: float | None
) -> Html:
    """A picture of an estimate with its interval. A line marks the start of ``axis``, dashes the ``limit``."""
    if estimate is None:
        return Html("")
    points = [x for x in (estimate, limit, *axis, *(interval or ())) if x is not None]
    low, high = min(points), max(points)
    air = 0.08 * (high - low) or 1.0

    def at(x: float) -> float:
        return round((x - low + air) / (high - low + 2 * air) * WIDTH, 1)

    def line(x: float, **drawn: object) -> Html:
        return tag("line", x1=at(x), x2=at(x), y1=1, y2=17, **drawn)

    parts = [line(x, stroke="#777") for x in axis[:1]]
    if interval is not None:
        begin, end = (edge if x is None else at(x) for x, edge in zip(interval, (0.0, WIDTH), strict=True))
        parts.append(tag("rect", x=begin, y=7, width=round(end - begin, 1), height=4, fill="#8fb0d0"))
    if limit is not None:
        parts.append(line(limit, stroke="#a3161b", stroke_dasharray="3 2"))
    parts.append(tag("circle", cx=at(estimate), cy=9, r=3, fill="#123a63"))
    return tag("svg", parts, width=WIDTH, height=18, aria_hidden="true")


def segments(found: Json) -> Html:
    names = list(found["variants"])
    kind = kind_of(found["metric"] or "", found["metrics"])
    rows = []
    for one in found["contextual"]["segments"][:MAX_ROWS]:
        means = [one["means"].get(name) for name in names]
        name = f"{one['feature']} {one['value']}" if one["feature"] else "all requests"
        rows.append([name, *(_mean(mean, kind) if mean is not None else NONE for mean in means)])
    caption = f"Predicted {found['metric']} for the same requests, with 95 % credible intervals"
    return table(caption, ["Requests", *names], rows)


def shadows(found: Json) -> Iterator[Html]:
    rows = []
    for name, one in found["agreement"].items():
        more = found["shadow_reports"].get(name)
        rows.append(
            [
                name,
                f"{number(one['compared'])} of {number(one['answers'])}",
                [share(one["rate"]), " ", ends(one["interval"], 100.0)],
                *(_of_newest(more) if more is not None else ["not in the route"] * 3),
            ]
        )
    header = ["Shadow", "Compared", "Agreement", "Disagreements", "Failed", "Latency (the primary's)"]
    caption = "Agreement with its always-valid interval; the rest: of the newest 2,000 responses, by kind"
    yield table(caption, header, rows)
    for name, counts in (found["shadow_counts"] or {}).items():
        if not counts:
            continue
        said = ", ".join(f"{words(key)} {number(count)}" for key, count in counts.items())
        yield tag("p", f"Copies for {name} since the start of the process: {said}.")


def _of_newest(more: Json) -> Iterator[str]:
    """Disagreements, failures and latencies of a shadow's newest responses."""
    yield "; ".join(f"{kind} {number(count)}" for kind, count in more["kinds"][:MAX_KINDS]) or "none"
    yield "; ".join(f"{error} {number(count)}" for error, count in more["failed"]) or "none"
    sides = more["latency_ms"], more["primary_ms"]
    both = {q: [value(one[q] if one else None, "ms") for one in sides] for q in ("p50", "p99")}
    yield "; ".join(f"{q} {shadow} ({primary})" for q, (shadow, primary) in both.items())
