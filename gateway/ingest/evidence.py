"""The rewards of a route as all statistics read them from the sums.

Two rules are applied on reading, so that an edit of the configuration holds for everything recorded before:

*Missing values.* If a metric declares ``missing: zero``, a decision enters once its window is over, with its value
or with 0, for all variants alike. Values reported earlier wait: entered immediately they would favour the variants
served last, because values come during the window and zeros at its end. The number of missing values is that of
decisions (`Counts.assigned`) less that of values, in the buckets that are over. A decision that failed, or that
fallback rescued, has no value either; if the metric's worst value is bounded and not 0 (complaints, for example,
which are minimised), it counts as that, as a reported rescue does (`Reward.worst`).

*Units.* Statistics take the mean of a sticky unit's values as one observation (`gateway.state.units`). The units of
missing values are not recorded: such a metric is the mean of all values, which count as observations in the proportion
in which reported ones became observations. Means of units among missing values counted one by one would favour the
variant that got the units with fewer requests.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.config.service import MetricConfig
from gateway.ingest.metric_values import worst
from gateway.state.base import BUCKET_S, Bucket, Counts
from gateway.state.folding import LADDER, Grouping
from gateway.state.store import AggregateStore
from gateway.state.units import (
    COVARIATE,
    OF_INVERSE,
    OF_PAST,
    OF_UNITS,
    OF_WEIGHTS,
    RESCUED,
    STICKY,
    UNITS,
    metric_of,
    of_covariate,
)
from policies.types import PairSums, RewardSums

Key = tuple[str, str]
"""Variant and metric."""
Sums = Mapping[Key, RewardSums]
"""Sums of the store; the metric may carry the suffix of an aspect."""

RECENT_S: Final = 7_200.0
HOUR_S: Final = 3_600.0
Spans = Sequence[tuple[float, float]]
"""(end, length of a bucket) of spans of time that follow one another, in seconds, oldest first."""
_MAX_CLOCK_SKEW_S: Final = 60.0
"""Seconds by which the clocks of two replicas may differ."""
_NONE: Final = RewardSums()
_NO_COUNTS: Final = Counts()
_NO_PAIRS: Final = PairSums()
_PAIRS: Final = {"past": OF_PAST, "weighted": OF_WEIGHTS, "inverse": OF_INVERSE, "by_unit": OF_UNITS}
"""Fields of `Rewarded`, each with the aspects of its x, its y and of both together."""
_KNOWN: Final = frozenset(("", STICKY, UNITS)).union(*_PAIRS.values())


@dataclass(frozen=True, slots=True)
class Rewarded:
    """The values of one metric for one variant."""

    values: RewardSums = _NONE
    """Sums over all values, including missing ones that count as zero."""
    observations: RewardSums = _NONE
    """Sums over independent observations, which statistics use; counts may be fractions."""
    missing: float = 0.0
    """Number of ``values`` that were not reported."""
    waiting: float = 0.0
    """Number of reported values not yet in ``values``, because the windows of their decisions are open."""
    loose: float = field(default=0.0, compare=False)
    """Number of ``values`` without a unit."""
    past: PairSums = _NO_PAIRS
    """What was known before of the units behind ``observations``, and their observations."""
    weighted: PairSums = _NO_PAIRS
    """The sums of w y and of w over the values y of each unit, w = 1 - propensity."""
    inverse: PairSums = _NO_PAIRS
    """Of values of requests with features, w y and w, w = 1 / propensity."""
    worst: RewardSums = _NONE
    """Of the values not reported, those of failures that count as the metric's worst value."""
    by_unit: PairSums = _NO_PAIRS
    """Within an epoch of constant shares, the sum of each unit's values and their number."""
    covariates: Mapping[str, PairSums] = field(default_factory=dict)
    """By covariate, what is known of it and of the values of the requests that have it."""

    def __add__(self, other: Rewarded) -> Rewarded:
        return Rewarded(
            self.values + other.values,
            self.observations + other.observations,
            self.missing + other.missing,
            self.waiting + other.waiting,
            self.loose + other.loose,
            _plus(self.past, other.past),
            _plus(self.weighted, other.weighted),
            _plus(self.inverse, other.inverse),
            self.worst + other.worst,
            _plus(self.by_unit, other.by_unit),
            _merged(self.covariates, other.covariates),
        )

    def plain(self) -> Rewarded:
        """What estimates of the mean take: without the sums that only comparisons need."""
        return Rewarded(self.values, self.observations, self.missing, self.waiting)

    def scaled(self, share: float) -> Rewarded:
        """The same values with ``share`` observations for each."""
        return replace(
            self,
            observations=self.values * share,
            past=_NO_PAIRS,
            weighted=_NO_PAIRS,
            by_unit=_NO_PAIRS,
            covariates={},
        )


@dataclass(frozen=True, slots=True)
class RewardedBucket:
    """A `Bucket` whose rewards are read by the rules."""

    start: float
    variant: str
    epoch: int
    counts: Counts
    rewards: Mapping[str, Rewarded] = field(default_factory=dict)


