"""The lift of each variant as it stood at times gone by: the comparison of what had been recorded up to each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import ceil
from typing import Any, Final

from gateway.config.service import MetricConfig
from gateway.control.reports.lift import HEALTH, Comparisons
from gateway.control.reports.observed import Observed, of_newest
from gateway.ingest.comparable import periods
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.record.histogram import merge
from gateway.state.base import Counts

Json = dict[str, Any]

MAX_COSTLY_POINTS: Final = 12
"""Where shares moved, latencies are matched from the beginning at each point; values weighted by request are summed."""


def lift_over_time(
    variants: Sequence[str],
    declared: Mapping[str, MetricConfig],
    buckets: Sequence[RewardedBucket],
    *,
    metric: str,
    baseline: str,
    points: int,
    now: float,
    by_request: bool = False,
    sticky: bool = False,
    by_epoch: bool = False,
) -> dict[str, list[Json]]:
    """Return by variant at most ``points`` comparisons with ``baseline``, oldest first; the last is that of ``now``.

    Not for errors and latencies of sticky units, whose observations are units and not in the buckets. ``by_request``:
    and ``sticky``: as in `Observed`; ``by_epoch``: whether units count once in each epoch, and the newest is compared.
    """
    chosen = {name: m for name, m in declared.items() if name == metric}
    found: dict[str, list[Json]] = {}
    if by_request or metric.startswith("latency_"):
        points = min(points, MAX_COSTLY_POINTS)
    for time, observed in _moments(buckets, metric, points, now):
        if sticky and by_epoch:
            observed = of_newest(observed.buckets)
        elif by_request:
            observed = replace(observed, by_request=True, sticky=sticky)
        compared = Comparisons(variants, chosen, observed)
        for variant in variants:
            one = compared.difference(metric, variant, baseline)
            if one is not None:
                found.setdefault(variant, []).append({"time": time} | one)
    return found


def _moments(
    buckets: Sequence[RewardedBucket], metric: str, points: int, now: float
) -> Iterator[tuple[float, Observed]]:
    """What had been recorded at evenly chosen ends of buckets."""
    ordered = sorted(buckets, key=lambda bucket: bucket.start)
    groups = [list(group) for _, group in groupby(ordered, key=lambda bucket: bucket.start)]
    # Counted from the oldest, so that most stay where they are when another bucket comes, and are remembered.
    stride = 1 if len(groups) <= points else ceil(len(groups) / max(1, points - 1))
    whole, drawn = periods(ordered), 0
    counts: dict[str, Counts] = defaultdict(Counts)
    rewards: dict[tuple[str, str], Rewarded] = defaultdict(Rewarded)
    seen = 0
    for number, group in enumerate(groups, start=1):
        seen += len(group)
        drawn += len({bucket.epoch for bucket in group if bucket.counts.assigned})
        for bucket in group:
            if metric in HEALTH:
                counts[bucket.variant] = _together(counts[bucket.variant], bucket.counts)
            elif metric in bucket.rewards:
                rewards[bucket.variant, metric] += bucket.rewards[metric]
        if number % stride == 0 or number == len(groups):
            end = groups[number][0].start if number < len(groups) else now
            known = whole.first(drawn)
            yield end, Observed(dict(counts), dict(rewards), ordered[:seen], periods=known)


def _together(one: Counts, other: Counts) -> Counts:
    return Counts(
        assigned=one.assigned + other.assigned,
        errors=one.errors + other.errors,
        latency=merge([one.latency, other.latency]),
    )
