"""A store that is away: one line when it begins, one a minute, one when it is over."""

from __future__ import annotations

import logging

import pytest

from gateway.state.base import StoreUnavailable
from gateway.state.outage import StoreOutage

AWAY = StoreUnavailable("The store is switched off.")


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def outage(clock: list[float], caplog: pytest.LogCaptureFixture) -> StoreOutage:
    caplog.set_level(logging.INFO, "turnout.store")
    return StoreOutage(lambda: clock[0])


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_many_users_tell_it_together(
    outage: StoreOutage, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(59):
        for user in ("allocations", "rollouts", "record"):
            outage.failed(user, AWAY)
        clock[0] += 1
    (begun,) = lines(caplog)
    assert begun.startswith("the store is unavailable: The store is switched off.")
    for _ in range(120):
        outage.failed("rollouts", AWAY)
        clock[0] += 1
    assert [line.partition(" (")[0] for line in lines(caplog)] == [
        "the store has been unavailable for 60 s",
        "the store has been unavailable for 120 s",
    ]
    outage.worked("allocations")
    outage.worked("rollouts")
    outage.worked("guardrails")
    assert lines(caplog) == []
    outage.worked("record")
    assert lines(caplog) == ["the store is available again after 179 s"]


def test_a_store_that_works_is_not_mentioned(outage: StoreOutage, caplog: pytest.LogCaptureFixture) -> None:
    outage.worked("allocations")
    assert lines(caplog) == []


def test_the_next_outage_is_told_like_the_first(
    outage: StoreOutage, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    outage.failed("record", AWAY)
    outage.worked("record")
    clock[0] += 1
    outage.failed("record", AWAY)
    assert len(lines(caplog)) == 3
