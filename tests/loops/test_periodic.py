"""Work that is repeated, and a store that goes away meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from gateway.loops import periodic
from gateway.loops.upkeep import Believed
from gateway.state.base import StoreUnavailable
from gateway.state.outage import StoreOutage


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


def test_a_clock_that_is_ahead_for_a_moment_is_not_believed() -> None:
    """By it the record was forgotten, and the hour that still ran was archived for the last time."""
    ahead = steady = 0.0
    believed = Believed(lambda: 1.8e9 + steady + ahead, lambda: steady)

    def later(minutes: float, by: float) -> float:
        nonlocal ahead, steady
        steady, ahead = steady + 60.0 * minutes, by
        return believed() - 1.8e9 - steady

    moments = (
        (1, 0),
        (1, 300),
        (1, 1e8),
        (30, 1e8),
        (30, 0),
        (1, 0),
        (1, 1e8),
        (60, 1e8),
        (1, 1e8),
        (1, -50),
        (1, 1e4),
        (59, 1e8),
        (1, 1e8),
        (59, 1e8),
    )
    found = [later(minutes, by) for minutes, by in moments]
    assert found == [0, 300, 300, 300, 0, 0, 0, 1e8, 1e8, -50, -50, -50, -50, 1e8]


def traced(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
