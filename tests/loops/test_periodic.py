"""Work that is repeated, and a store that goes away meanwhile."""

from __future__ import annotations

import asyncio
from math import inf
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.config.document import Document
from gateway.loops import periodic
from gateway.loops.allocation import Allocations
from gateway.loops.upkeep import Settled, prune_store
from gateway.state.base import Retention, StoreUnavailable
from gateway.state.outage import StoreOutage
from gateway.state.store import RecordStore


async def test_what_is_done_rarely_does_not_keep_an_outage_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages said for a minute that the store was unavailable while it was back."""
    monkeypatch.setattr(periodic, "STORE_RETRY_S", 0.01)
    outage, tries = StoreOutage(), []

    async def prune() -> None:
        tries.append(outage.since)
        if len(tries) < 3:
            raise StoreUnavailable("away")

    task = asyncio.create_task(periodic.periodically("pruning", prune, lambda: 3600.0, outage))
    async with asyncio.timeout(60):
        while len(tries) < 3 or outage.since is not None:
            await asyncio.sleep(0.001)
    task.cancel()
    assert tries[0] is None
    assert tries[1] == tries[2] is not None


async def test_a_failure_that_is_repeated_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    failures = iter([ValueError("a")] * 50 + [KeyError("b")] * 50)
    done = asyncio.Event()

    async def step() -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        done.set()

    task = asyncio.create_task(periodic.periodically("it", step, lambda: 0.0, StoreOutage()))
    async with asyncio.timeout(60):
        await done.wait()
    task.cancel()
    assert traced(caplog) == ["a", "'b'"]


async def test_a_failure_of_a_route_that_is_repeated_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A damaged document left a trace each second."""

    async def step(name: str) -> None:
        if name != "sound":
            raise ValueError(name)

    failures = periodic.Failures()
    for _ in range(50):
        await periodic.each_route("it", ("one", "sound", "two"), step, failures)
    assert traced(caplog) == ["one", "two"]


async def test_a_clock_that_is_ahead_for_a_moment_forgets_nothing() -> None:
    """The record was gone when it was right again."""
    pruned, ahead, steady = list[float](), 0.0, 0.0

    class Pruned:
        async def prune(self, retention: Retention, *, now: float) -> bool:
            pruned.append(now)
            return False

    def clock() -> float:
        return 1.8e9 + steady + ahead

    settled = Settled(clock, lambda: steady)

    store, leader = cast("RecordStore", Pruned()), cast("Allocations", SimpleNamespace(leads=True))

    async def later(minutes: float, by: float) -> bool:
        nonlocal ahead, steady
        steady, ahead, before = steady + 60.0 * minutes, by, len(pruned)
        await prune_store(store, leader, Document, clock, lambda: inf, settled)
        return len(pruned) > before

    moments = ((1, 0), (1, 300), (1, 1e8), (30, 1e8), (30, 0), (1, 0), (1, 1e8), (60, 1e8), (1, 0))
    found = [await later(minutes, by) for minutes, by in moments]
    assert found == [True, True, False, False, True, True, False, True, True]
    assert max(pruned) == 1.8e9 + steady - 60 + 1e8, "a clock that stays so is believed"


def traced(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
