"""What is expensive is computed seldom, however many routes there are and whatever else is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.control import services as services_module
from gateway.control.services import MAX_CACHED, MAX_STANDING_S, MIN_STANDING_S, ControlServices
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