def ended_before(now: float, window: float, step: float = BUCKET_S) -> float:
    """Start time before which buckets of ``step`` seconds hold only decisions whose window is over.

    It lies on the border of the coarsest cells that old aggregates may have been folded into by then.
    """
    widths = [width for age, width in LADDER if age <= window + _MAX_CLOCK_SKEW_S]
    width = max([step, BUCKET_S, *widths])
    return (now - window) // width * width


async def rewarded(
    store: AggregateStore,
    route: str,
    metrics: Mapping[str, MetricConfig],
    *,
    now: float,
    since: float | None = None,
    until: float | None = None,
    epoch: int | None = None,
    part: bool = False,
) -> dict[Key, Rewarded]:
    """The rewards of decisions within the limits (`AggregateStore.reward_sums`), by variant and metric.

    ``part``: the limits cut through the periods of units, whose means then lie partly outside. Observations are
    estimated instead: per value as many as overall. Raises StoreUnavailable.
    """
    sums = await store.reward_sums(route, since=since, until=until, epoch=epoch)
    found = joined(sums)
    for edge, names in _edges(metrics, now).items():
        limit = edge if until is None else min(edge, until)
        counts: dict[str, Counts] = {}
        ended: Sums = {}
        if since is None or limit > since:
            decided = await store.decided(route, since=since, until=limit, epoch=epoch)
            counts = {
                name: Counts(assigned=made, errors=failed) for name, (made, _, failed) in decided.items()
            }
            ended = await store.reward_sums(route, since=since, until=limit, epoch=epoch)
        for name in names:
            share = _share(found, name)
            _hold_back(found, name)
            for variant in counts.keys() | {variant for variant, _ in ended}:
                one = _entered(counts.get(variant, _NO_COUNTS), ended, variant, name, metrics[name], share)
                _put(found, (variant, name), one)
    found = {key: one for key, one in found.items() if one.values.count > 0 or one.waiting > 0}
    if part and any(name.endswith(STICKY) for _, name in sums):
        whole = joined(await store.reward_sums(route))
        found = {key: one.scaled(_share(whole, key[1])) for key, one in found.items()}
    return found


def of_buckets(
    buckets: Iterable[Bucket], metrics: Mapping[str, MetricConfig], *, now: float, step: float = BUCKET_S
) -> list[RewardedBucket]:
    """Buckets of ``step`` seconds with their rewards read by the rules, each bucket as a whole."""
    each = [(b, joined({(b.variant, name): s for name, s in b.rewards.items()})) for b in buckets]
    edges = _edges(metrics, now, step)
    whole: dict[Key, Rewarded] = {}
    for _, found in each if edges else ():
        for key, one in found.items():
            _put(whole, key, one)
    for edge, names in edges.items():
        for name in names:
            share = _share(whole, name)
            for bucket, found in each:
                _hold_back(found, name)
                if bucket.start < edge:
                    ended = {(bucket.variant, key): one for key, one in bucket.rewards.items()}
                    one = _entered(bucket.counts, ended, bucket.variant, name, metrics[name], share)
                    _put(found, (bucket.variant, name), one)
    return [
        RewardedBucket(b.start, b.variant, b.epoch, b.counts, {name: r for (_, name), r in found.items()})
        for b, found in each
    ]


async def over_time(
    store: AggregateStore,
    route: str,
    metrics: Mapping[str, MetricConfig],
    *,
    now: float,
    since: float | None = None,
    epoch: int | None = None,
    histograms: bool = True,
    epochs: bool = False,
) -> list[RewardedBucket]:
    """Return what was decided since a time, by bucket of time and variant: fine buckets for the last hours, hours
    before them. ``histograms``: whether with times (`AggregateStore.series`); ``epochs``: each epoch by itself, not
    together with those of like shares.
    """
    each = epochs or epoch is not None
    found: list[RewardedBucket] = []

    def read(buckets: list[Bucket], step: float) -> list[RewardedBucket]:
        rewarded = of_buckets(buckets, metrics, now=now, step=step)
        buckets.clear()  # to free thousands would hold up the event loop
        return rewarded

    async for step, buckets in all_buckets(
        store, route, now=now, since=since, histograms=histograms, epochs=each
    ):
        found += await asyncio.to_thread(read, buckets, step)
    return [bucket for bucket in found if epoch is None or bucket.epoch == epoch]


