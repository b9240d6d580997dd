"""What was observed of two variants, and how each kind of metric becomes an interval."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from policies.sequential import asymptotic
from policies.sequential.adjusted import Paired, adjusted
from policies.sequential.design_based import WeightedSums
from policies.sequential.latency import (
    Edges,
    Histogram,
    quantile_difference,
    quantile_estimate,
    quantile_ratio,
)
from policies.sequential.two_sample import (
    BoundedMartingale,
    MeanMartingale,
    RateMartingale,
    UnitShareMartingale,
    difference_interval,
    ratio_interval,
    side_of,
)
from policies.types import CLIENT_ERROR_RATE, MetricType, PairSums, RewardSums

Interval = tuple[float, float]
MAX_CACHED_INTERVALS: Final = 8_192
"""Intervals that are remembered, about 4 MB."""
_ANY_LEVEL: Final = 0.05
"""Whether there is an interval of a difference does not depend on it."""
IntervalAt = Callable[[float, float], Interval | None]
"""(alpha, scale) to the interval that ``scale`` times as much of the same data would give; None for none."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed of one variant within one epoch.

    ``requests`` assigned to it, and ``errors`` of them that failed (fallback hides none). ``latency`` is a
    histogram {bucket: count}, ``rewards`` the sums of each metric, ``kinds`` what each metric is.
    ``seconds`` is the length of the window. ``ranges``: (least, greatest) value of metrics with a cap.

    ``units``: by sticky units, the sums of the share of each one's requests that failed; ``latency`` then holds
    each unit with the weight 1. None: errors and latencies are by request.

    ``before``: of metrics that are adjusted by it, what was known beforehand of the units or requests behind
    ``rewards``.

    ``weighted``: of metrics whose values are compared by the propensities of their decisions, their sums.
    """

    requests: float = 0.0
    errors: float = 0.0
    latency: Histogram = field(default_factory=dict)
    rewards: Mapping[str, RewardSums] = field(default_factory=dict)
    kinds: Mapping[str, MetricType] = field(default_factory=dict)
    seconds: float = 0.0
    ranges: Mapping[str, Interval] = field(default_factory=dict)
    units: RewardSums | None = None
    before: Mapping[str, PairSums] = field(default_factory=dict)
    weighted: Mapping[str, WeightedSums] = field(default_factory=dict)

    def kind(self, metric: str) -> MetricType | None:
        """What ``metric`` is; None if it is not declared, and not one of responses."""
        return "boolean" if metric == CLIENT_ERROR_RATE else self.kinds.get(metric)

    @property
    def errors_by_unit(self) -> RewardSums:
        """The error rate's observations: shares of units, or requests that failed or did not."""
        return self.units or RewardSums(self.requests, self.errors, self.errors)


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of both variants: estimates (NaN without data), sample counts, and the interval."""

    baseline: float
    candidate: float
    baseline_samples: float
    samples: float
    interval: IntervalAt
    asymptotic: bool = False
    """Whether `interval` is that of a mean without bounds."""
    side: Callable[[float, float, float], Interval | None] | None = None
    """(limit, alpha, scale) to a coarse interval on the same side of ``limit``, where that is plain and saves time."""

    def ends(self, alpha: float, scale: float = 1.0) -> Interval | None:
        """`interval`, of which each end alone is wrong with probability ``alpha`` at most: for what acts on one."""
        return self.interval(asymptotic.two_sided(alpha) if self.asymptotic else alpha, scale)


def measure(
    metric: str, baseline: Evidence, candidate: Evidence, *, ratio: bool, edges: Edges | None = None
) -> MetricComparison:
    """``metric`` of both: the interval is of candidate - baseline or, with ``ratio``, candidate / baseline.

    Raises ValueError when it can't be looked at: counts that can't be, an unknown metric, no ``edges``.
    """
    if metric == "error_rate":
        check_counts(baseline)
        check_counts(candidate)
    if metric in baseline.weighted and metric in candidate.weighted:
        return compare_weighted(baseline.weighted[metric], candidate.weighted[metric], ratio=ratio)
    if metric == "error_rate":
        return _of_errors(baseline, candidate, ratio=ratio)
    p = latency_quantile(metric)
    if p is not None:
        return _of_latency(baseline.latency, candidate.latency, p, edges, ratio=ratio)
    kind = candidate.kind(metric) or baseline.kind(metric)
    if kind is None:
        raise ValueError(f"no metric {metric!r} is declared; declare it under 'metrics'")
    first, second = (_checked(metric, kind, evidence) for evidence in (baseline, candidate))
    if metric in candidate.before or metric in baseline.before:
        return compare_adjusted(
            *(
                Paired.of(sums, evidence.before.get(metric, PairSums()))
                for sums, evidence in ((first, baseline), (second, candidate))
            ),
            ratio=ratio,
        )
    limits = candidate.ranges.get(metric)
    # A ratio survives a change of scale only, not of the origin: `_on_unit` moves a lower limit to 0.
    if limits is not None and not (ratio and limits[0]):
        return _of_capped(first, second, limits, ratio=ratio)
    if kind == "boolean" and candidate.units is not None:
        return _of_martingales(first, second, _unit_shares, ratio=ratio)
    if kind in ("boolean", "fraction"):
        return _of_martingales(first, second, _rate if kind == "boolean" else _bounded, ratio=ratio)
    return _of_means(first, second, ratio=ratio)


def known_beforehand(metric: str, *sides: Evidence) -> bool:
    """Whether anything was, so that the comparison is adjusted by it."""
    return any(metric in side.before and side.before[metric].x.count > 0 for side in sides)


def compare_adjusted(baseline: Paired, candidate: Paired, *, ratio: bool) -> MetricComparison:
    """Compare two variants of which something was known beforehand (`policies.sequential.adjusted`); else as
    `measure`."""
    return compare_weighted(*adjusted(baseline, candidate), ratio=ratio)


def compare_weighted(baseline: WeightedSums, candidate: WeightedSums, *, ratio: bool) -> MetricComparison:
    """Compare two variants whose shares moved (`policies.sequential.design_based`); else as `measure`."""
    first, second = baseline.sample(), candidate.sample()

    def at(alpha: float, scale: float) -> Interval | None:
        if first is None or second is None:
            return None
        interval = asymptotic.ratio_interval if ratio else asymptotic.difference_interval
        return interval(first.scaled(scale), second.scaled(scale), alpha)

    b, c = (math.nan if sample is None else sample.mean for sample in (first, second))
    known, seen = (min(sums.count, sums.groups) for sums in (baseline, candidate))
    return MetricComparison(b, c, known, seen, at, asymptotic=True)


def weighable(baseline: WeightedSums, candidate: WeightedSums) -> bool:
    """Whether `compare_weighted` has an interval: enough units of either, and values that are not all the same.

    Most candidates show no error at all; of that only exact intervals say anything.
    """
    return compare_weighted(baseline, candidate, ratio=False).interval(_ANY_LEVEL, 1.0) is not None


def check_counts(evidence: Evidence) -> None:
    """Raises ValueError where more errors than requests were counted."""
    if not 0 <= evidence.errors <= evidence.requests < math.inf:
        raise ValueError("more errors than requests were counted, or a negative number of either")


_DIGITS: Final = re.compile(r"latency_p(\d{1,6})")


def latency_quantile(metric: str) -> float | None:
    """0.99 for ``latency_p99``, 0.999 for ``latency_p999``; None for any other metric."""
    match = _DIGITS.fullmatch(metric)
    digits = match[1] if match else ""
    value = int(digits) / 10 ** max(len(digits), 2) if digits else 0.0
    return value if value > 0 else None


def _checked(metric: str, kind: MetricType, evidence: Evidence) -> RewardSums:
    sums = evidence.rewards.get(metric, RewardSums())
    if not all(map(math.isfinite, (sums.count, sums.total, sums.squares))) or sums.count < 0:
        raise ValueError(f"the sums of {metric!r} are not finite")
    # What adding and retracting doubles leaves.
    if kind in ("boolean", "fraction") and not -1e-6 <= sums.total <= sums.count + 1e-6:
        raise ValueError(f"the sums of {metric!r} don't fit values between 0 and 1")
    return sums


def _of_errors(baseline: Evidence, candidate: Evidence, *, ratio: bool) -> MetricComparison:
    first, second = baseline.errors_by_unit, candidate.errors_by_unit

    def at(alpha: float, scale: float) -> Interval | None:
        return _joint(ratio, error_martingale(baseline, scale), error_martingale(candidate, scale), alpha)

    def side(limit: float, alpha: float, scale: float) -> Interval | None:
        martingales = error_martingale(baseline, scale), error_martingale(candidate, scale)
        return side_of(limit, *martingales, alpha, ratio=ratio)

    return MetricComparison(first.mean, second.mean, first.count, second.count, at, side=side)


@lru_cache(MAX_CACHED_INTERVALS)
def _joint(ratio: bool, baseline: MeanMartingale, candidate: MeanMartingale, alpha: float) -> Interval:
    """The interval of two martingales: a search that takes milliseconds, and is asked for again and again."""
    return (ratio_interval if ratio else difference_interval)(baseline, candidate, alpha)


def error_martingale(evidence: Evidence, scale: float = 1.0) -> MeanMartingale:
    """What is known of an error rate, as if ``scale`` times as much had been seen."""
    if evidence.units is not None:
        return UnitShareMartingale(evidence.units * scale)
    return RateMartingale(evidence.errors * scale, evidence.requests * scale)


def _of_martingales(
    baseline: RewardSums, candidate: RewardSums, known: Callable[[RewardSums], MeanMartingale], *, ratio: bool
) -> MetricComparison:
    def at(alpha: float, scale: float) -> Interval | None:
        return _joint(ratio, known(baseline * scale), known(candidate * scale), alpha)

    def side(limit: float, alpha: float, scale: float) -> Interval | None:
        return side_of(limit, known(baseline * scale), known(candidate * scale), alpha, ratio=ratio)

    return MetricComparison(baseline.mean, candidate.mean, baseline.count, candidate.count, at, side=side)


def _of_means(baseline: RewardSums, candidate: RewardSums, *, ratio: bool) -> MetricComparison:
    def at(alpha: float, scale: float) -> Interval | None:
        interval = asymptotic.ratio_interval if ratio else asymptotic.difference_interval
        first, second = (asymptotic.Sample.of(sums * scale) for sums in (baseline, candidate))
        return interval(first, second, alpha)

    return MetricComparison(
        baseline.mean, candidate.mean, baseline.count, candidate.count, at, asymptotic=True
    )


def _of_capped(
    baseline: RewardSums, candidate: RewardSums, limits: Interval, *, ratio: bool
) -> MetricComparison:
    """Values between known limits, however skewed: the exact test of a fraction, in the metric's own unit."""
    low, width = limits[0], limits[1] - limits[0]
    unit = 1.0 if ratio else width

    def at(alpha: float, scale: float) -> Interval | None:
        first, second = (BoundedMartingale(_on_unit(s, low, width) * scale) for s in (baseline, candidate))
        ends = _joint(ratio, first, second, alpha)
        return ends[0] * unit, ends[1] * unit

    def side(limit: float, alpha: float, scale: float) -> Interval | None:
        first, second = (BoundedMartingale(_on_unit(s, low, width) * scale) for s in (baseline, candidate))
        ends = side_of(limit / unit, first, second, alpha, ratio=ratio)
        return None if ends is None else (ends[0] * unit, ends[1] * unit)

    return MetricComparison(baseline.mean, candidate.mean, baseline.count, candidate.count, at, side=side)


