"""One token bucket for all processes, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
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


def passed(bucket: Bucket, tries: int) -> int:
    return sum(bucket.take(perf_counter()) == 0.0 for _ in range(tries))


@pytest.mark.parametrize(("rate", "most"), [(3.0, 3), (20.0, 20), (1.0, 3)])
async def test_processes_share_what_may_come_at_once(store: RedisStore, rate: float, most: int) -> None:
    """S16: each process had a bucket of its own. At less than one each, each still lets one pass, once."""
    made = processes(store, 3, rate)
    assert sum(passed(bucket, 40) for _, bucket in made) <= most


@pytest.mark.long
async def test_over_time_the_rate_holds_exactly(store: RedisStore) -> None:
    made = processes(store, 3, 40.0)
    began, count = perf_counter(), 0
    while perf_counter() - began < 2.0:
        for rates, bucket in made:
            count += passed(bucket, 10)
            await rates.step()
        await asyncio.sleep(0.01)
    took = perf_counter() - began
    assert 40 * took * 0.8 < count <= 40 * (took + 1) + 3


@pytest.mark.long
async def test_one_process_alone_has_the_whole_rate(store: RedisStore) -> None:
    """A client with one connection is served by one of the workers."""
    rates, bucket = processes(store, 3, 50.0)[0]
    began, count = perf_counter(), 0
    while perf_counter() - began < 1.5:
        count += passed(bucket, 10)
        await rates.step()
        await asyncio.sleep(0.01)
    assert count > 50 * 1.5


async def test_an_unused_bucket_asks_nothing_of_the_store(store: RedisStore, server: RedisServer) -> None:
    rates, _ = processes(store, 1, 5.0)[0]
    server.kill()
    await rates.step()


async def test_without_the_store_each_goes_on_with_its_part(store: RedisStore, server: RedisServer) -> None:
    rates, bucket = processes(store, 3, 3.0)[0]
    server.kill()
    assert passed(bucket, 10) == 1
    with pytest.raises(StoreUnavailable):
        await rates.step()
    assert passed(bucket, 10) == 0
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
