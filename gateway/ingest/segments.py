"""The rewards of a route in each of its segments.

A value counts in the segment of its decision under a name of its own (`gateway.state.units`). Missing values are not
known by segment: metrics whose missing values count have none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.ingest.evidence import Key, Rewarded, RewardedBucket, all_buckets, joined, of_buckets
from gateway.state.base import Bucket
from gateway.state.store import AggregateStore
from gateway.state.units import SEGMENT
from policies.types import RewardSums


@dataclass(frozen=True, slots=True)
class Segment:
    """What was reported of decisions in one segment."""

    rewards: Mapping[Key, Rewarded]
    buckets: Sequence[RewardedBucket]
    """Over time and epochs; their counts are those of the whole route, for its shares."""


async def by_segment(
    store: AggregateStore, route: str, segments: Sequence[bytes], *, now: float, epochs: bool
) -> list[Segment]:
    """Return the rewards in each of ``segments``; ``epochs``: by epoch. Raises StoreUnavailable."""
    sums = await store.reward_sums(route, segments=True)
    buckets = [
        bucket
        async for _, each in all_buckets(
            store, route, now=now, histograms=False, epochs=epochs, segments=True
        )
        for bucket in each
    ]
    return await asyncio.to_thread(lambda: [_within(one.hex(), sums, buckets, now) for one in segments])


def _within(segment: str, sums: Mapping[Key, RewardSums], buckets: Sequence[Bucket], now: float) -> Segment:
    mark = SEGMENT + segment
    own = {(v, name.replace(mark, "")): one for (v, name), one in sums.items() if mark in name}
    each = [
        replace(b, rewards={name.replace(mark, ""): one for name, one in b.rewards.items() if mark in name})
        for b in buckets
    ]
    return Segment(joined(own), of_buckets(each, {}, now=now))