def _on_unit(sums: RewardSums, low: float, width: float) -> RewardSums:
    """The sums of (value - low) / width, which lies in [0, 1]."""
    n, total, squares = sums.count, sums.total, sums.squares
    moved = min(max((total - n * low) / width, 0.0), n)
    return RewardSums(n, moved, min(max((squares - 2 * low * total + n * low * low) / width**2, 0.0), moved))


def _rate(sums: RewardSums) -> RateMartingale:
    # Sums that lost a retracted value may miss 0 by a rounding error.
    return RateMartingale(min(max(sums.total, 0.0), sums.count), sums.count)


def _bounded(sums: RewardSums) -> BoundedMartingale:
    return BoundedMartingale(sums)


def _unit_shares(sums: RewardSums) -> UnitShareMartingale:
    """Yes-or-no values as the means of units, which vary less the more values each has."""
    return UnitShareMartingale(sums)


def _of_latency(
    baseline: Histogram, candidate: Histogram, p: float, edges: Edges | None, *, ratio: bool
) -> MetricComparison:
    if edges is None:
        raise ValueError("the ends of the latency buckets are not known here")
    if any(count < 0 for histogram in (baseline, candidate) for count in histogram.values()):
        raise ValueError("a latency histogram has a negative count")

    def at(alpha: float, scale: float) -> Interval | None:
        first, second = ({b: n * scale for b, n in h.items()} for h in (baseline, candidate))
        return (quantile_ratio if ratio else quantile_difference)(first, second, p, alpha, edges)

    first, second = quantile_estimate(baseline, p, edges), quantile_estimate(candidate, p, edges)
    return MetricComparison(first, second, sum(baseline.values()), sum(candidate.values()), at)
