"""What is expensive is computed seldom, however many routes there are and whatever else is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.control import services as services_module
from gateway.control.services import MAX_CACHED, MAX_STANDING_S, MIN_STANDING_S, ControlServices
from gateway.state.base import StoreUnavailable
from tests.support.harness import Harness


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing grows old during a test."""
    for name in ("FRESH_S", "MIN_STANDING_S"):
        monkeypatch.setattr(services_module, name, 1e9)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The routes whose standing was computed."""
    found: list[str] = []
    real = ControlServices._standing

    async def spied(self: ControlServices, name: str) -> Any:
        found.append(name)
        return await real(self, name)

    monkeypatch.setattr(ControlServices, "_standing", spied)
    return found


async def test_many_different_reports_do_not_have_the_standings_computed_again(
    harness: Harness, slow_clock: None, computed: list[str]
) -> None:
    services = ControlServices(harness)
    await services.summaries()
    assert computed
    computed.clear()

    async def make() -> dict[str, Any]:
        return {}

    for number in range(MAX_CACHED + 100):
        await services.shared((number,), make)
    await services.summaries()
    assert computed == []


async def test_the_newest_values_are_the_ones_that_are_kept(harness: Harness, slow_clock: None) -> None:
    services = ControlServices(harness)
    made: list[int] = []

    async def report(number: int) -> None:
        async def make() -> dict[str, Any]:
            made.append(number)
            return {}

        await services.shared((number,), make)

    for number in range(MAX_CACHED + len(harness.document().routes) + 1):
        await report(number)
    made.clear()
    await report(MAX_CACHED)
    await report(0)
    assert made == [0]


@pytest.mark.parametrize("each", [0.0, 0.001, 0.01, 0.1, 1.0])
async def test_standings_take_at_most_a_tenth_of_the_time(harness: Harness, each: float) -> None:
    services = ControlServices(harness)
    services._standing_times = {f"r{number}": each for number in range(300)}
    age = services._standing_age()
    assert age >= MIN_STANDING_S
    assert 300 * each / age <= 0.1 + 1e-9
    if each <= 0.01:
        assert age <= MAX_STANDING_S


async def test_a_list_reads_no_histogram_but_those_of_the_last_minutes(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    since: list[object] = []
    times: list[object] = []
    counts, series = harness.store.counts, harness.store.series

    async def counted(route: str, **limits: Any) -> Any:
        since.append(limits.get("since"))
        return await counts(route, **limits)

    async def listed(route: str, **limits: Any) -> Any:
        times.append(limits.get("histograms"))
        return await series(route, **limits)

    monkeypatch.setattr(harness.store, "counts", counted)
    monkeypatch.setattr(harness.store, "series", listed)
    await ControlServices(harness).summaries()
    assert None not in since
    assert times
    assert set(times) == {False}


async def test_a_list_does_not_wait_for_months_of_history(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services_module, "MAX_STANDING_WAIT_S", 0.01)
    monkeypatch.setattr(services_module, "FRESH_S", 0.0)
    gate, real, running = asyncio.Event(), ControlServices._standing, [0]

    async def slow(self: ControlServices, name: str) -> Any:
        running[0] += 1
        assert running[0] == 1, "one at a time"
        await gate.wait()
        running[0] -= 1
        return await real(self, name)

    monkeypatch.setattr(ControlServices, "_standing", slow)
    services = ControlServices(harness)
    first = await services.summaries()
    assert first
    assert all(one["standings"] is None and "recent" in one for one in first.values())
    gate.set()
    await asyncio.gather(*services._computing.values())
    known = await services.summaries()
    assert all(one["standings"] is not None for one in known.values())
    # What has grown old is shown until it is computed again.
    gate.clear()
    services._standings = {name: one._replace(due=0.0) for name, one in services._standings.items()}
    old = await services.summaries()
    assert {n: one["standings"] for n, one in old.items()} == {
        n: one["standings"] for n, one in known.items()
    }
    assert set(services._computing) == set(known)
    gate.set()
    await asyncio.gather(*services._computing.values())


@pytest.mark.parametrize(
    ("error", "lines"), [(StoreUnavailable("it is closed"), 0), (ArithmeticError("no"), 1)]
)
async def test_a_standing_that_fails_in_the_background_is_told_unless_the_store_is_away(
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    lines: int,
) -> None:
    monkeypatch.setattr(services_module, "MAX_STANDING_WAIT_S", 0.0)
    gate = asyncio.Event()

    async def failing(self: ControlServices, name: str) -> Any:
        await gate.wait()
        raise error

    monkeypatch.setattr(ControlServices, "_standing", failing)
    services = ControlServices(harness)
    routes = await services.summaries()
    gate.set()
    await asyncio.gather(*services._computing.values(), return_exceptions=True)
    assert caplog.text.count("could not be computed") == lines * len(routes)
    assert services._computing == {}


async def test_a_list_that_no_one_watched_for_long_shows_nothing_of_then(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page opened in the morning said for a while what had been undecided the evening before."""
    monkeypatch.setattr(services_module, "MAX_STANDING_WAIT_S", 0.0)
    monkeypatch.setattr(services_module, "FRESH_S", 0.0)
    services = ControlServices(harness)
    await services.summaries()
    await asyncio.gather(*services._computing.values())
    known = services._standings["digits"]
    assert known.late > known.due
    services._standings = {n: one._replace(due=0.0, late=0.0) for n, one in services._standings.items()}
    harness.stops["digits"] = {"state": "asking", "winner": "v2"}
    opened = await services.summaries()
    assert opened["digits"]["standings"] is None
    assert opened["digits"]["stop"] == {"state": "asking", "winner": "v2"}, "what waits for a person, at once"
    await asyncio.gather(*services._computing.values())
    assert (await services.summaries())["digits"]["standings"] is not None


