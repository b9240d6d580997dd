"""Units of a window, read from a store step by step: each decision once, whatever happens to its page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest

from gateway.ingest import by_unit
from gateway.ingest.by_unit import MAX_REST_S, OutcomesByUnit
from gateway.record.exposures import Exposure
from gateway.state.base import Retention
from gateway.state.store import Store
from tests.support.made import T0, outcome


class Reader:
    """One process that looks, and the time."""

    def __init__(self, store: Store, max_look_s: float = 60.0) -> None:
        self.store = store
        self.now = T0
        self.units = 0
        self.outcomes = OutcomesByUnit(store, lambda: self.now, max_look_s=max_look_s)

    async def come(self, number: int, *, ago: float = 0.0) -> None:
        """``number`` new units, decided ``ago`` seconds before now."""
        rows = [outcome(self.now - ago + k * 1e-3, unit=self.units + k + 1) for k in range(number)]
        self.units += number
        await self.store.append(rows)

    async def count(self) -> float | None:
        """The units that were counted, each of which came once."""
        found = await self.outcomes.read("digits", T0 - 10_000)
        if found is None:
            return None
        units = found.whole()["v1"].units
        assert units is not None
        assert found.requests()["v1"].y.total == units.count
        return units.count


async def prune(store: Store, now: float) -> None:
    while await store.prune(Retention(), now=now):
        pass


async def test_what_was_there_and_what_comes_then(store: Store) -> None:
    reader = Reader(store)
    await reader.come(4, ago=5000)
    await reader.come(3, ago=200)
    await reader.come(2, ago=100)
    assert await reader.count() == 9
    for expected in (12, 15):
        reader.now += 7
        await reader.come(3)
        assert await reader.count() == expected
    assert await reader.count() == 15


async def test_a_late_outcome_counts_if_it_is_at_most_two_minutes_late(store: Store) -> None:
    reader = Reader(store)
    await reader.come(1)
    reader.now += 300
    assert await reader.count() == 1
    await reader.come(2, ago=100)
    assert await reader.count() == 3
    reader.now += 50
    await reader.come(2, ago=100)
    assert await reader.count() == 5


async def test_a_route_that_nobody_looks_at_any_more_is_forgotten(store: Store) -> None:
    reader = Reader(store)
    await reader.come(1)
    assert await reader.count() == 1
    reader.now += MAX_REST_S + 100
    await reader.outcomes.read("another", T0)
    assert list(reader.outcomes._windows) == ["another"]


@pytest.mark.parametrize("pause", [MAX_REST_S - 100, MAX_REST_S + 100, 3 * 3600.0])
async def test_after_a_pause_nothing_counts_twice(store: Store, pause: float) -> None:
    reader = Reader(store)
    await reader.come(5, ago=300)
    await reader.come(5)
    assert await reader.count() == 10
    reader.now += 60
    await reader.come(3)
    reader.now += pause
    await reader.come(2)
    await prune(store, reader.now)
    assert await reader.count() == 15


@pytest.mark.parametrize("back", [30, 900])
async def test_nothing_counts_twice_when_the_clock_is_set_back(store: Store, back: float) -> None:
    reader = Reader(store)
    for expected in (2, 4, 6):
        await reader.come(1, ago=60)
        await reader.come(1)
        assert await reader.count() == expected
        reader.now += 110
    reader.now -= back
    assert await reader.count() == 6
    for expected in (7, 8, 9):
        await reader.come(1)
        assert await reader.count() == expected
        reader.now += 110


async def test_looks_that_take_too_long_go_on_where_they_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = count()
    monkeypatch.setattr(by_unit, "perf_counter", lambda: float(next(seconds)))
    monkeypatch.setattr(by_unit, "STEP_PAGES", 1)
    reader = Reader(store, max_look_s=3.5)
    for ago in (300, 200, 100, 80, 60, 40, 20, 0):
        await reader.come(1, ago=ago)
    looks = 0
    while await reader.count() is None:
        looks += 1
    assert looks > 2
    assert await reader.count() == 8


async def test_a_look_reads_only_the_pages_that_are_new(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Sequence[int]] = []
    page_exposures = store.page_exposures

    async def noted(route: str, numbers: Sequence[int], *, since: float, below: int) -> list[Exposure]:
        read.append(numbers)
        return await page_exposures(route, numbers, since=since, below=below)

    monkeypatch.setattr(store, "page_exposures", noted)
    reader = Reader(store)
    await reader.come(1, ago=50)
    await reader.come(1)
    assert await reader.count() == 2
    await reader.come(1)
    assert await reader.count() == 3
    assert [len(numbers) for numbers in read] == [2, 1]
