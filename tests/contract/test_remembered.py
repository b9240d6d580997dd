"""What is kept between two looks, and read again only where it changed, is what a reader of all would find."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from math import lcm
from random import Random
from typing import Any, TypeVar

import numpy as np
import pytest

from gateway.config.service import MetricConfig
from gateway.ingest.comparable import periods
from gateway.ingest.evidence import all_buckets, of_buckets
from gateway.ingest.remembered import MAX_CELLS, Remembered, pieces, spans, spans_of_all, windows_over
from gateway.record.events import Outcome
from gateway.state.base import Bucket, Retention
from gateway.state.folding import cell_width
from gateway.state.store import Store
from gateway.state.tally import KEPT_CHANGES
from policies.sequential.design_based import Periods
from policies.types import PairSums
from tests.support.made import T0, outcome, reward

T = TypeVar("T")
HOUR = 3600.0
DAY = 24 * HOUR


class Counting:
    """A store that counts the buckets that are read of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = self.largest = 0
        self.changed_cells = store.changed_cells

    async def reduced_series(self, route: str, make: Callable[[list[Bucket]], T], **limits: Any) -> T:
        def counted(found: list[Bucket]) -> T:
            self.read += len(found)
            self.largest = max(self.largest, len(found))
            return make(found)

        return await self._store.reduced_series(route, counted, **limits)


async def _all(store: Store, now: float) -> list[Bucket]:
    return [
        bucket async for _, each in all_buckets(store, "digits", now=now, histograms=False) for bucket in each
    ]


async def _remembered(known: Remembered[list[Bucket]], store: Any, now: float) -> list[Bucket]:
    parts = await known.read(store, "digits", spans_of_all(now), now=now)
    return [bucket for part in parts for bucket in part]


def _as_is(buckets: list[Bucket], step: float, now: float) -> list[Bucket]:
    return list(buckets)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.long
async def test_what_is_remembered_is_what_there_is(store: Store, seed: int) -> None:
    """Late outcomes, rewards, corrections and units that move their observation, over hours and weeks of folding."""
    chance, now, known = Random(seed), T0, list[Outcome]()
    remembered, comparisons = Remembered(_as_is), dict[float, Remembered[list[Bucket]]]()
    kept = Retention(outcomes=1000 * DAY, rewards=1000 * DAY, aggregates=100 * DAY)
    for pause in (5.0, 40.0, 600.0, HOUR, 2 * HOUR, 5.0, DAY, 3 * DAY, 10.0, 20 * DAY, 95 * DAY, 5.0, HOUR):
        for late in (0.0, 0.0, chance.random() * 3 * HOUR, chance.random() * 5 * DAY):
            made = [
                outcome(
                    now - late - chance.random() * 30,
                    assigned=(variant := chance.choice(["v1", "v2"])),
                    served=variant,
                    epoch=int(now - late) // 7 % 1000 + 1,
                )
                for _ in range(3)
            ]
            known += made
            await store.append(made)
            rewarded = [
                reward(
                    chance.choice([None, 0.25, 0.5, 3.0]),
                    of=one,
                    time=now,
                    unit=int.from_bytes(one.decision[-2:]) % 5,
                    period=chance.choice(["", "all"]),
                )
                for one in (*made, *chance.sample(known, 2))
            ]
            await store.reward(rewarded)
            assert await _remembered(remembered, store, now) == await _all(store, now)
            for step in (10.0, 40.0, 50.0, 70.0, 240.0):
                since = now // step * step - 20 * step
                parts = await comparisons.setdefault(step, Remembered(_as_is)).read(
                    store, "digits", spans(since, now, step), now=now
                )
                limits: dict[str, Any] = {"since": since, "until": now, "step": step, "epochs": "alike"}
                whole = await store.series("digits", histograms=False, **limits)
                assert [bucket for part in parts for bucket in part] == whole
        now += pause
        while await store.prune(kept, now=now):
            pass
        assert await _remembered(remembered, store, now) == await _all(store, now)


async def test_only_what_changed_is_read(store: Store) -> None:
    now = T0 + 2 * HOUR
    old = [outcome(T0 + 20.0 * n, epoch=n + 1) for n in range(360)]
    await store.append(old)
    remembered, counting = Remembered(_as_is), Counting(store)
    assert len(await _remembered(remembered, counting, now)) == counting.read == 360
    assert counting.largest <= MAX_CELLS, "thousands together hold up the event loop"
    counting.read = 0
    await _remembered(remembered, counting, now)
    await store.append([outcome(now, epoch=400)])
    await store.reward([reward(of=old[100])])
    assert len(await _remembered(remembered, counting, now)) == 361
    assert counting.read <= 3 + 4 + 4, "its minute and the newest one, and the newest one twice"


