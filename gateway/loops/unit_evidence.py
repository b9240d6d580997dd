"""The evidence for the guardrails of a bandit with sticky units.

A unit stays while the shares move, so the mean of its values would hold those from its whole stay on a variant: later
ones for the variant that gains units, which a level that moves makes look different. Values are therefore compared one
by one, each with the propensity of its own decision (`policies.sequential.design_based`). That takes 50 effective
units of each variant. Below, means of units are compared, matched in time by their first values: a variant that breaks
is then found even where few units send most requests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.ingest.evidence import RewardedBucket, periods
from policies.sequential.asymptotic import MIN_VALUES
from policies.sequential.design_based import Periods, WeightedSums
from policies.sequential.metric_comparison import Evidence, Interval
from policies.sequential.stratified import Stratum, stratified
from policies.types import MetricType, RewardSums

_NOTHING = Stratum(units=RewardSums())


@dataclass(frozen=True, slots=True)
class UnitEvidence:
    """What the units of a route did."""

    rewarded: Sequence[Mapping[str, Stratum]]
    """By variant, the means of the units whose first values came in one stratum of time."""
    periods: Periods
    """The values one by one."""
    totals: Mapping[tuple[str, str], RewardSums]
    """By (variant, metric), the means of all units."""

    @classmethod
    def of(cls, buckets: Sequence[RewardedBucket]) -> UnitEvidence:
        """Return the evidence from the rewards of a route."""
        times: dict[tuple[float, int], dict[str, Stratum]] = defaultdict(dict)
        for bucket in buckets:
            means = {metric: found.observations for metric, found in bucket.rewards.items()}
            times[bucket.start, bucket.epoch][bucket.variant] = Stratum(rewards=means)
        totals: dict[tuple[str, str], RewardSums] = defaultdict(RewardSums)
        for cell in times.values():
            for variant, stratum in cell.items():
                for metric, sums in stratum.rewards.items():
                    totals[variant, metric] += sums
        return cls(list(times.values()), periods(buckets), totals)

    def pair(
        self,
        baseline: str,
        variant: str,
        outcomes: Iterable[Mapping[str, Stratum]],
        kinds: Mapping[str, MetricType],
        seconds: float,
        ranges: Mapping[str, Interval],
    ) -> tuple[Evidence, Evidence]:
        """Return the evidence of both variants; ``outcomes``: errors and latencies by unit, in strata of time."""
        strata = [{baseline: _NOTHING, variant: _NOTHING}, *outcomes, *self.rewarded]
        found = stratified((s.get(baseline, _NOTHING), s.get(variant, _NOTHING)) for s in strata)
        first, second = found.evidence(kinds, seconds, ranges)
        for metric in first.rewards.keys() | second.rewards.keys():
            sides = self.periods.weighted(metric, baseline, variant)
            if all(map(_many, sides)):
                first = self._weighted(first, baseline, metric, sides[0])
                second = self._weighted(second, variant, metric, sides[1])
        return first, second

    def _weighted(self, seen: Evidence, variant: str, metric: str, sums: WeightedSums) -> Evidence:
        rewards = {**seen.rewards, metric: self.totals[variant, metric]}
        return replace(seen, rewards=rewards, weighted={**seen.weighted, metric: sums})


def _many(sums: WeightedSums) -> bool:
    """Whether the values come from as many units as an interval takes."""
    sample = sums.sample()
    return sample is not None and sample.size >= MIN_VALUES
