"""What was observed of the variants of a route, as far as they are compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.config.policy import bandit_of
from gateway.config.route import RouteConfig
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.state.base import Counts
from policies.sequential.design_based import Periods
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.types import PairSums


@dataclass(frozen=True, slots=True)
class Observed:
    """What the lifts of a route are computed from."""

    counts: Mapping[str, Counts] = field(default_factory=dict)
    """By variant."""
    rewards: Mapping[tuple[str, str], Rewarded] = field(default_factory=dict)
    """By (variant, metric)."""
    buckets: Sequence[RewardedBucket] = ()
    """The same over time and epochs, where shares may have moved."""
    sticky: bool = False
    units: UnitOutcomes | None = None
    """Errors and latencies by unit; None where requests are their own units, or while the record is being read."""
    periods: Periods | None = None
    """Of the buckets; None: to be made."""
    by_request: bool = False
    """Whether each request had its own propensities, as with features: only rewards are compared."""
    earned: Mapping[tuple[str, str], PairSums] = field(default_factory=dict)
    """By (variant, metric), the sums by unit over all time, where the buckets are a part of it."""


def newest(buckets: Sequence[RewardedBucket]) -> Sequence[RewardedBucket]:
    """Return those of the newest epoch in which two variants could be drawn; empty if there is none."""
    drawn: dict[int, set[str]] = defaultdict(set)
    for bucket in buckets:
        if bucket.counts.expected > 0:
            drawn[bucket.epoch].add(bucket.variant)
    both = max((epoch for epoch, variants in drawn.items() if len(variants) > 1), default=None)
    return [bucket for bucket in buckets if bucket.epoch == both]


def of_newest(buckets: Sequence[RewardedBucket], units: UnitOutcomes | None = None) -> Observed:
    """Return what sticky units that count once in each epoch did in the newest one; ``units``: in that."""
    each = newest(buckets)
    counts: dict[str, list[Counts]] = defaultdict(list)
    rewards: dict[tuple[str, str], Rewarded] = defaultdict(Rewarded)
    for bucket in each:
        counts[bucket.variant].append(bucket.counts)
        for metric, found in bucket.rewards.items():
            rewards[bucket.variant, metric] += found
    whole = {
        variant: Counts(
            sum(c.assigned for c in mine), sum(c.served for c in mine), sum(c.errors for c in mine)
        )
        for variant, mine in counts.items()
    }
    return Observed(whole, rewards, each, sticky=True, units=units)


def comparable(route: RouteConfig, *, by_request: bool) -> bool:
    """Return whether variants can be compared. Weights by request need every variant to be possible for each one."""
    bandit = bandit_of(route.policy)
    return not by_request or (bandit is not None and bandit.floor > 0)