async def test_the_collector_is_off_while_a_piece_is_read_and_no_longer(store: Store) -> None:
    """It was off while a look waited for the store, and for good once such a task was dropped."""
    await store.append([outcome(T0)])
    limits: dict[str, Any] = {"since": T0 - 60, "until": T0 + 60, "step": 10.0}
    assert await store.reduced_series("digits", lambda found: (len(found), gc.isenabled()), **limits) == (
        1,
        False,
    )
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        await store.reduced_series("digits", lambda found: 1 / 0, **limits)
    assert gc.isenabled()


@pytest.mark.parametrize("step", [10.0, 70.0, 240.0, 3600.0])
@pytest.mark.parametrize("age", [5.0, 7000.0, 7300.0, 3 * DAY, 100 * DAY, T0])
def test_pieces_are_few_cells_and_together_all(step: float, age: float) -> None:
    now = T0 + 1234.0
    since, until = now - age, now // step * step
    found = list(pieces(since, until, now, step))
    assert [begin for begin, _ in found[1:]] == [end for _, end in found[:-1]]
    assert [found[0][0], found[-1][1]] == [since, until] if found else until <= since
    for begin, end in found:
        coarse, fine = cell_width(now - begin), cell_width(now - end)
        assert end == until or (end % step == 0 and end % coarse == 0), "within a cell"
        shortest = lcm(int(step), coarse) / fine
        assert now - begin >= 90 * DAY or (end - begin) / fine <= max(MAX_CELLS, shortest)


async def test_versions_that_are_not_known_change_all(store: Store) -> None:
    version, starts = await store.changed_cells("digits", since=0)
    assert starts in (None, [])
    await store.append([outcome(T0), outcome(T0 + 100)])
    later, starts = await store.changed_cells("digits", since=version)
    assert later > version
    assert starts is None or sorted(starts) == [T0, T0 + 100]
    await store.append([outcome(T0 + 200)])
    assert (await store.changed_cells("digits", since=later))[1] == [T0 + 200]
    for unknown in (-1, later - KEPT_CHANGES, later + 100):
        assert (await store.changed_cells("digits", since=unknown))[1] is None


@pytest.mark.parametrize("missing", ["ignore", "zero"])
@pytest.mark.parametrize("period", ["", "all"])
@pytest.mark.long
async def test_periods_of_parts_are_those_of_the_whole(store: Store, period: str, missing: str) -> None:
    """Also while windows end without a change in the store."""
    chance, now = Random(3), T0 + 2 * HOUR
    made = [
        outcome(
            T0 + 20.0 * n,
            epoch=n // 3 + 1,
            assigned=(v := chance.choice(["v1", "v2", "v3"])),
            served=v,
            error=chance.choice(["", "", "reset"]),
        )
        for n in range(360)
    ]
    await store.append(made)
    rewards = [
        reward(float(chance.random() < 0.5), of=one, metric=m, unit=n % 40, period=period)
        for n, one in enumerate(made)
        for m in "ab"
        if missing == "ignore" or n % 3
    ]
    await store.reward(rewards)
    by_unit = frozenset("ab") if period else frozenset[str]()
    # Complaints: a failure counts as the worst value.
    declared = {"type": "boolean", "goal": "minimize", "missing": missing}
    metrics = {
        "a": MetricConfig.model_validate(declared | {"window": "10m"}),
        "b": MetricConfig.model_validate(declared | {"window": "50m"}),
    }
    each = {
        v: PairSums.of(np.asarray([1.0, 0.0, 2.0]), np.asarray([5.0, 3.0, k]))
        for k, v in enumerate(["v1", "v2", "v3"])
    }
    known = {(v, "error_rate"): pairs for v, pairs in each.items()} if period and missing == "zero" else {}

    def make(buckets: Sequence[Bucket], step: float, now: float) -> Periods:
        return periods(of_buckets(buckets, metrics, now=now, step=step), by_unit=by_unit)

    remembered, counting = Remembered(make, windows_over(metrics)), Counting(store)
    for later in (0.0, 5.0, 30.0, 700.0, 10.0, HOUR):
        now, counting.read = now + later, 0
        parts = await remembered.read(counting, "digits", spans_of_all(now), now=now)  # type: ignore[arg-type]
        assert later in (0.0, HOUR) or counting.read < 200
        buckets = [
            bucket
            async for step, found in all_buckets(store, "digits", now=now, histograms=False)
            for bucket in of_buckets(found, metrics, now=now, step=step)
        ]
        whole = periods(buckets, known)
        joined = Periods.joined(parts, each if known else {})
        for pair in (("v1", "v2"), ("v2", "v3")):
            assert joined.moved(*pair) == whole.moved(*pair)
            for metric in ("a", "b", *(() if known else ("error_rate",))):
                assert joined.one_by_one(metric) == whole.one_by_one(metric) == (metric in by_unit)
                assert joined.weighted(metric, *pair) == whole.weighted(metric, *pair)
