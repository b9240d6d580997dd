"""A route over time, as JSON: a pure function of the store's buckets and of the allocations in force."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from math import ceil
from types import MappingProxyType
from typing import Any, Final

from gateway.config.service import MetricConfig
from gateway.control.reports.estimates import estimate, reward_estimate
from gateway.control.reports.served import (
    GATEWAY,
    LATENCIES,
    client_error_rate,
    error_rate,
    latencies,
    latency_intervals,
)
from gateway.control.schemas.series import BucketVariant
from gateway.ingest.evidence import Key, Rewarded, RewardedBucket, share_observed
from gateway.record.histogram import merge
from gateway.state.base import Counts, Published
from gateway.state.folding import cell_width
from policies.types import CLIENT_ERROR_RATE, RewardSums

Json = dict[str, Any]

DEFAULT_BUCKETS: Final = 120
"""Number of buckets by default, about."""
MAX_BUCKETS: Final = 2000
ROUND_STEPS_S: Final = (10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_NOTHING: Final = Rewarded()
FIGURES: Final = frozenset(BucketVariant.model_fields)
"""Names of the figures of a variant in a bucket."""
ROLLING_PART: Final = 12
"""The rolling figures cover this part of the period: one twelfth."""


def step_for(span: float, wanted: float | None, *, age: float = 0.0) -> float:
    """Return the seconds of one bucket: a round number by default.

    It is a multiple of what the store keeps for what was decided ``age`` seconds ago: in shorter buckets most would
    be empty, and the others would hold too much for their length.
    """
    if wanted is None:
        least = span / DEFAULT_BUCKETS
        wanted = next((step for step in ROUND_STEPS_S if step >= least), ceil(least / 86400) * 86400)
    width = cell_width(age)
    return float(max(1, ceil(wanted / width)) * width)


def series(
    variants: Sequence[str],
    declared: Mapping[str, MetricConfig],
    buckets: Iterable[RewardedBucket],
    before: Mapping[Key, Rewarded],
    window: float,
    wanted: AbstractSet[str] = FIGURES,
) -> list[Json]:
    """The buckets as JSON, oldest first, with the ``wanted`` of `FIGURES`.

    ``before``: the rewards up to the first of them; ``window``: seconds of the rolling figures. A unit's mean
    stands in one bucket, that of its first value; the others, and the rolling figures, take their values and
    as many observations of them as there are overall.
    """
    buckets = [
        replace(bucket, rewards={metric: one.plain() for metric, one in bucket.rewards.items()})
        for bucket in buckets
    ]
    shares = _shares(declared, buckets, before)
    to_date, rolling = _Totals({key: one.plain() for key, one in before.items()}), _Rolling(window)
    made = []
    for start, found in _by_start(buckets):
        to_date.add(found)
        of_window = rolling.with_next(start, found)
        made.append(_bucket(start, variants, declared, found, to_date, of_window, shares, wanted))
    return made


def agreements(cells: Iterable[tuple[float, str, int, int]], window: float) -> list[Json]:
    """Return how often each shadow agreed in the ``window`` seconds up to the end of each bucket, oldest first.

    ``cells``: (start, shadow, compared, agreeing), oldest first.
    """
    held: deque[tuple[float, str, int, int]] = deque()
    sums: dict[str, RewardSums] = {}
    made: dict[float, Json] = {}
    for start, shadow, compared, agreeing in cells:
        while held and held[0][0] <= start - window:
            _, gone, fewer, less = held.popleft()
            sums[gone] -= RewardSums(fewer, less, less)
        held.append((start, shadow, compared, agreeing))
        sums[shadow] = sums.get(shadow, RewardSums()) + RewardSums(compared, agreeing, agreeing)
        made.setdefault(start, {})[shadow] = estimate("boolean", sums[shadow])
    return [{"start": start, "shadows": shadows} for start, shadows in made.items()]


def _shares(
    declared: Mapping[str, MetricConfig], buckets: Sequence[RewardedBucket], before: Mapping[Key, Rewarded]
) -> dict[str, float]:
    """Observations per value, by metric."""
    earlier = [{metric: one} for (_, metric), one in before.items()]
    return {name: share_observed([*earlier, *(b.rewards for b in buckets)], name) for name in declared}


class _Totals:
    """Sums to which buckets are added."""

    def __init__(self, rewards: Mapping[Key, Rewarded] = MappingProxyType({})) -> None:
        self.rewards = dict(rewards)
        self.seen: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def add(self, buckets: Iterable[RewardedBucket]) -> None:
        for bucket in buckets:
            self.seen[bucket.variant] += bucket.counts.seen
            self.errors[bucket.variant] += bucket.counts.errors
            for metric, one in bucket.rewards.items():
                self._put((bucket.variant, metric), one)

    def __add__(self, other: _Totals) -> _Totals:
        both = _Totals(self.rewards)
        both.seen, both.errors = self.seen + other.seen, self.errors + other.errors
        for key, one in other.rewards.items():
            both._put(key, one)
        return both

    def _put(self, key: Key, one: Rewarded) -> None:
        known = self.rewards.get(key)
        self.rewards[key] = one if known is None else known + one

    def estimates(
        self, variant: str, declared: Mapping[str, MetricConfig], shares: Mapping[str, float] | None = None
    ) -> Json:
        found = {name: self.rewards.get((variant, name), _NOTHING) for name in declared}
        return _estimates(found, declared, shares)

    def client_error_rate(self, variant: str) -> Json:
        return client_error_rate(self.rewards.get((variant, CLIENT_ERROR_RATE), _NOTHING).values)

    def error_rate(self, variant: str) -> Json:
        return error_rate(Counts(assigned=self.seen[variant], errors=self.errors[variant]))


class _Rolling:
    """The sums of the last seconds.

    Nothing is subtracted: 1e18, the square of one value of 1e9, would leave an error of 100 behind when it goes.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._older: list[tuple[float, _Totals]] = []
        """From each start up to the first of ``_newer``; the longest comes last, and goes first."""
        self._newer: list[tuple[float, Sequence[RewardedBucket]]] = []
        self._of_newer = _Totals()

    def with_next(self, start: float, buckets: Sequence[RewardedBucket]) -> _Totals:
        """Add the ``buckets`` of ``start`` and return the sums of the window up to their end."""
        self._newer.append((start, buckets))
        self._of_newer.add(buckets)
        while self._older and self._older[-1][0] <= start - self._window:
            self._older.pop()
        if not self._older:  # each bucket comes here once: a window costs no more if it has more buckets
            whole = _Totals()
            for begin, found in reversed(self._newer):
                if begin > start - self._window:
                    whole = whole + _Totals()
                    whole.add(found)
                    self._older.append((begin, whole))
            self._newer, self._of_newer = [], _Totals()
        return self._older[-1][1] + self._of_newer


