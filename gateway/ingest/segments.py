"""The rewards of a route in each of its segments, and its latest requests.

A value counts in the segment of its decision under a name of its own (`gateway.state.units`). Missing values are not
known by segment: metrics whose missing values count have none.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from gateway.ingest.evidence import (
    HOUR_S,
    Key,
    Rewarded,
    RewardedBucket,
    Spans,
    all_buckets,
    joined,
    of_buckets,
    spans_until,
)
from gateway.record.events import Outcome, columns
from gateway.state.base import Bucket, Counts, OutcomeFilter
from gateway.state.folding import MAX_APART, share_steps
from gateway.state.store import AggregateStore, RecordStore
from gateway.state.tally import Tally, tally
from gateway.state.units import SEGMENT
from policies.contextual.features import SEGMENT_BYTES, SegmentFeature
from policies.types import RewardSums

_DIGITS: Final = 2 * SEGMENT_BYTES
DAY_S: Final = 86_400.0
_DAYS_AFTER_S: Final = 2 * DAY_S
_RECENT_STEP_S: Final = 60.0
"""Length of the buckets of the last hours: there are sums for each segment in each."""
_STEPS: Final = (10.0,)
"""As `READ_STEPS`: shares in one step differ by at most 2.5 points."""


MAX_REQUESTS: Final = 10_000
"""The newest requests of a route, whose errors and latencies are known by segment: from the record, not from sums."""


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest requests of a route."""

    since: float | None
    """When the oldest of them was decided; None without any."""
    requests: int
    counts: Sequence[Mapping[str, tuple[Counts, RewardSums]]]
    """By segment and variant, with the sums of `policies.types.CLIENT_ERROR_RATE`."""


async def latest_by_segment(store: RecordStore, route: str, features: Sequence[SegmentFeature]) -> Latest:
    """Return the newest `MAX_REQUESTS` by segment. Raises StoreUnavailable."""
    found = await store.outcomes(OutcomeFilter(route=route, forced=False, limit=MAX_REQUESTS))
    return await asyncio.to_thread(_latest, features, found)


def _latest(features: Sequence[SegmentFeature], found: Sequence[Outcome]) -> Latest:
    rows: dict[tuple[str, str | None], list[Outcome]] = {
        (feature.name, value): [] for feature in features for value in feature.segments
    }
    known = {text: json.loads(text) if text else {} for text in {one.features for one in found}}
    for one in found:
        same_cell = one._replace(time=0.0, epoch=0)
        for name, value in known[one.features].items():
            if (name, value) in rows:  # not a feature, or value, of another declaration
                rows[name, value].append(same_cell)
    counts = []
    for each in rows.values():
        found_there = tally(columns(each), lambda *_: None) if each else Tally({}, {})
        refused = {key.variant: sums.rounded for key, sums in found_there.sums.items()}
        counts.append(
            {
                key.variant: (one, refused.get(key.variant, RewardSums()))
                for key, one in found_there.counts.items()
            }
        )
    return Latest(min((one.time for one in found), default=None), len(found), counts)


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
    spans = await _spans(store, route, now=now, epochs=epochs)
    buckets = [
        bucket
        async for _, each in all_buckets(
            store, route, now=now, histograms=False, epochs=epochs, segments=True, spans=spans
        )
        for bucket in each
    ]
    return await asyncio.to_thread(_separated, [one.hex() for one in segments], sums, buckets, now)


async def _spans(store: AggregateStore, route: str, *, now: float, epochs: bool) -> Spans:
    """Past days are read by day, which is much faster, except those with more shares than a bucket keeps apart.

    A bucket of such a day would mix hours of different shares, and confound these with whatever else moved from hour to
    hour. ``epochs``: each is read by itself and has the same shares all day.
    """
    border, days = (now - _DAYS_AFTER_S) // DAY_S * DAY_S, list[tuple[float, float]]()
    if not epochs:
        hours = await store.series(
            route, since=0.0, until=border, step=HOUR_S, epochs="alike", histograms=False
        )
        days = await asyncio.to_thread(_days, hours)
    return [*days, (border, DAY_S), *spans_until(now, _RECENT_STEP_S)]


def _days(hours: Sequence[Bucket]) -> list[tuple[float, float]]:
    """The spans of ``hours``, oldest first."""
    cells: dict[float, list[tuple[int, str, float, float]]] = defaultdict(list)
    epochs: dict[tuple[float, int], int] = {}
    for one in hours:
        epoch = epochs.setdefault((one.start, one.epoch), len(epochs))
        cell = epoch, one.variant, one.counts.assigned, one.counts.expected
        cells[one.start // DAY_S * DAY_S].append(cell)
    days = [
        (day + DAY_S, HOUR_S if len(set(share_steps(each, _STEPS).values())) > MAX_APART else DAY_S)
        for day, each in cells.items()
    ]
    return [list(run)[-1] for _, run in groupby(days, key=lambda day: day[1])]


def _separated(
    segments: Sequence[str], sums: Mapping[Key, RewardSums], buckets: Sequence[Bucket], now: float
) -> list[Segment]:
    whole: dict[str, dict[Key, RewardSums]] = {one: {} for one in segments}
    for (variant, name), one in sums.items():
        segment, metric = _parts(name)
        if segment in whole:
            whole[segment][variant, metric] = one
    over_time: dict[str, list[Bucket]] = {one: [] for one in segments}
    for bucket in buckets:
        each: dict[str, dict[str, RewardSums]] = {one: {} for one in segments}
        for name, one in bucket.rewards.items():
            segment, metric = _parts(name)
            if segment in each:
                each[segment][metric] = one
        for segment, rewards in each.items():
            over_time[segment].append(replace(bucket, rewards=rewards))
    return [Segment(joined(whole[one]), of_buckets(over_time[one], {}, now=now)) for one in segments]


def _parts(name: str) -> tuple[str, str]:
    """The segment of a name, and the name without it."""
    metric, _, rest = name.partition(SEGMENT)
    return rest[:_DIGITS], metric + rest[_DIGITS:]