async def test_nothing_is_kept_of_a_route_that_an_edit_removed(harness: Harness) -> None:
    services = ControlServices(harness)
    await services.summaries()
    kept = services._standings, services._standing_times
    assert all(kept)
    services._standing_times["gone"] = services._standing_times["digits"]
    services._units_since["gone"] = 1.0, None
    services._standings["gone"] = services._standings["digits"]
    await services._summaries()
    assert all("gone" not in known for known in (*kept, services._units_since))


async def test_what_takes_long_is_computed_once_whatever_comes_meanwhile(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With traffic, each look at months of segments began them again."""
    services = ControlServices(harness)
    made: list[int] = []
    computing, enough = asyncio.Event(), asyncio.Event()

    async def make() -> dict[str, Any]:
        made.append(1)
        computing.set()
        await enough.wait()
        return {}

    async def look() -> None:
        await harness.store.save("looks", str(len(made)), "{}", expected=0)
        await services.shared(("segments",), make)

    monkeypatch.setattr(services_module, "MIN_HEAVY_S", 0.0)
    monkeypatch.setattr(services_module, "MAX_STANDING_SHARE", 1e-9)
    first = asyncio.create_task(look())
    await computing.wait()
    second = asyncio.create_task(look())
    await harness.store.changed()
    enough.set()
    await asyncio.gather(first, second)
    await look()
    assert len(made) == 1
    monkeypatch.setattr(services_module, "MIN_HEAVY_S", 1e9)
    await harness.store.save("looks", "more", "{}", expected=0)
    await services.shared(("segments",), make)
    assert len(made) == 2, "what takes little is as new as the store"


async def test_a_failure_is_not_kept_when_its_reader_has_gone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = ControlServices(harness)
    computing, enough, failed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def fail() -> dict[str, Any]:
        computing.set()
        await enough.wait()
        failed.set()
        raise StoreUnavailable("gone")

    async def make() -> dict[str, Any]:
        return {"made": True}

    monkeypatch.setattr(services_module, "MIN_HEAVY_S", 0.0)
    monkeypatch.setattr(services_module, "MAX_STANDING_SHARE", 1e-9)
    reader = asyncio.create_task(services.shared(("segments",), fail))
    await computing.wait()
    reader.cancel()
    enough.set()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await failed.wait()
    await asyncio.sleep(0)
    assert await services.shared(("segments",), make) == {"made": True}
