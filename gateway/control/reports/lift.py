"""Variants against each other, metric by metric, in always-valid intervals.

All intervals of one metric hold together, at all times, with probability `LEVEL`: each of the K (K - 1) / 2 pairs
of variants spends an equal part of the error rate. The values of two variants are pooled over the times at which both
could be drawn, if their shares were constant then. Where shares moved, each value is weighted by its decision's
propensity (`policies.sequential.design_based`). Latencies are matched in time (`policies.sequential.stratified`), and
so are bounded values while fewer than 50 of them tell, or all are equal: the intervals of matched sums are exact. On
routes with sticky units a unit is one observation in each epoch; over several, the same units would count as new ones,
so the newest epoch in which two variants could be drawn is compared (`of_newest`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal

from gateway.config.service import MetricConfig
from gateway.control.reports.estimates import LEVEL
from gateway.control.reports.observed import Observed
from gateway.ingest.comparable import UNADJUSTED, known_before, periods, values_by_unit
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.record.histogram import edges, merge
from gateway.state.base import Counts
from gateway.state.units import of_covariate
from policies.sequential.adjusted import Paired
from policies.sequential.design_based import (
    Periods,
    UnitSums,
    WeightedSums,
    design_effect,
    inverse_weighted,
)
from policies.sequential.metric_comparison import (
    Evidence,
    MetricComparison,
    compare_adjusted,
    compare_weighted,
    known_beforehand,
    measure,
    weighable,
)
from policies.sequential.stratified import Stratum, stratified
from policies.types import CLIENT_ERROR_RATE, ERROR_RATES, Goal, MetricType, RewardSums

Json = dict[str, Any]
Method = Literal["pooled", "weighted", "matched"]

HEALTH: Final = (*ERROR_RATES, "latency_p50", "latency_p99")
"""Compared on every route in addition to its metrics; lower is better."""
MAX_RATIO: Final = 1e6
"""A greater ratio, or end of its interval, says that there is none: the baseline is all but 0."""
_NOTHING: Final = Counts()
_NO_REWARDS: Final = Rewarded()
_NO_UNITS: Final = Stratum(units=RewardSums(), rewards={CLIENT_ERROR_RATE: RewardSums()})


class Comparisons:
    """The variants that take part, and their comparisons as they are asked for."""

    def __init__(
        self,
        variants: Sequence[str],
        declared: Mapping[str, MetricConfig],
        observed: Observed,
        *,
        adjusted: Mapping[str, str] = UNADJUSTED,
        parts: int = 1,
    ) -> None:
        """``adjusted``: see `gateway.compile.plans.adjustments`; ``parts``: how many such sets of comparisons are to
        hold together."""
        self._parts = parts
        kinds: dict[str, MetricType] = {name: metric.type for name, metric in declared.items()}
        ranges = {name: metric.capped_range for name, metric in declared.items()}
        self._ranges = {name: found for name, found in ranges.items() if found is not None}
        self.goals: dict[str, Goal] = {name: metric.goal for name, metric in declared.items()}
        if observed.by_request:
            self.goals = {m: goal for m, goal in self.goals.items() if declared[m].missing == "ignore"}
        else:
            self.goals |= dict.fromkeys(HEALTH, "minimize")
        self._kinds = kinds
        self._never_negative = {*HEALTH, *(name for name, metric in declared.items() if metric.lowest >= 0)}
        self._adjusted = adjusted
        self._observed = observed
        self._units = {} if observed.units is None else observed.units.whole()
        self._by_unit = self._values_by_unit([n for n, m in declared.items() if m.missing == "zero"])
        self._evidence = {v: self._evidence_of(v, kinds) for v in variants}
        self._pairs: dict[tuple[str, str, str], Json] = {}
        self._absolutes: dict[tuple[str, str, str], Json] = {}
        self._matched: dict[tuple[str, str, str], tuple[Evidence, Evidence]] = {}
        self._methods: dict[tuple[str, str, str], Method] = {}

    @cached_property
    def _periods(self) -> Periods:
        observed = self._observed
        if observed.periods is not None:
            return observed.periods
        if observed.units is None:
            return periods(observed.buckets, observed.earned, adjusted=self._adjusted)
        known = {**observed.earned, **observed.units.failures()}
        return periods(observed.buckets, known, errors_since=observed.units.since, adjusted=self._adjusted)

    @cached_property
    def _strata(self) -> list[Mapping[str, Stratum]]:
        """By bucket of time and epoch, what each variant did; on sticky routes without health."""
        times: dict[tuple[float, int], dict[str, list[RewardedBucket]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for bucket in self._observed.buckets:
            times[bucket.start, bucket.epoch][bucket.variant].append(bucket)
        return [
            {v: _stratum(each, sticky=self._observed.sticky) for v, each in found.items()}
            for found in times.values()
        ]

    def _values_by_unit(self, metrics: Sequence[str]) -> dict[str, dict[str, WeightedSums]]:
        """By metric and variant, of metrics whose missing values count, where units count once in each epoch."""
        if not self._observed.sticky or not metrics:
            return {}
        units, rewards = self._observed.units, self._observed.rewards
        requests = {} if units is None else units.requests()
        found = {m: {v: one for (v, name), one in rewards.items() if name == m} for m in metrics}
        return {
            m: values_by_unit(each, requests)
            for m, each in found.items()
            if not any(one.weighted.y.count for one in each.values())  # of a bandit
        }

    def _evidence_of(self, variant: str, kinds: Mapping[str, MetricType]) -> Evidence:
        counts = self._observed.counts.get(variant, _NOTHING)
        mine = {m: r for (v, m), r in self._observed.rewards.items() if v == variant}
        if self._observed.by_request:  # those of earlier builds have no weights
            mine = {m: r for m, r in mine.items() if r.inverse.y.count > 0}
        rewards = {m: r.observations for m, r in mine.items() if r.observations.count > 0}
        errors = min(counts.errors, counts.seen)
        before = known_before(self._observed.rewards, self._adjusted, variant)
        if not self._observed.sticky:
            return Evidence(
                counts.seen, errors, counts.latency, rewards, kinds, ranges=self._ranges, before=before
            )
        units = self._units.get(variant, _NO_UNITS)
        return Evidence(
            counts.seen,
            errors,
            units.latency,
            {**rewards, **units.rewards},
            kinds,
            ranges=self._ranges,
            units=units.units,
            before=before,
            weighted={m: each[variant] for m, each in self._by_unit.items() if variant in each},
        )

    def lift(self, variant: str, baseline: str) -> dict[str, Json]:
        """Return the comparison by metric, for those where both variants have data."""
        if variant == baseline:
            return {}
        found = {metric: self.of_metric(metric, variant, baseline) for metric in self.goals}
        return {metric: one for metric, one in found.items() if one is not None}

    def of_metric(self, metric: str, variant: str, baseline: str) -> Json | None:
        """Return the comparison in one metric; None unless two variants have data."""
        if variant == baseline or not {variant, baseline} <= set(self._with_data(metric)):
            return None
        return {"baseline": baseline, **self._pair(metric, baseline, variant)}

    def standing(self, metric: str) -> Json | None:
        """Return which variant leads and which is last, and whether that is shown; None if fewer than two."""
        taking_part = self._with_data(metric)
        if len(taking_part) < 2:
            return None
        order = sorted(taking_part, key=self._means(metric, taking_part).__getitem__)
        if self.goals[metric] == "maximize":
            order.reverse()
        leader, last = order[0], order[-1]
        return {
            "leader": leader,
            "leads": all(self._absolute(metric, other, leader)["better"] is True for other in order[1:]),
            "last": last,
            "trails": all(self._absolute(metric, last, other)["better"] is True for other in order[:-1]),
            "against": order[1],
            "difference": self._pair(metric, order[1], leader),
        }

    def _means(self, metric: str, variants: Sequence[str]) -> dict[str, float]:
        means = {v: self._evidence[v].rewards[metric].mean for v in variants}
        if any(self._periods.moved(variants[0], other) for other in variants[1:]):
            weighted = zip(variants, self._weighted(metric, *variants), strict=True)
            means |= {v: sums.total / sums.weight for v, sums in weighted if sums.weight}
        return means

    def _with_data(self, metric: str) -> list[str]:
        return [v for v, e in self._evidence.items() if metric in self.goals and _size(e, metric) > 0]

    def _pair(self, metric: str, baseline: str, variant: str) -> Json:
        key = (metric, baseline, variant)
        if key not in self._pairs:
            self._pairs[key] = self._compared(metric, baseline, variant)
        return self._pairs[key]

    def difference(self, metric: str, variant: str, baseline: str) -> Json | None:
        """Return `of_metric` without the ratio, whose interval costs as much as that of the difference."""
        if variant == baseline or not {variant, baseline} <= set(self._with_data(metric)):
            return None
        method = self._method(metric, baseline, variant)
        known = self._absolute(metric, baseline, variant)
        return {**known, "adjusted_by": self._adjusted_by(metric, method, baseline, variant)}

    def _absolute(self, metric: str, baseline: str, variant: str) -> Json:
        key = (metric, baseline, variant)
        if key in self._absolutes:
            return self._absolutes[key]
        found = self._comparison(metric, baseline, variant, ratio=False)
        interval, absolute = _ends(found, self._alpha(metric)), found.candidate - found.baseline
        # A quantile of few latencies, or of those matched in time, can be far from the one in the report.
        known = math.isfinite(absolute) and (interval is not None or not metric.startswith("latency_"))
        better = _better(interval, self.goals[metric])
        made = {"absolute": absolute if known else None, "interval": interval, "better": better}
        self._absolutes[key] = made
        return made

    def _alpha(self, metric: str) -> float:
        """The part of the error rate that one pair spends."""
        variants = len(self._with_data(metric))
        return (1.0 - LEVEL) / max(1, variants * (variants - 1) // 2) / self._parts

    def _compared(self, metric: str, baseline: str, variant: str) -> Json:
        absolute = self._absolute(metric, baseline, variant)
        quotient = self._comparison(metric, baseline, variant, ratio=True)
        ratio = _ends(quotient, self._alpha(metric))
        if ratio is not None and ratio[0] is not None and metric in self._never_negative:
            ratio[0] = max(ratio[0], 0.0)
        method = self._method(metric, baseline, variant)
        known = absolute["absolute"] is not None and quotient.baseline > 0
        return {
            **absolute,
            "relative": _less_one(quotient.candidate / quotient.baseline) if known else None,
            "relative_interval": None if ratio is None else list(map(_less_one, ratio)),
            "always_valid": True,
            "method": method,
            "adjusted_by": self._adjusted_by(metric, method, baseline, variant),
            "unit": "units" if self._observed.sticky else "requests",
        }

    def _adjusted_by(self, metric: str, method: Method, *pair: str) -> Literal["past", "covariate"] | None:
        if method == "matched" or not known_beforehand(metric, *(self._evidence[v] for v in pair)):
            return None
        if self._adjusted[metric]:
            return "covariate"
        return "past" if method == "pooled" else None

    def _method(self, metric: str, baseline: str, variant: str) -> Method:
        key = (metric, baseline, variant)
        if key not in self._methods:
            self._methods[key] = self._chosen(metric, baseline, variant)
        return self._methods[key]

    def _weighted(self, metric: str, *variants: str) -> tuple[WeightedSums, ...]:
        if not self._observed.by_request:
            return self._periods.weighted(metric, *variants)
        times: dict[float, dict[str, list[RewardedBucket]]] = defaultdict(lambda: defaultdict(list))
        for bucket in self._observed.buckets:
            if bucket.counts.expected > 0:
                times[bucket.start][bucket.variant].append(bucket)
        both = [found for found in times.values() if found.keys() >= set(variants)]
        return tuple(
            self._by_request(
                metric, v, sum((b.rewards.get(metric, _NO_REWARDS) for t in both for b in t[v]), _NO_REWARDS)
            )
            for v in variants
        )

    def _weighted_pairs(self, metric: str, *variants: str) -> tuple[Paired, ...]:
        aspects = ("", *of_covariate(self._adjusted[metric]))
        parts = [self._periods.weighted(metric + aspect, *variants) for aspect in aspects]
        return tuple(Paired(*of_variant) for of_variant in zip(*parts, strict=True))

    def _by_request(self, metric: str, variant: str, found: Rewarded) -> WeightedSums:
        """Values that are each weighted by the propensity of their request."""
        sums, earned = inverse_weighted(found.inverse), self._observed.earned
        if not self._observed.sticky or not sums.weight > 0:
            return sums
        units = earned.get((variant, metric), found.weighted)
        return sums.by_unit(*design_effect(sums, UnitSums(units, found.values.count, loose=found.loose)))

    def _chosen(self, metric: str, baseline: str, variant: str) -> Method:
        if self._observed.by_request:
            return "weighted"
        if not self._periods.moved(baseline, variant, while_both=not self._observed.sticky):
            return "pooled"
        if metric.startswith("latency_"):
            return "matched"
        one_by_one = metric not in ERROR_RATES and self._periods.one_by_one(metric)
        if not self._bounded(metric) or one_by_one:
            return "weighted"
        return "weighted" if weighable(*self._periods.weighted(metric, baseline, variant)) else "matched"

    def _bounded(self, metric: str) -> bool:
        return (
            metric in HEALTH or metric in self._ranges or self._kinds.get(metric) in ("boolean", "fraction")
        )

    def _comparison(self, metric: str, baseline: str, variant: str, *, ratio: bool) -> MetricComparison:
        method = self._method(metric, baseline, variant)
        if method == "weighted" and self._adjusted.get(metric):
            return compare_adjusted(*self._weighted_pairs(metric, baseline, variant), ratio=ratio)
        if method == "weighted":
            first, second = self._weighted(metric, baseline, variant)
            return compare_weighted(first, second, ratio=ratio)
        pair = self._evidence[baseline], self._evidence[variant]
        if method == "matched" or self._periods.moved(baseline, variant):
            key = (method, baseline, variant)
            if key not in self._matched:
                of_both = self._matched_in_time if method == "matched" else self._while_both
                self._matched[key] = of_both(baseline, variant)
            pair = self._matched[key]
        return measure(metric, *pair, ratio=ratio, edges=edges)

    def _while_both(self, baseline: str, variant: str) -> tuple[Evidence, Evidence]:
        """What both did in the periods in which both could be drawn."""
        periods: dict[tuple[float, int], dict[str, RewardedBucket]] = defaultdict(dict)
        for bucket in self._observed.buckets:
            if bucket.counts.expected > 0:
                periods[bucket.start, bucket.epoch][bucket.variant] = bucket
        both = [found for found in periods.values() if found.keys() >= {baseline, variant}]
        return self._pooled(both, baseline), self._pooled(both, variant)

    def _pooled(self, periods: Sequence[Mapping[str, RewardedBucket]], variant: str) -> Evidence:
        buckets = [found[variant] for found in periods]
        of, none = _stratum(buckets, sticky=False), _NO_REWARDS
        whole = {
            (variant, m): sum((b.rewards.get(m, none) for b in buckets), none)
            for m, by in self._adjusted.items()
            if by
        }
        before = known_before(whole, self._adjusted, variant)
        return Evidence(
            of.requests, of.errors, of.latency, of.rewards, self._kinds, ranges=self._ranges, before=before
        )

    def _matched_in_time(self, baseline: str, variant: str) -> tuple[Evidence, Evidence]:
        """What both did over the same times."""
        of_units = () if self._observed.units is None else self._observed.units.strata()
        none = _NO_UNITS if self._observed.sticky else Stratum()
        strata = [(s.get(baseline, none), s.get(variant, none)) for s in (*self._strata, *of_units)]
        return stratified(strata).evidence(self._kinds, 0.0, self._ranges)


def _stratum(buckets: Sequence[RewardedBucket], *, sticky: bool) -> Stratum:
    """``sticky``: errors and latencies are not those of requests."""
    rewards: dict[str, RewardSums] = {}
    for bucket in buckets:
        for metric, found in bucket.rewards.items():
            known = rewards.get(metric)
            rewards[metric] = found.observations if known is None else known + found.observations
    if sticky:
        rewards.pop(CLIENT_ERROR_RATE, None)
        return Stratum(rewards=rewards, units=RewardSums())
    counts = [bucket.counts for bucket in buckets]
    seen = sum(c.seen for c in counts)
    errors = min(sum(c.errors for c in counts), seen)
    # Most times have one bucket of a variant; to merge it was a fifth of the calls of a report.
    latency = counts[0].latency if len(counts) == 1 else merge(c.latency for c in counts)
    return Stratum(seen, errors, latency, rewards)


def _size(evidence: Evidence, metric: str) -> float:
    if metric == "error_rate":
        return evidence.errors_by_unit.count
    if metric.startswith("latency_"):
        return sum(evidence.latency.values())
    return evidence.rewards.get(metric, RewardSums()).count


def _ends(found: MetricComparison, alpha: float) -> list[float | None] | None:
    """Both ends, those at infinity as None; None where nothing is excluded."""
    try:
        interval = found.interval(alpha, 1.0)
    except (ValueError, ArithmeticError):
        return None  # values of another type of metric
    if interval is None:
        return None
    ends = [end if math.isfinite(end) else None for end in interval]
    return None if ends == [None, None] else ends


def _less_one(ratio: float | None) -> float | None:
    return None if ratio is None or abs(ratio) > MAX_RATIO else ratio - 1.0


def _better(interval: list[float | None] | None, goal: Goal) -> bool | None:
    """Return whether the variant is shown to be better (True) or worse (False); None: inconclusive."""
    low, high = interval or (None, None)
    if low is not None and low > 0:
        return goal == "maximize"
    if high is not None and high < 0:
        return goal == "minimize"
    return None
