"""What a look at the record reads does not grow with the record, nor with the number of routes."""

from __future__ import annotations

import pytest

from gateway.record import page
from gateway.record.events import Outcome
from gateway.state.base import SCAN_PAGES, OutcomeFilter, Retention
from gateway.state.redis import RedisStore
from gateway.state.store import Store
from tests.support.made import T0, outcome, reward
from tests.support.servers import RedisServer

PAGES = 90
"""Of the route that has most, a second each."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pages that were decoded."""
    found: list[bytes] = []
    body = page._body

    def spied(data: bytes) -> bytes:
        found.append(data)
        return body(data)

    monkeypatch.setattr(page, "_body", spied)
    return found


@pytest.fixture
async def rows(store: Store) -> list[Outcome]:
    """Two outcomes of each page of a route, oldest first; a page each of many others, a minute later."""
    made = [outcome(T0 + second + part) for second in range(PAGES) for part in (0.1, 0.6)]
    for at in range(0, len(made), 2):
        await store.append(made[at : at + 2])
    for number in range(20):
        await store.append([outcome(T0 + PAGES + 60 + number, route=f"other {number}") for _ in range(3)])
    return made


@pytest.mark.parametrize("place", [0, PAGES, 2 * PAGES - 1])
async def test_a_decision_is_found_in_the_page_that_has_it(
    store: Store, rows: list[Outcome], read: list[bytes], place: int
) -> None:
    await store.reward([reward(of=rows[place])])
    for route in ("digits", None):
        read.clear()
        found = await store.decision(rows[place].decision, route)
        assert found.outcome == rows[place]
        assert len(found.rewards) == 1
        assert len(read) <= 2


async def test_the_newest_of_all_routes_are_in_few_pages(store: Store, read: list[bytes]) -> None:
    for number in range(40):
        await store.append([outcome(T0 + number + part, route=f"r{number}") for part in (0.1, 0.2, 0.3)])
    read.clear()
    found, _ = await store.scan(OutcomeFilter(limit=3))
    assert [one.route for one in found] == ["r39"] * 3
    assert len(read) <= 8


async def test_a_step_through_all_routes_is_as_long_as_one_through_a_single_route(
    store: Store, rows: list[Outcome], read: list[bytes]
) -> None:
    read.clear()
    found, before = await store.scan(OutcomeFilter(variant="nobody"))
    assert not found
    assert before is not None
    assert len(read) <= SCAN_PAGES + 16  # Redis reads this many at a time


async def test_going_on_reads_no_page_that_lies_wholly_behind(
    store: Store, rows: list[Outcome], read: list[bytes]
) -> None:
    read.clear()
    found, _ = await store.scan(OutcomeFilter(route="digits", before=rows[10].decision, limit=4))
    assert found == rows[9:5:-1]
    assert len(read) <= 8


async def test_times_bound_what_is_read(store: Store, rows: list[Outcome], read: list[bytes]) -> None:
    read.clear()
    found = await store.outcomes(OutcomeFilter(route="digits", since=T0 + 40, until=T0 + 42))
    assert found == rows[83:79:-1]
    assert len(read) <= 8
    read.clear()
    records = await store.records(route="digits", since=T0 + 80, limit=1)
    assert [one.outcome for one in records] == rows[160:161]
    assert len(read) <= 8
    read.clear()
    records = await store.records(since=T0 + 80, limit=4)
    assert [one.outcome for one in records] == rows[160:164]
    assert len(read) <= 12


@pytest.mark.redis
@pytest.mark.long
async def test_upkeep_of_one_route_asks_the_others_once(redis_url: str, redis_node: RedisServer) -> None:
    store = RedisStore(redis_url)
    await store.open()
    for number in range(20):
        await store.append([outcome(T0, route=f"other {number}")])
    for hour in range(60):
        await store.append([outcome(T0 + 3600 * hour + 600 * part) for part in range(2)])
    redis_node.send("CONFIG RESETSTAT")
    steps = 1
    while await store.prune(Retention(), now=T0 + 20 * 86_400):
        steps += 1
    counts = await store.counts("digits")
    assert counts["v1"].assigned == 120
    stats = redis_node.send("INFO commandstats")
    calls = int(stats.partition("cmdstat_evalsha:calls=")[2].partition(",")[0])
    assert steps > 50
    assert calls < 5 * steps
    await store.close()
