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
from gateway.control.reports.observed import Observed
from gateway.ingest.comparable import UNADJUSTED, periods
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
    adjusted: Mapping[str, str] = UNADJUSTED,
) -> dict[str, list[Json]]:
    """Return by variant at most ``points`` comparisons with ``baseline``, oldest first; the last is that of ``now``.

    Not for errors and latencies of sticky units, whose observations are units and not in the buckets. ``by_request``:
    and ``sticky``: as in `Observed`; ``by_epoch``: whether units count once in each epoch, and the newest is compared;
    ``adjusted``: see `gateway.compile.plans.adjustments`.
    """
    chosen = {name: m for name, m in declared.items() if name == metric}
    found: dict[str, list[Json]] = {}
    if by_request or metric.startswith("latency_"):
        points = min(points, MAX_COSTLY_POINTS)
    for time, observed in _moments(buckets, metric, points, now, adjusted, by_epoch=sticky and by_epoch):
        observed = replace(observed, by_request=by_request, sticky=sticky)
        compared = Comparisons(variants, chosen, observed, adjusted=adjusted)
        for variant in variants:
            one = compared.difference(metric, variant, baseline)
            if one is not None:
                found.setdefault(variant, []).append({"time": time} | one)
    return found


def _moments(
    buckets: Sequence[RewardedBucket],
    metric: str,
    points: int,
    now: float,
    adjusted: Mapping[str, str],
    *,
    by_epoch: bool,
) -> Iterator[tuple[float, Observed]]:
    """What had been recorded at evenly chosen ends of buckets; ``by_epoch``: in the newest epoch of `newest`."""
    ordered = sorted(buckets, key=lambda bucket: (bucket.start, bucket.epoch))
    groups = [list(group) for _, group in groupby(ordered, key=lambda bucket: bucket.start)]
    # Counted from the oldest, so that most stay where they are when another bucket comes, and are remembered.
    stride = 1 if len(groups) <= points else ceil(len(groups) / max(1, points - 1))
    parts: dict[int, list[RewardedBucket]] = defaultdict(list)
    for bucket in ordered:
        parts[bucket.epoch if by_epoch else 0].append(bucket)
    recorded = {key: _Recorded(part, metric, adjusted) for key, part in parts.items()}
    both: int | None = None if by_epoch else 0
    for number, group in enumerate(groups, start=1):
        for epoch, part in groupby(group, key=lambda bucket: bucket.epoch if by_epoch else 0):
            one = recorded[epoch]
            one.add(list(part))
            if len(one.drawn) > 1:
                both = epoch if both is None else max(both, epoch)
        if both is not None and (number % stride == 0 or number == len(groups)):
            end = groups[number][0].start if number < len(groups) else now
            yield end, recorded[both].observed()


class _Recorded:
    """What has been recorded of a part of the buckets, as they are added in order."""

    def __init__(self, buckets: Sequence[RewardedBucket], metric: str, adjusted: Mapping[str, str]) -> None:
        self._buckets = buckets
        self._metric = metric
        self._periods = periods(buckets, adjusted=adjusted)
        self._ended = self._seen = 0
        self._counts: dict[str, Counts] = defaultdict(Counts)
        self._rewards: dict[tuple[str, str], Rewarded] = defaultdict(Rewarded)
        self.drawn: set[str] = set()
        """Variants that could be drawn."""

    def add(self, group: Sequence[RewardedBucket]) -> None:
        """Add the next buckets, all with the same start."""
        self._seen += len(group)
        self._ended += len({bucket.epoch for bucket in group if bucket.counts.assigned})
        self.drawn |= {bucket.variant for bucket in group if bucket.counts.expected > 0}
        for bucket in group:
            if self._metric in bucket.rewards:
                self._rewards[bucket.variant, self._metric] += bucket.rewards[self._metric]
            elif self._metric in HEALTH:
                self._counts[bucket.variant] = _together(self._counts[bucket.variant], bucket.counts)

    def observed(self) -> Observed:
        return Observed(
            dict(self._counts),
            dict(self._rewards),
            self._buckets[: self._seen],
            periods=self._periods.first(self._ended),
        )


def _together(one: Counts, other: Counts) -> Counts:
    return Counts(
        assigned=one.assigned + other.assigned,
        errors=one.errors + other.errors,
        latency=merge([one.latency, other.latency]),
    )