def _by_start(buckets: Iterable[RewardedBucket]) -> list[tuple[float, list[RewardedBucket]]]:
    found: dict[float, list[RewardedBucket]] = {}
    for bucket in buckets:
        found.setdefault(bucket.start, []).append(bucket)
    return sorted(found.items())


def _bucket(
    start: float,
    variants: Sequence[str],
    declared: Mapping[str, MetricConfig],
    buckets: Sequence[RewardedBucket],
    to_date: _Totals,
    rolling: _Totals,
    shares: Mapping[str, float],
    wanted: AbstractSet[str],
) -> Json:
    known = dict.fromkeys([*variants, *(b.variant for b in buckets if b.variant)])
    total = sum(b.counts.assigned for b in buckets if b.variant)
    expected = sum(b.counts.expected for b in buckets if b.variant)
    return {
        "start": start,
        "epoch": max(b.epoch for b in buckets),
        "variants": {
            name: {
                figure: make()
                for figure, make in (
                    _figures([b for b in buckets if b.variant == name], declared, total, expected, shares)
                    | {
                        "to_date": partial(to_date.estimates, name, declared),
                        "rolling": partial(rolling.estimates, name, declared, shares),
                        "rolling_error_rate": partial(rolling.error_rate, name),
                        "rolling_client_error_rate": partial(rolling.client_error_rate, name),
                    }
                ).items()
                if figure in wanted
            }
            for name in known
        },
    }


def _figures(
    buckets: Sequence[RewardedBucket],
    declared: Mapping[str, MetricConfig],
    total: int,
    expected: float,
    shares: Mapping[str, float],
) -> dict[str, Callable[[], Any]]:
    """What makes each figure: estimates and quantiles take long."""
    counts = [b.counts for b in buckets]
    assigned, errors = sum(c.assigned for c in counts), sum(c.errors for c in counts)
    client_errors = _summed(buckets, CLIENT_ERROR_RATE).values
    return {
        "assigned": lambda: assigned,
        "served": lambda: sum(c.served for c in counts),
        "errors": lambda: errors,
        "error_rate": lambda: error_rate(Counts(assigned=sum(c.seen for c in counts), errors=errors)),
        "client_errors": lambda: round(client_errors.total),
        "client_error_rate": lambda: client_error_rate(client_errors),
        "fallbacks": lambda: sum(c.fallbacks for c in counts),
        "share": lambda: assigned / total if total else None,
        "allocated": lambda: sum(c.expected for c in counts) / expected if expected else None,
        "latency_ms": lambda: latencies(_merged(counts, "latency"), LATENCIES),
        "latency_interval_ms": lambda: latency_intervals(_merged(counts, "latency")),
        "gateway_ms": lambda: latencies(_merged(counts, "gateway"), GATEWAY),
        "rewards": lambda: _estimates({name: _summed(buckets, name) for name in declared}, declared, shares),
    }


def _estimates(
    found: Mapping[str, Rewarded], declared: Mapping[str, MetricConfig], shares: Mapping[str, float] | None
) -> Json:
    """The reward estimates; omits metrics without data."""
    return {
        name: reward_estimate(declared[name], one if shares is None else one.scaled(shares[name]))
        for name, one in found.items()
        if one.values.count > 0 and one.observations.count > 0
    }


def _merged(counts: Sequence[Counts], which: str) -> Mapping[int, int]:
    histograms = [getattr(c, which) for c in counts]
    return histograms[0] if len(histograms) == 1 else merge(histograms)


def _summed(buckets: Sequence[RewardedBucket], metric: str) -> Rewarded:
    total = _NOTHING
    for bucket in buckets:
        total += bucket.rewards.get(metric, _NOTHING)
    return total


def steps(history: Sequence[Published], since: float, until: float) -> list[Json]:
    """Return the allocation in force at ``since`` and each change up to ``until``; at most the newest `MAX_BUCKETS`."""
    within = [p for p in history if p.time <= until]
    earlier = [p for p in within if p.time <= since]
    return [
        {"time": p.time, "epoch": p.epoch, "allocation": dict(p.probabilities), "reason": p.reason}
        for p in (*earlier[-1:], *(p for p in within if p.time > since))
    ][-MAX_BUCKETS:]
