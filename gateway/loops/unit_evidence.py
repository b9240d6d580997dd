"""The evidence for the guardrails of a bandit with sticky units.

A unit stays while the shares move, so the mean of its values would hold those from its whole stay on a variant: later
ones for the variant that gains units, which a level that moves makes look different. Values and errors are therefore
compared one by one, each with the propensity of its own decision (`policies.sequential.design_based`). That takes 50
effective units of each variant, and values that are not all equal. Without these, means of units are compared, matched
in time by their first values: a variant that breaks is then found even where few units send most requests. Latencies
are always compared so; metrics with missing values that count as zero never are, since such values are of no known
unit and would count as independent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.ingest.comparable import periods
from gateway.ingest.evidence import RewardedBucket
from policies.sequential.design_based import Periods, WeightedSums
from policies.sequential.metric_comparison import Evidence, Interval, weighable
from policies.sequential.stratified import Stratum, stratified
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.types import CLIENT_ERROR_RATE, ERROR_RATES, MetricType, PairSums, RewardSums

_NOTHING: Final = Stratum(units=RewardSums())


@dataclass(frozen=True, slots=True)
class UnitEvidence:
    """What the units of a route did."""

    strata: Sequence[Mapping[str, Stratum]]
    """By variant, the means of the units that came first in one stratum of time."""
    periods: Periods
    """The values one by one."""
    missing: Mapping[str, bool]
    """Metrics with missing values: whether the record has been read that tells how many requests each unit sent."""

    @classmethod
    def of(
        cls,
        buckets: Sequence[RewardedBucket],
        outcomes: UnitOutcomes | None,
        earned: Mapping[tuple[str, str], PairSums],
    ) -> UnitEvidence:
        """Return the evidence from what was counted, by unit from the record, and by unit over all time."""
        times: dict[tuple[float, int], dict[str, Stratum]] = defaultdict(dict)
        for bucket in buckets:
            means = {
                metric: found.observations
                for metric, found in bucket.rewards.items()
                if metric != CLIENT_ERROR_RATE  # of requests: `outcomes` has those of units
            }
            times[bucket.start, bucket.epoch][bucket.variant] = Stratum(rewards=means)
        missing = {m for bucket in buckets for m, found in bucket.rewards.items() if found.missing}
        told = dict.fromkeys(missing, outcomes is not None)
        if outcomes is None:
            return cls(list(times.values()), periods(buckets, earned), told)
        known = periods(buckets, {**earned, **outcomes.failures()}, errors_since=outcomes.since)
        return cls([*times.values(), *outcomes.strata()], known, told)

    def pair(
        self,
        baseline: str,
        variant: str,
        kinds: Mapping[str, MetricType],
        seconds: float,
        ranges: Mapping[str, Interval],
    ) -> tuple[Evidence, Evidence]:
        """Return the evidence of both variants."""
        sides = ((s.get(baseline, _NOTHING), s.get(variant, _NOTHING)) for s in ({}, *self.strata))
        first, second = stratified(sides).evidence(kinds, seconds, ranges)
        metrics = [metric for metric in (*kinds, *ERROR_RATES) if self.periods.one_by_one(metric)]
        told: dict[str, tuple[WeightedSums, ...]] = {}
        for metric in metrics:
            both = self.periods.weighted(metric, baseline, variant)
            if not self.missing.get(metric, True):
                both = tuple(replace(sums, groups=0.0) for sums in both)
            if metric in self.missing or weighable(*both):
                told[metric] = both
        return (
            replace(first, weighted={m: b for m, (b, _) in told.items()}),
            replace(second, weighted={m: c for m, (_, c) in told.items()}),
        )
