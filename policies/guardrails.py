"""Guardrails: is the candidate no worse than the baseline, as far as can be told by now?

Four answers, which are four things: ``pass`` (shown to be within the limit), ``fail`` (shown to be
beyond it), ``inconclusive`` (the data can't tell yet) and ``error`` (could not look). The limit is the
non-inferiority margin: pass means that the whole interval is on the good side of it, fail that the whole
interval is on the bad side.

All intervals are always-valid: looking each second, and stopping when one likes what one sees, costs
nothing. Comparison is with the concurrent baseline of the same epoch only, never with history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

from policies import asymptotic
from policies.contrast import Rate, difference_interval, mean_interval
from policies.latency import Edges
from policies.measures import Evidence, Interval, Kind, Measured, check_counts, latency_quantile, measure

__all__ = [
    "SICK",
    "Evidence",
    "Guardrail",
    "Interval",
    "Judgement",
    "Kind",
    "Outcome",
    "Verdict",
    "could_not_look",
    "judge",
    "judge_agreement",
    "judge_all",
    "judge_alone",
    "latency_quantile",
    "sick_baseline",
]

Outcome = Literal["pass", "fail", "inconclusive", "error"]

SICK: Final = 0.2
"""A baseline whose error rate is shown to be above this is no measure for anything."""
_HORIZON: Final = 10
"""Doublings of the data beyond which no estimate of what is missing is honest."""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """How much worse than the baseline's a metric may be. Exactly one of the three limits.

    ``metric``: ``error_rate``, ``latency_p50`` (p95, p99, p999, ...; milliseconds) or a declared metric.
    ``max_increase`` and ``max_decrease`` are in the metric's own unit (0.005 is half a percentage point
    of a rate), ``max_ratio`` is candidate / baseline. Raises ValueError when not exactly one is given.
    """

    metric: str
    max_increase: float | None = None
    max_decrease: float | None = None
    max_ratio: float | None = None
    min_samples: int = 0

    def __post_init__(self) -> None:
        limits = [x for x in (self.max_increase, self.max_decrease, self.max_ratio) if x is not None]
        if len(limits) != 1 or not math.isfinite(limits[0]) or limits[0] < 0:
            raise ValueError(
                f"the guardrail on {self.metric!r} needs exactly one of max_increase, max_decrease and "
                "max_ratio, a finite number not below 0"
            )

    @property
    def bound(self) -> Literal["max_increase", "max_decrease", "max_ratio"]:
        if self.max_increase is not None:
            return "max_increase"
        return "max_decrease" if self.max_decrease is not None else "max_ratio"

    @property
    def limit(self) -> float:
        limits = (self.max_increase, self.max_decrease, self.max_ratio)
        return next(limit for limit in limits if limit is not None)

    def outcome(self, interval: Interval) -> Outcome:
        """What the interval of the difference (of the ratio) says about the limit."""
        low, high = interval
        if self.max_decrease is not None:
            low, high = -high, -low
        if low > self.limit:
            return "fail"
        return "pass" if high <= self.limit else "inconclusive"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guardrail says now."""

    metric: str
    verdict: Outcome
    bound: str
    """max_increase | max_decrease | max_ratio | at_least | at_most"""
    limit: float
    alpha: float
    """This guardrail's share of the false-alarm rate: over all looks of the epoch together."""
    estimate: float | None = None
    """Candidate - baseline, or candidate / baseline for max_ratio."""
    interval: Interval | None = None
    """Of the estimate; holds at all times at once with probability 1 - alpha."""
    baseline: float | None = None
    candidate: float | None = None
    samples: float = 0.0
    """The candidate's observations of this metric."""
    reason: str = ""
    more_requests: int | None = None
    """About how many more requests to the candidate a decision needs if what was seen goes on; None where
    nothing honest can be said."""
    minutes: float | None = None
    """The same at the present rate."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: what is not finite is null."""
        return {
            "metric": self.metric,
            "verdict": self.verdict,
            "bound": self.bound,
            "limit": self.limit,
            "alpha": self.alpha,
            "estimate": _finite(self.estimate),
            "interval": None if self.interval is None else [_finite(end) for end in self.interval],
            "baseline": _finite(self.baseline),
            "candidate": _finite(self.candidate),
            "samples": self.samples,
            "reason": self.reason,
            "more_requests": self.more_requests,
            "minutes": _finite(self.minutes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`, but that what was not finite is None, and an open end infinite."""
        ends = data["interval"]
        open_ends = (-math.inf, math.inf)
        interval = (
            None
            if ends is None
            else tuple(o if e is None else e for e, o in zip(ends, open_ends, strict=True))
        )
        return cls(**{**data, "interval": interval})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """All guardrails at one moment. ``sick``: "" or why the baseline can't be compared with."""

    verdicts: tuple[Verdict, ...]
    sick: str = ""


def judge_all(
    guardrails: Sequence[Guardrail],
    baseline: Evidence,
    candidate: Evidence,
    alpha: float,
    *,
    edges: Edges | None = None,
    sick_above: float = SICK,
    forecast: bool = True,
) -> Judgement:
    """Every guardrail, and whether the baseline itself is sick.

    ``alpha`` is split evenly over the guardrails and the check of the baseline (Bonferroni), so the
    probability that anything at all is said wrongly in this epoch, over all looks, is at most ``alpha``.
    """
    share = alpha / (len(guardrails) + 1)
    verdicts = tuple(
        judge(rail, baseline, candidate, share, edges=edges, forecast=forecast) for rail in guardrails
    )
    failed = any(verdict.verdict == "fail" for verdict in verdicts)
    return Judgement(verdicts, sick_baseline(baseline, candidate, share, failed=failed, limit=sick_above))


def sick_baseline(
    baseline: Evidence, candidate: Evidence, alpha: float, *, failed: bool = False, limit: float = SICK
) -> str:
    """ "" or why the baseline is the sick one.

    It is when its own error rate is shown to be above ``limit``; or when a guardrail ``failed`` while
    the baseline is shown to answer with more errors than the candidate (it fails fast, say, and so looks
    quicker): rolling back would then send users to the worse of the two.
    """
    try:
        check_counts(baseline)
        check_counts(candidate)
    except ValueError:
        return ""
    own = Rate(baseline.errors, baseline.requests)
    low, _ = mean_interval(own, alpha)
    if low > limit:
        return f"the baseline's own error rate is above {limit:.3g} (at least {low:.3g})"
    if failed:
        _, high = difference_interval(own, Rate(candidate.errors, candidate.requests), alpha)
        if high < 0:
            return "a guardrail failed, but the baseline has more errors than the candidate"
    return ""


def judge(
    guardrail: Guardrail,
    baseline: Evidence,
    candidate: Evidence,
    alpha: float,
    *,
    edges: Edges | None = None,
    forecast: bool = True,
) -> Verdict:
    """One guardrail's verdict at level ``alpha`` (for several guardrails see `judge_all`).

    ``edges`` gives the ends of a latency bucket in milliseconds; a latency guardrail needs it. ``forecast``:
    whether to work out how much more data an undecided verdict needs, which is most of the cost. Never
    raises: what can't be looked at is the verdict ``error`` with a reason.
    """
    try:
        ratio = guardrail.bound == "max_ratio"
        measured = measure(guardrail.metric, baseline, candidate, ratio=ratio, edges=edges)
    except ValueError as fault:
        return could_not_look(guardrail, alpha, str(fault))
    verdict = _decide(guardrail, measured, alpha)
    if verdict.verdict != "inconclusive" or not forecast:
        return verdict
    scale = _missing(guardrail, measured, alpha) if candidate.requests else None
    return _forecast(verdict, scale, candidate.requests, candidate.seconds)


def could_not_look(guardrail: Guardrail, alpha: float, reason: str) -> Verdict:
    """The verdict ``error``: for when the evidence could not even be read."""
    return Verdict(guardrail.metric, "error", guardrail.bound, guardrail.limit, alpha, reason=reason)


def judge_agreement(
    agreeing: float,
    compared: float,
    at_least: float,
    alpha: float,
    *,
    seconds: float = 0.0,
    forecast: bool = True,
) -> Verdict:
    """A shadow's gate: pass once the agreement rate is shown to be at least ``at_least``.

    ``agreeing`` of ``compared`` answers agreed, within ``seconds``; what is missing is in compared answers.
    """

    def outcome(scale: float) -> Outcome:
        low, high = mean_interval(Rate(agreeing * scale, compared * scale), alpha)
        if high < at_least:
            return "fail"
        return "pass" if low >= at_least else "inconclusive"

    rate = agreeing / compared if compared else None
    verdict = Verdict(
        "agreement",
        outcome(1.0),
        "at_least",
        at_least,
        alpha,
        rate,
        mean_interval(Rate(agreeing, compared), alpha),
        candidate=rate,
        samples=compared,
    )
    if verdict.verdict != "inconclusive" or not compared or not forecast:
        return verdict
    scale = _enough(lambda k: outcome(k) == "inconclusive")
    return _forecast(verdict, scale, compared, seconds)


def judge_alone(evidence: Evidence, at_most: float, alpha: float) -> Verdict:
    """An error rate without a baseline to compare with, against an absolute limit.

    For the time after promotion, when the baseline gets no traffic: ``fail`` once the rate is shown to be
    above ``at_most``.
    """
    try:
        check_counts(evidence)
    except ValueError as fault:
        return Verdict("error_rate", "error", "at_most", at_most, alpha, reason=str(fault))
    interval = mean_interval(Rate(evidence.errors, evidence.requests), alpha)
    outcome: Outcome = "fail" if interval[0] > at_most else "inconclusive"
    if interval[1] <= at_most:
        outcome = "pass"
    rate = evidence.errors / evidence.requests if evidence.requests else None
    verdict = Verdict("error_rate", outcome, "at_most", at_most, alpha, rate, interval)
    return replace(verdict, candidate=rate, samples=evidence.requests)


# From the interval to the verdict --------------------------------------------------------------------


def _decide(guardrail: Guardrail, measured: Measured, alpha: float) -> Verdict:
    interval = measured.interval(alpha, 1.0) if measured.samples and measured.baseline_samples else None
    outcome: Outcome = guardrail.outcome(interval) if interval is not None else "inconclusive"
    reason = _reason(guardrail, measured, interval)
    if measured.samples < guardrail.min_samples:
        outcome = "inconclusive"
    return Verdict(
        guardrail.metric,
        outcome,
        guardrail.bound,
        guardrail.limit,
        alpha,
        _estimate(guardrail, measured),
        interval,
        _known(measured.baseline),
        _known(measured.candidate),
        measured.samples,
        reason if outcome == "inconclusive" else "",
    )


def _estimate(guardrail: Guardrail, measured: Measured) -> float | None:
    if guardrail.bound != "max_ratio":
        return _known(measured.candidate - measured.baseline)
    return measured.candidate / measured.baseline if measured.baseline > 0 else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _reason(guardrail: Guardrail, measured: Measured, interval: Interval | None) -> str:
    if not measured.samples or not measured.baseline_samples:
        which = "candidate" if not measured.samples else "baseline"
        return f"nothing was observed of the {which} yet"
    if measured.samples < guardrail.min_samples:
        return f"{measured.samples:g} of {guardrail.min_samples} samples"
    if interval is None:
        return (
            f"each variant needs {asymptotic.MINIMUM} values, and they must vary"
            if guardrail.bound != "max_ratio"
            else f"each variant needs {asymptotic.MINIMUM} values, and the baseline's mean must be above 0"
        )
    return "the interval includes the limit"


def _missing(guardrail: Guardrail, measured: Measured, alpha: float) -> float | None:
    """How many times the data it takes for the interval to leave the limit, if both go on exactly as so far."""
    if not (measured.samples and measured.baseline_samples):
        return None

    def undecided(scale: float) -> bool:
        interval = measured.interval(alpha, scale)
        return interval is None or guardrail.outcome(interval) == "inconclusive"

    least = guardrail.min_samples / measured.samples
    scale = _enough(undecided, max(2.0, least))
    return None if scale is None else max(scale, least)


def _enough(undecided: Callable[[float], bool], high: float = 2.0) -> float | None:
    """Roughly the least scale that decides; None where no honest one can be had."""
    low = 1.0
    for _ in range(_HORIZON):
        if not undecided(high):
            break
        low, high = high, high * 2
    else:
        return None
    for _ in range(3):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if undecided(middle) else (low, middle)
    return high


def _forecast(verdict: Verdict, scale: float | None, requests: float, seconds: float) -> Verdict:
    if scale is None:
        return verdict
    more = _rounded((scale - 1) * requests)
    return replace(
        verdict, more_requests=more, minutes=more / requests * seconds / 60 if seconds > 0 else None
    )


def _rounded(requests: float) -> int:
    """To two digits, upwards: it is said with "about"."""
    step = 10.0 ** max(0, math.floor(math.log10(max(requests, 1.0))) - 1)
    return round(math.ceil(requests / step) * step)
