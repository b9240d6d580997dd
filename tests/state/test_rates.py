"""One token bucket for all processes, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import pytest

from gateway.auth.principal import Bucket
from gateway.loops.rates import Rates
from gateway.state.base import StoreUnavailable
from gateway.state.redis import RedisStore
from tests.state.test_redis_check import locked_server
from tests.support.servers import RedisServer, redis_server

pytestmark = pytest.mark.redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as made:
        yield made


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    made = RedisStore(f"redis://127.0.0.1:{server.port}/0")
    await made.open()
    yield made
    await made.close()


def processes(store: RedisStore, count: int, rate: float) -> list[tuple[Rates, Bucket]]:
    made = []
    for number in range(count):
        bucket = Bucket(rate, part=1.0 / count)
        made.append((Rates(store.rates, f"p{number}", partial(dict, {("app", rate): bucket}), count), bucket))
    return made


def passed(bucket: Bucket, tries: int, at: float | None = None) -> int:
    """``at``: the moment of all of them, which no pause makes longer."""
    return sum(bucket.take(at or perf_counter()) == 0.0 for _ in range(tries))


async def over(seconds: float, turn: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Take turns for ``seconds``; how long that was, and how long without what the machine paused for."""
    began = last = perf_counter()
    awake = 0.0
    while awake < seconds:
        await turn()
        await asyncio.sleep(0.01)
        now = perf_counter()
        awake, last = awake + min(now - last, 0.1), now
    return last - began, awake


@pytest.mark.parametrize(("rate", "most"), [(3.0, 3), (20.0, 20), (1.0, 3)])
async def test_processes_share_what_may_come_at_once(store: RedisStore, rate: float, most: int) -> None:
    """S16: each process had a bucket of its own. At less than one each, each still lets one pass, once."""
    made, now = processes(store, 3, rate), perf_counter()
    assert sum(passed(bucket, 40, now) for _, bucket in made) <= most


@pytest.mark.long
async def test_over_time_the_rate_holds_exactly(store: RedisStore) -> None:
    made, count = processes(store, 3, 40.0), 0

    async def turn() -> None:
        nonlocal count
        for rates, bucket in made:
            count += passed(bucket, 10)
            await rates.step()

    took, awake = await over(2.0, turn)
    assert 40 * awake * 0.8 < count <= 40 * (took + 1) + 3


@pytest.mark.long
async def test_one_process_alone_has_the_whole_rate(store: RedisStore) -> None:
    """A client with one connection is served by one of the workers."""
    rates, bucket = processes(store, 3, 50.0)[0]
    count = 0

    async def turn() -> None:
        nonlocal count
        count += passed(bucket, 10)
        await rates.step()

    _, awake = await over(1.5, turn)
    assert count > 50 * awake


async def test_an_unused_bucket_asks_nothing_of_the_store(store: RedisStore, server: RedisServer) -> None:
    rates, _ = processes(store, 1, 5.0)[0]
    server.kill()
    await rates.step()


async def test_without_the_store_each_goes_on_with_its_part(store: RedisStore, server: RedisServer) -> None:
    rates, bucket = processes(store, 3, 3.0)[0]
    server.kill()
    now = perf_counter()
    assert passed(bucket, 10, now) == 1
    with pytest.raises(StoreUnavailable):
        await rates.step()
    assert passed(bucket, 10, now) == 0
    server.start()
    await rates.step()
    assert bucket.level > 0, "an outage is not charged for"


async def test_the_user_of_the_documentation_may_settle(tmp_path: Path) -> None:
    with locked_server(tmp_path, "user default off resetpass ~* &* +@all") as (_, url):
        store = RedisStore(url)
        await store.open()
        try:
            assert await store.rates.spend("app", 5.0, 5.0, 2.0, "p0") == (3.0, 1)
        finally:
            await store.close()
