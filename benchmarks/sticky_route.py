"""A route with sticky units as its store holds it, for `benchmarks.sticky_levels` and `benchmarks.sticky_stages`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.config.service import MetricConfig
from gateway.ingest.evidence import Rewarded, RewardedBucket, of_buckets
from gateway.record.events import Reward
from gateway.state.base import BUCKET_S, Bucket, Counts
from gateway.state.units import Counting
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.types import RewardSums

Request = tuple[int, str, bool, float | None]
"""Unit, variant, whether it failed, and the reported value if there is one."""


@dataclass(slots=True)
class Route:
    """Every reward is counted by `gateway.state.units.Counting`, as in production."""

    metric: MetricConfig
    counting: Counting = field(default_factory=lambda: Counting({}))
    decided: list[tuple[int, Mapping[str, float], Counter[str], Counter[str]]] = field(default_factory=list)
    """Of each period, the epoch, the shares, the requests and the failures."""
    outcomes: dict[str, UnitOutcomes] = field(default_factory=dict)
    """By period."""

    def serve(
        self, epoch: int, shares: Mapping[str, float], period: str, requests: Iterable[Request]
    ) -> None:
        """Counts the requests of one period. ``period``: that within which a unit's values are one observation."""
        start, assigned, errors = len(self.decided) * BUCKET_S, Counter[str](), Counter[str]()
        facts = ("r", "", "", epoch, 0.0, 0, False, None, "", "", period)
        rows = []
        for unit, variant, fails, value in requests:
            assigned[variant] += 1
            errors[variant] += fails
            rows.append((unit, start, variant, fails, -1, shares[variant], False))
            if value is not None:
                one = Reward(b"", "good", value, 0.0, start, *facts)
                one = one._replace(assigned=variant, served=variant, propensity=shares[variant], unit=unit)
                self.counting.change(one, None, value, "")
        self.outcomes.setdefault(period, UnitOutcomes()).add(rows)
        self.decided.append((epoch, shares, assigned, errors))

    def buckets(self) -> list[RewardedBucket]:
        """What `gateway.ingest.evidence.over_time` reads from a store."""
        rewards: dict[tuple[float, str], dict[str, RewardSums]] = {}
        for key, sums in self.counting.cells.items():
            rewards.setdefault((key.start, key.variant), {})[key.metric] = sums.rounded
        found = []
        for n, (epoch, shares, assigned, errors) in enumerate(self.decided):
            for variant, share in shares.items():
                counts = Counts(
                    assigned=assigned[variant], errors=errors[variant], expected=share * assigned.total()
                )
                sums_of = rewards.get((n * BUCKET_S, variant), {})
                found.append(Bucket(n * BUCKET_S, variant, epoch, counts, sums_of))
        return of_buckets(found, {"good": self.metric}, now=1e6)


def whole(buckets: Sequence[RewardedBucket]) -> dict[tuple[str, str], Rewarded]:
    """By variant and metric, the rewards of all buckets."""
    found: dict[tuple[str, str], Rewarded] = {}
    for bucket in buckets:
        for name, rewarded in bucket.rewards.items():
            key = bucket.variant, name
            found[key] = found.get(key, Rewarded()) + rewarded
    return found