def spans_until(now: float, recent: float) -> Spans:
    """All time, by hour and, of the last hours, with buckets of ``recent`` seconds."""
    return ((now - RECENT_S) // HOUR_S * HOUR_S, HOUR_S), (now + BUCKET_S, recent)


async def all_buckets(
    store: AggregateStore,
    route: str,
    *,
    now: float,
    since: float | None = None,
    histograms: bool,
    epochs: bool = False,
    segments: bool = False,
    spans: Spans | None = None,
) -> AsyncIterator[tuple[float, list[Bucket]]]:
    """Give the buckets behind `over_time`, with their length in seconds; ``spans``: with other lengths.

    Raises StoreUnavailable.
    """
    grouping: Grouping = "each" if epochs else "alike"
    begin = max(since or 0.0, 0.0)
    for end, step in spans or spans_until(now, BUCKET_S):
        if begin < end:
            yield (
                step,
                await store.series(
                    route,
                    since=begin,
                    until=end,
                    step=step,
                    epochs=grouping,
                    histograms=histograms,
                    segments=segments,
                ),
            )
            begin = end


def observations(found: Mapping[Key, Rewarded]) -> dict[Key, RewardSums]:
    """Observations for statistics, by variant and metric."""
    return {key: one.observations for key, one in found.items()}


def by_time(buckets: Iterable[RewardedBucket]) -> Iterable[tuple[float, dict[Key, RewardSums]]]:
    """(start, observations) of each bucket, as `policies.allocation.bandit.discounted` takes them."""
    return ((b.start, {(b.variant, m): r.observations for m, r in b.rewards.items()}) for b in buckets)


def share_observed(found: Iterable[Mapping[str, Rewarded]], metric: str) -> float:
    """Observations per value of a metric, over all rewards given; 1 without values."""
    return _share({("", str(n)): f[metric] for n, f in enumerate(found) if metric in f}, None)


def _edges(metrics: Mapping[str, MetricConfig], now: float, step: float = BUCKET_S) -> dict[float, list[str]]:
    """Metrics whose missing values count, by the time before which their windows are over."""
    found: dict[float, list[str]] = {}
    for name, metric in metrics.items():
        if metric.missing == "zero":
            found.setdefault(ended_before(now, metric.window, step), []).append(name)
    return found


def joined(sums: Sums) -> dict[Key, Rewarded]:
    """Combine the aspects of each metric; those that a later release adds are of no metric here."""
    aspects: dict[Key, dict[str, RewardSums]] = defaultdict(dict)
    for (variant, name), one in sums.items():
        metric = metric_of(name)
        aspects[variant, metric][name[len(metric) :]] = one
    return {key: _rewarded(found) for key, found in aspects.items() if not _KNOWN.isdisjoint(found)}


def _rewarded(aspects: Mapping[str, RewardSums]) -> Rewarded:
    alone, sticky, units = (aspects.get(aspect, _NONE) for aspect in ("", STICKY, UNITS))
    pairs: dict[str, Any] = {
        of: PairSums(*(aspects.get(aspect, _NONE) for aspect in each))
        for of, each in _PAIRS.items()
        if not aspects.keys().isdisjoint(each)
    }
    covariates = {
        name: PairSums(*(aspects.get(aspect, _NONE) for aspect in of_covariate(name)))
        for name in (aspect[len(COVARIATE) :] for aspect in aspects if aspect.startswith(COVARIATE))
    }
    return Rewarded(alone + sticky, alone + units, loose=alone.count, covariates=covariates, **pairs)


def _plus(one: PairSums, other: PairSums) -> PairSums:
    # Most metrics have none of these sums, and a day of them is added up for one chart.
    return other if one is _NO_PAIRS else one if other is _NO_PAIRS else one + other


def _merged(mine: Mapping[str, PairSums], theirs: Mapping[str, PairSums]) -> Mapping[str, PairSums]:
    if not theirs:
        return mine
    return {name: mine.get(name, _NO_PAIRS) + theirs.get(name, _NO_PAIRS) for name in {**mine, **theirs}}


def _put(found: dict[Key, Rewarded], key: Key, one: Rewarded) -> None:
    known = found.get(key)
    found[key] = one if known is None else known + one


def _share(found: Mapping[Key, Rewarded], metric: str | None) -> float:
    mine = [one for (_, name), one in found.items() if metric is None or name == metric]
    values = sum(one.values.count for one in mine)
    return sum(one.observations.count for one in mine) / values if values > 0 else 1.0


def _missing(
    counts: Counts, ended: Sums, variant: str, name: str, metric: MetricConfig
) -> tuple[RewardSums, RewardSums]:
    """Sums of the decisions without a value, in buckets whose windows are over: that count as zero, and as the worst
    value."""
    own = (name, name + STICKY)
    number = max(0.0, counts.assigned - sum(ended.get((variant, key), _NONE).count for key in own))
    value = worst(metric) or 0.0
    rescued = ended.get((variant, name + RESCUED), _NONE).count
    failed = min(max(0.0, counts.errors - rescued), number) if value else 0.0
    return RewardSums(number - failed), RewardSums(failed, failed * value, failed * value * value)


def _hold_back(found: dict[Key, Rewarded], name: str) -> None:
    """Mark all reported values of a metric as waiting; `_entered` takes out those whose windows are over."""
    for key, one in found.items():
        if key[1] == name:
            found[key] = Rewarded(waiting=one.values.count)


def _entered(
    counts: Counts, ended: Sums, variant: str, name: str, metric: MetricConfig, share: float
) -> Rewarded:
    """Values and missing values of one variant, in buckets whose windows are over."""
    reported = joined({key: one for key, one in ended.items() if key[0] == variant}).get(
        (variant, name), Rewarded()
    )
    zeros, failures = _missing(counts, ended, variant, name, metric)
    values = reported.values + zeros + failures
    return replace(
        reported,
        values=values,
        observations=values * share,
        missing=zeros.count + failures.count,
        worst=failures,
        waiting=-reported.values.count,
    )
