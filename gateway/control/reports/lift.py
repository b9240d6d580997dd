"""Variants against each other, metric by metric, in always-valid intervals.

All intervals of one metric hold together, at all times, with probability `LEVEL`: each of the K (K - 1) / 2 pairs of
variants gets an equal part of the error probability (Bonferroni). They assume that each variant's mean is constant over
the decisions that are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.config.document import MetricConfig
from gateway.control.reports.estimates import LEVEL
from gateway.record.histogram import edges
from gateway.state.base import Counts
from policies.allocation.model import Goal, RewardSums
from policies.sequential.metric_comparison import Evidence, Kind, MetricComparison, measure

Json = dict[str, Any]

HEALTH: Final = ("error_rate", "latency_p50", "latency_p99")
"""Compared on every route in addition to its metrics; lower is better."""
_NOTHING: Final = Counts()


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The variants that take part, and the observations of each."""

    observed: Mapping[str, Evidence]
    goals: Mapping[str, Goal]
    """Metric → its goal, including those of `HEALTH`."""
    pairs: dict[tuple[str, str, str], Json] = field(default_factory=dict)
    """The comparisons made so far, by (metric, baseline, variant)."""

    @classmethod
    def of(
        cls,
        variants: Sequence[str],
        declared: Mapping[str, MetricConfig],
        counts: Mapping[str, Counts],
        sums: Mapping[tuple[str, str], RewardSums],
    ) -> Comparisons:
        kinds: dict[str, Kind] = {name: metric.type for name, metric in declared.items()}
        goals: dict[str, Goal] = {name: metric.goal for name, metric in declared.items()}

        def evidence(variant: str) -> Evidence:
            found = counts.get(variant, _NOTHING)
            rewards = {metric: s for (v, metric), s in sums.items() if v == variant and s.count > 0}
            errors = min(found.errors, found.assigned)
            return Evidence(found.assigned, errors, found.latency, rewards, kinds)

        return cls({v: evidence(v) for v in variants}, goals | dict.fromkeys(HEALTH, "minimize"))

    def lift(self, variant: str, baseline: str) -> dict[str, Json]:
        """Return the comparison by metric, for those where both variants have data."""
        if variant == baseline:
            return {}
        return {
            metric: {"baseline": baseline, **self._pair(metric, baseline, variant)}
            for metric in self.goals
            if {variant, baseline} <= set(self._with_data(metric))
        }

    def standing(self, metric: str) -> Json | None:
        """Return which variant leads and which is last, and whether that is shown; None if fewer than two."""
        taking_part = self._with_data(metric)
        if len(taking_part) < 2:
            return None
        means = {v: self._compared(metric, v, v, ratio=False).candidate for v in taking_part}
        order = sorted(taking_part, key=means.__getitem__, reverse=self.goals[metric] == "maximize")
        leader, last = order[0], order[-1]
        return {
            "leader": leader,
            "leads": all(self._pair(metric, other, leader)["better"] is True for other in order[1:]),
            "last": last,
            "trails": all(self._pair(metric, other, last)["better"] is False for other in order[:-1]),
            "against": order[1],
            "difference": self._pair(metric, order[1], leader),
        }

    def _with_data(self, metric: str) -> list[str]:
        return [v for v, e in self.observed.items() if _size(e, metric) > 0]

    def _pair(self, metric: str, baseline: str, variant: str) -> Json:
        key = (metric, baseline, variant)
        if key not in self.pairs:
            self.pairs[key] = self._made(metric, baseline, variant)
        return self.pairs[key]

    def _made(self, metric: str, baseline: str, variant: str) -> Json:
        variants = len(self._with_data(metric))
        alpha = (1.0 - LEVEL) / max(1, variants * (variants - 1) // 2)
        difference = self._compared(metric, baseline, variant, ratio=False)
        interval = _ends(difference, alpha)
        ratio = _ends(self._compared(metric, baseline, variant, ratio=True), alpha)
        return {
            "absolute": difference.candidate - difference.baseline,
            "interval": interval,
            "relative": difference.candidate / difference.baseline - 1.0 if difference.baseline > 0 else None,
            "relative_interval": None if ratio is None else [_less_one(end) for end in ratio],
            "always_valid": True,
            "better": _better(interval, self.goals[metric]),
        }

    def _compared(self, metric: str, baseline: str, variant: str, *, ratio: bool) -> MetricComparison:
        return measure(metric, self.observed[baseline], self.observed[variant], ratio=ratio, edges=edges)


def _size(evidence: Evidence, metric: str) -> float:
    if metric == "error_rate":
        return evidence.requests
    if metric in HEALTH:
        return sum(evidence.latency.values())
    return evidence.rewards.get(metric, RewardSums()).count


def _ends(found: MetricComparison, alpha: float) -> list[float | None] | None:
    """Both ends, infinite ones as None; None if no value is excluded."""
    try:
        interval = found.interval(alpha, 1.0)
    except (ValueError, ArithmeticError):
        return None  # values of another type of metric
    if interval is None:
        return None
    ends = [end if math.isfinite(end) else None for end in interval]
    return None if ends == [None, None] else ends


def _less_one(end: float | None) -> float | None:
    return None if end is None else end - 1.0


def _better(interval: list[float | None] | None, goal: Goal) -> bool | None:
    """Whether the variant is shown to be better (True) or worse (False); None: undecided."""
    low, high = interval or (None, None)
    if low is not None and low > 0:
        return goal == "maximize"
    if high is not None and high < 0:
        return goal == "minimize"
    return None
