"""What the rewards of a route amount to: the one reading of the sums that every statistic takes.

Two rules are applied here, on reading, so that nothing has to be written for them and an edit of the
configuration holds for all that was recorded:

*Missing.* Where a metric says ``missing: zero``, a decision enters when its window is over, and not before: with
the value that counts for it, or with 0, for every variant alike. (Values that are there earlier wait. Taken at
once they would make whoever was served last look better: good news comes before the end of the window, and
nothing comes at its end.) How many are missing is the number of decisions (`Counts.assigned`) less that of
values, in the buckets that are over. A decision that failed, or that fallback rescued, earned nothing either;
where the metric's worst value is bounded and not 0 (a complaint, to be minimised), it counts as that, as a
reported rescue does (`Reward.worst`).

*Units.* Statistics take the mean of a sticky unit's values as one observation (`gateway.state.units`). Whose the
missing ones are is not recorded; they enter in the proportion in which values became observations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from gateway.ingest.rewards import Metric as Bounds
from gateway.ingest.rewards import worst
from gateway.state.base import BUCKET, Bucket, Counts
from gateway.state.folding import LADDER
from gateway.state.store import AggregateStore
from gateway.state.units import RESCUED, STICKY, UNITS, metric_of
from policies.allocation.model import RewardSums

Key = tuple[str, str]
"""Variant and metric."""
Sums = Mapping[Key, RewardSums]
"""As the store has them: the metric may have an aspect."""

_MAX_CLOCK_SKEW_S: Final = 60.0
"""Seconds by which the clocks of two replicas may differ."""
_NONE: Final = RewardSums()
_NOBODY: Final = Counts()


class Metric(Bounds, Protocol):
    """A declared metric."""

    @property
    def missing(self) -> str:
        """ignore | zero"""
        ...


@dataclass(frozen=True, slots=True)
class Rewarded:
    """One metric of one variant."""

    values: RewardSums = _NONE
    """Each value by itself, the missing ones that count as zero among them."""
    observations: RewardSums = _NONE
    """What may be taken for independent; statistics use nothing else. Counts may be fractions."""
    missing: float = 0.0
    """How many of ``values`` were not reported."""
    waiting: float = 0.0
    """Values that were reported and are not among ``values`` yet: their decisions' windows are open."""

    def __add__(self, other: Rewarded) -> Rewarded:
        return Rewarded(
            self.values + other.values,
            self.observations + other.observations,
            self.missing + other.missing,
            self.waiting + other.waiting,
        )

    def __sub__(self, other: Rewarded) -> Rewarded:
        return Rewarded(
            self.values - other.values,
            self.observations - other.observations,
            self.missing - other.missing,
            self.waiting - other.waiting,
        )

    def scaled(self, share: float) -> Rewarded:
        """With ``share`` observations for each value, whatever the units' own means were."""
        return replace(self, observations=_times(self.values, share))


@dataclass(frozen=True, slots=True)
class RewardedBucket:
    """`Bucket`, its rewards read by the rules."""

    start: float
    variant: str
    epoch: int
    counts: Counts
    rewards: Mapping[str, Rewarded] = field(default_factory=dict)


def ended_before(now: float, window: float, step: float = BUCKET) -> float:
    """Buckets of ``step`` seconds that begin before this hold only decisions whose window is over.

    Old aggregates are folded into coarser cells, so the border lies on the coarsest that may be there.
    """
    widths = [width for age, width in LADDER if age <= window + _MAX_CLOCK_SKEW_S]
    width = max([step, BUCKET, *widths])
    return (now - window) // width * width


async def rewarded(
    store: AggregateStore,
    route: str,
    metrics: Mapping[str, Metric],
    *,
    now: float,
    since: float | None = None,
    until: float | None = None,
    epoch: int | None = None,
    part: bool = False,
) -> dict[Key, Rewarded]:
    """By (variant, metric), what was decided within the limits; see `Store.reward_sums`.

    ``part``: the limits cut through the periods of units, so that the means of many lie outside. Then the
    observations are estimated: as many of the values as overall.
    """
    sums = await store.reward_sums(route, since=since, until=until, epoch=epoch)
    found = _joined(sums)
    for edge, names in _edges(metrics, now).items():
        limit = edge if until is None else min(edge, until)
        counts: dict[str, Counts] = {}
        ended: Sums = {}
        if since is None or limit > since:
            decided = await store.decided(route, since=since, until=limit, epoch=epoch)
            counts = {name: Counts(assigned=made, errors=failed) for name, (made, failed) in decided.items()}
            ended = await store.reward_sums(route, since=since, until=limit, epoch=epoch)
        for name in names:
            share = _share(found, name)
            _hold_back(found, name)
            for variant in counts.keys() | {variant for variant, _ in ended}:
                one = _entered(counts.get(variant, _NOBODY), ended, variant, name, metrics[name], share)
                _put(found, (variant, name), one)
    found = {key: one for key, one in found.items() if one.values.count > 0 or one.waiting > 0}
    if part and any(name.endswith(STICKY) for _, name in sums):
        whole = _joined(await store.reward_sums(route))
        found = {key: one.scaled(_share(whole, key[1])) for key, one in found.items()}
    return found


