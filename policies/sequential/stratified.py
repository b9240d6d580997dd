"""Comparing two variants whose shares move with time, as a bandit's do.

Pooling over time would confound: if everything gets slower in the evening, the variant whose share grew in the
evening looks slower. So each stratum of time counts for both variants with the same weight: of a stratum with n₁
observations of one and n₂ of the other, min(n₁, n₂) count on either side, the larger one's sums scaled down.

A scaled-down sum of n observations varies less than one of m = min(n₁, n₂) observations (m²/n ≤ m), so treating
it as m observations is conservative: always-valid intervals stay valid, and get a little wider than they need be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from policies.sequential.metric_comparison import Evidence, Interval
from policies.types import MetricType, RewardSums


@dataclass(slots=True)
class Stratum:
    """What one variant did in one stratum: requests, errors, a latency histogram, sums by metric.

    ``units``: the shares of requests that failed of the units that came first in this stratum.
    """

    requests: float = 0.0
    errors: float = 0.0
    latency: Mapping[int, float] = field(default_factory=dict)
    rewards: Mapping[str, RewardSums] = field(default_factory=dict)
    units: RewardSums | None = None


@dataclass(slots=True)
class _Total:
    requests: float = 0.0
    errors: float = 0.0
    latency: dict[int, float] = field(default_factory=dict)
    rewards: dict[str, RewardSums] = field(default_factory=dict)
    units: RewardSums | None = None


class StratifiedComparison:
    """The running comparison of one variant with its baseline; strata are added in any order, once each."""

    def __init__(self) -> None:
        self._baseline, self._candidate = _Total(), _Total()

    def add(self, baseline: Stratum, candidate: Stratum) -> None:
        """One stratum of time, short against whatever else changes."""
        for total, own, other in (
            (self._baseline, baseline, candidate),
            (self._candidate, candidate, baseline),
        ):
            _add_counts(total, own, _kept(own.requests, other.requests))
            _add_latency(total, own, other)
            if own.units is not None:
                against = other.units or RewardSums()
                _add_units(total, own.units, _kept(own.units.count, against.count))
            for metric, sums in own.rewards.items():
                against = other.rewards.get(metric, RewardSums())
                _add_rewards(total, metric, sums, _kept(sums.count, against.count))

    def __add__(self, other: StratifiedComparison) -> StratifiedComparison:
        """Both comparisons as one; neither is changed."""
        found = StratifiedComparison()
        for total, parts in (
            (found._baseline, (self._baseline, other._baseline)),
            (found._candidate, (self._candidate, other._candidate)),
        ):
            for part in parts:
                side = Stratum(part.requests, part.errors, part.latency, part.rewards)
                if part.units is not None:
                    _add_units(total, part.units, 1.0)
                _add_counts(total, side, 1.0)
                _add_latency(total, side, side)
                for metric, sums in part.rewards.items():
                    _add_rewards(total, metric, sums, 1.0)
        return found

    def evidence(
        self, kinds: Mapping[str, MetricType], seconds: float, ranges: Mapping[str, Interval] | None = None
    ) -> tuple[Evidence, Evidence]:
        """(baseline, candidate) as `policies.rollout.guardrails.judge_all` takes them; counts may be fractions.

        Fractional counts are valid as they are: every martingale that reads them is convex in them.
        """
        totals = self._baseline, self._candidate
        first, second = (
            Evidence(
                t.requests, t.errors, dict(t.latency), dict(t.rewards), kinds, seconds, ranges or {}, t.units
            )
            for t in totals
        )
        return first, second


def stratified(strata: Iterable[tuple[Stratum, Stratum]]) -> StratifiedComparison:
    """`StratifiedComparison` over (baseline, candidate) strata."""
    found = StratifiedComparison()
    for baseline, candidate in strata:
        found.add(baseline, candidate)
    return found


def _kept(own: float, other: float) -> float:
    """The share of one's own observations that counts."""
    return min(own, other) / own if own > 0 else 0.0


def _add_counts(total: _Total, own: Stratum, kept: float) -> None:
    total.requests += own.requests * kept
    total.errors += own.errors * kept


def _add_latency(total: _Total, own: Stratum, other: Stratum) -> None:
    kept = _kept(float(sum(own.latency.values())), float(sum(other.latency.values())))
    if kept:
        for bucket, count in own.latency.items():
            total.latency[bucket] = total.latency.get(bucket, 0.0) + count * kept


def _add_units(total: _Total, sums: RewardSums, kept: float) -> None:
    total.units = (total.units or RewardSums()) + _scaled(sums, kept)


def _add_rewards(total: _Total, metric: str, sums: RewardSums, kept: float) -> None:
    total.rewards[metric] = total.rewards.get(metric, RewardSums()) + _scaled(sums, kept)


def _scaled(sums: RewardSums, kept: float) -> RewardSums:
    return RewardSums(sums.count * kept, sums.total * kept, sums.squares * kept)