def of_buckets(
    buckets: Iterable[Bucket], metrics: Mapping[str, Metric], *, now: float, step: float = BUCKET
) -> list[RewardedBucket]:
    """Buckets of ``step`` seconds, their rewards read by the rules, each bucket as a whole."""
    each = [(b, _joined({(b.variant, name): s for name, s in b.rewards.items()})) for b in buckets]
    whole: dict[Key, Rewarded] = {}
    for _, found in each:
        for key, one in found.items():
            _put(whole, key, one)
    for edge, names in _edges(metrics, now, step).items():
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


def observations(found: Mapping[Key, Rewarded]) -> dict[Key, RewardSums]:
    """What statistics take, by (variant, metric)."""
    return {key: one.observations for key, one in found.items()}


def by_time(buckets: Iterable[RewardedBucket]) -> Iterable[tuple[float, dict[Key, RewardSums]]]:
    """(start, observations) of each bucket, as `policies.allocation.bandit.discounted` takes them."""
    return ((b.start, {(b.variant, m): r.observations for m, r in b.rewards.items()}) for b in buckets)


def share_observed(found: Iterable[Mapping[str, Rewarded]], metric: str) -> float:
    """Observations for each value of a metric, over all that is given; 1 where there is nothing."""
    return _share({("", str(n)): f[metric] for n, f in enumerate(found) if metric in f}, None)


def _edges(metrics: Mapping[str, Metric], now: float, step: float = BUCKET) -> dict[float, list[str]]:
    """The metrics whose missing values count, by where their windows have ended."""
    found: dict[float, list[str]] = {}
    for name, metric in metrics.items():
        if metric.missing == "zero":
            found.setdefault(ended_before(now, metric.window, step), []).append(name)
    return found


def _joined(sums: Sums) -> dict[Key, Rewarded]:
    """The aspects of each metric together."""
    found: dict[Key, Rewarded] = {}
    for (variant, name), one in sums.items():
        if not name.endswith(RESCUED):
            values = _NONE if name.endswith(UNITS) else one
            seen = _NONE if name.endswith(STICKY) else one
            _put(found, (variant, metric_of(name)), Rewarded(values, seen))
    return found


def _put(found: dict[Key, Rewarded], key: Key, one: Rewarded) -> None:
    found[key] = found.get(key, Rewarded()) + one


def _share(found: Mapping[Key, Rewarded], metric: str | None) -> float:
    mine = [one for (_, name), one in found.items() if metric is None or name == metric]
    values = sum(one.values.count for one in mine)
    return sum(one.observations.count for one in mine) / values if values > 0 else 1.0


def _missing(counts: Counts, ended: Sums, variant: str, name: str, metric: Metric) -> RewardSums:
    """What the decisions without a value count as, where all windows are over."""
    own = (name, name + STICKY)
    number = max(0.0, counts.assigned - sum(ended.get((variant, key), _NONE).count for key in own))
    value = worst(metric) or 0.0
    rescued = ended.get((variant, name + RESCUED), _NONE).count
    failed = min(max(0.0, counts.errors - rescued), number) if value else 0.0
    return RewardSums(number, failed * value, failed * value * value)


def _hold_back(found: dict[Key, Rewarded], name: str) -> None:
    """All reported values of a metric wait; `_entered` takes those whose windows are over out again."""
    for key, one in found.items():
        if key[1] == name:
            found[key] = Rewarded(waiting=one.values.count)


def _entered(counts: Counts, ended: Sums, variant: str, name: str, metric: Metric, share: float) -> Rewarded:
    """What entered of one variant: its values and the missing ones, where all windows are over."""
    reported = _joined({key: one for key, one in ended.items() if key[0] == variant}).get(
        (variant, name), Rewarded()
    )
    missing = _missing(counts, ended, variant, name, metric)
    filled = Rewarded(missing, _times(missing, share), missing.count)
    return replace(reported + filled, waiting=-reported.values.count)


def _times(sums: RewardSums, share: float) -> RewardSums:
    return RewardSums(sums.count * share, sums.total * share, sums.squares * share)


def longest(metrics: Mapping[str, Metric], names: Sequence[str]) -> float:
    """Seconds after which every missing value of these metrics counts; 0 where none ever does."""
    return max((metrics[n].window for n in names if metrics[n].missing == "zero"), default=0.0)


__all__ = [
    "Key",
    "Rewarded",
    "RewardedBucket",
    "by_time",
    "ended_before",
    "longest",
    "observations",
    "of_buckets",
    "rewarded",
    "share_observed",
]
