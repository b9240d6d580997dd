"""The shared store when things go wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.children import free_port
from gateway.record.context import pack_values
from gateway.state.base import Counts, OutcomeFilter, Retention, StoreUnavailable
from gateway.state.redis import RedisStore, codec, sums
from gateway.state.redis.script import Script
from gateway.state.units import UNIT_REST_S
from tests.soak.fleet import Wire
from tests.support.made import T0, outcome, published, reward, shadowed
from tests.support.servers import RedisServer, redis_server

pytestmark = pytest.mark.redis
ROOT = Path(__file__).parents[2]
Connect = Callable[[str], Awaitable[RedisStore]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as made:
        yield made


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens stores, and closes them at the end whatever happened."""
    made: list[RedisStore] = []

    async def opened(url: str) -> RedisStore:
        store = RedisStore(url, clock=lambda: T0)
        made.append(store)
        await store.open()
        return store

    yield opened
    for store in made:
        await store.close()


def address(server: RedisServer, query: str = "") -> str:
    return f"redis://127.0.0.1:{server.port}/0{query}"


async def test_a_restarted_server_fails_no_command(server: RedisServer, connect: Connect) -> None:
    """Each connection that rested meanwhile failed one, so a page that had just recovered lost a step."""
    store = await connect(address(server))
    await asyncio.gather(*(store.allocation_history("a") for _ in range(8)))
    server.kill()
    with pytest.raises(StoreUnavailable):
        await store.allocation_history("a")
    await asyncio.to_thread(server.start)
    await asyncio.gather(*(store.allocation_history("a") for _ in range(8)))


async def test_a_primary_that_became_a_replica_is_left_for_the_new_one(
    server: RedisServer, tmp_path: Path, connect: Connect
) -> None:
    """The address leads to the promoted replica, but the connections to the old primary stay open."""
    (tmp_path / "promoted").mkdir()
    wire = Wire(server.port)
    await wire.start()
    with redis_server(tmp_path / "promoted") as promoted:
        store = await connect(f"redis://127.0.0.1:{wire.listens}/0")
        await asyncio.gather(*(store.reward([reward()]) for _ in range(8)))
        wire.port = promoted.port
        server.send(f"REPLICAOF 127.0.0.1 {promoted.port}")
        with pytest.raises(StoreUnavailable, match="is a read-only replica"):
            await store.reward([reward()])
        async with asyncio.timeout(30):
            while True:
                with suppress(StoreUnavailable):
                    assert await store.reward([reward()]) == ["accepted"]
                    break
                await asyncio.sleep(0.05)
        await store.close()
    await wire.stop()


@pytest.mark.slow
async def test_acknowledged_rewards_outlive_a_kill_of_the_server(
    server: RedisServer, connect: Connect
) -> None:
    command = [sys.executable, "-m", "tests.state.workers", "acknowledge", address(server)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        acknowledged = [int(client.stdout.readline()) for _ in range(100)]
        server.kill()
        client.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in client.stdout.read().split("\n")[:-1]]
    server.start()
    store = await connect(address(server))
    for number in acknowledged:
        record = await store.decision(number.to_bytes(16, "big"))
        assert [r.value for r in record.rewards] == [1.0], number


async def test_a_server_that_is_away_is_reported_and_found_again(
    server: RedisServer, connect: Connect
) -> None:
    store = await connect(address(server))
    await store.reward([reward()])
    server.kill()
    with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1:\d+/0 can't be reached"):
        await store.reward([reward(of=outcome(T0 + 1))])
    server.start()
    assert await store.reward([reward(of=outcome(T0 + 2))]) == ["accepted"]
    assert (await store.reward_sums("digits"))["v1", "correct"].count == 2


async def test_nobody_listens() -> None:
    with pytest.raises(StoreUnavailable, match="See that it is up"):
        await RedisStore(f"redis://127.0.0.1:{free_port()}/0").open()


async def test_the_password_stays_out_of_messages(server: RedisServer, connect: Connect) -> None:
    server.send("CONFIG SET requirepass right")
    wrong = RedisStore(f"redis://:wr0ng@127.0.0.1:{server.port}/0")
    with pytest.raises(StoreUnavailable, match="refuses the credentials") as caught:
        await wrong.open()
    assert "wr0ng" not in str(caught.value)
    right = await connect(f"redis://:right@127.0.0.1:{server.port}/0")
    assert await right.reward([reward()]) == ["accepted"]


async def test_a_server_that_keeps_nothing_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, connect: Connect
) -> None:
    with redis_server(tmp_path, "--appendonly", "no") as server, caplog.at_level(logging.WARNING):
        store = await connect(address(server))
        (event,) = await store.events()
        assert (event.kind, event.time) == ("alarm", T0)
    assert json.loads(event.data)["code"] == "store_not_durable"
    assert "appendonly yes" in caplog.text


async def test_a_durable_server_is_not(server: RedisServer, connect: Connect) -> None:
    store = await connect(address(server))
    assert await store.events() == []


async def test_out_of_memory_is_reported(server: RedisServer, connect: Connect) -> None:
    store = await connect(address(server))
    server.send("CONFIG SET maxmemory 1")
    with pytest.raises(StoreUnavailable, match="maxmemory"):
        await store.reward([reward()])
    server.send("CONFIG SET maxmemory 0")
    assert await store.reward([reward()]) == ["accepted"]


async def test_scripts_come_back_after_a_flush(server: RedisServer, connect: Connect) -> None:
    store = await connect(address(server))
    await store.reward([reward()])
    server.send("SCRIPT FLUSH")
    assert await store.reward([reward(of=outcome(T0 + 1))]) == ["accepted"]


@pytest.mark.slow
async def test_replicas_that_are_asked_for_must_have_the_reward(
    server: RedisServer, tmp_path: Path, connect: Connect
) -> None:
    server.send("CONFIG SET repl-diskless-sync-delay 0")
    store = await connect(address(server, "?replicas=1"))
    with pytest.raises(StoreUnavailable, match="Only 0 of the 1 replicas"):
        await store.reward([reward()])
    other = tmp_path / "replica"
    other.mkdir()
    with redis_server(other, "--replicaof", f"127.0.0.1 {server.port}"):
        async with asyncio.timeout(60):
            while "state=online" not in server.send("INFO replication"):
                await asyncio.sleep(0.05)
        assert await store.reward([reward(of=outcome(T0 + 1))]) == ["accepted"]


async def test_two_prefixes_share_a_server(server: RedisServer, connect: Connect) -> None:
    one, two = await connect(address(server, "?prefix=a")), await connect(address(server, "?prefix=b"))
    await one.reward([reward()])
    assert await two.reward_sums("digits") == {}
    assert await one.secrets("x") != await two.secrets("x")


async def test_names_with_braces_keep_to_one_slot(server: RedisServer, connect: Connect) -> None:
    store = await connect(address(server))
    about = outcome(route="a{b}%c")
    await store.append([about])
    await store.reward([reward(of=about)])
    assert (await store.counts("a{b}%c"))["v1"].assigned == 1
    assert (await store.decision(about.decision)).outcome == about


async def test_a_page_merged_while_it_is_read_is_read_again(server: RedisServer, connect: Connect) -> None:
    store = await connect(address(server))
    rows = [outcome(T0 + i) for i in range(100)]
    for k in range(0, 100, 2):
        await store.append(rows[k : k + 2])

    async def merge() -> None:
        while await store.prune(Retention(), now=T0 + 2 * 86_400):
            pass

    async def read() -> None:
        for _ in range(20):
            assert await store.outcomes(OutcomeFilter(limit=200)) == rows[::-1]

    await asyncio.gather(merge(), read())


async def test_a_unit_that_is_silent_for_long_is_forgotten(server: RedisServer, connect: Connect) -> None:
    store = await connect(f"redis://127.0.0.1:{server.port}/0")
    await store.reward([reward(1.0, unit=7, period="all")])
    left = server.send("TTL turnout:{digits}:unit:0000000000000007")
    assert 0 <= UNIT_REST_S - int(left.removeprefix(":")) < 60


@pytest.mark.parametrize("read", ["series", "counts"])
async def test_cells_of_months_are_added_up_outside_the_event_loop(
    server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    store = await connect(address(server))
    await store.append([outcome(T0), outcome(T0 + 100)])
    threads: list[threading.Thread] = []
    real = codec.unpack_counts

    def spied(cells: Sequence[bytes]) -> Counts:
        threads.append(threading.current_thread())
        return real(cells)

    monkeypatch.setattr(sums, "unpack_counts", spied)
    if read == "series":
        assert len(await store.series("digits", since=T0, until=T0 + 200, step=10)) == 2
    else:
        assert (await store.counts("digits", since=T0))["v1"].assigned == 2
    assert threads
    assert threading.main_thread() not in threads


async def test_no_step_of_reading_cells_holds_the_server_for_long(
    server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bandit has an epoch each second, and ten aspects of a metric: 200 buckets took 50 ms of the server's time.

    Cells of segments are looked at too, and left out.
    """
    store, buckets, epochs = await connect(address(server)), 12, 250
    base, cell = store._link.of_route("digits"), struct.pack("<qHHdd", 1, 1, 1, 1.0, 1.0)
    for start in range(int(T0), int(T0) + 10 * buckets, 10):
        fields = [
            part
            for epoch in range(epochs)
            for metric in ("correct", "correct|@0123456789ab")
            for part in (codec.cell_field(epoch, "v1", metric), cell)
        ]
        await store._link.commands(
            [("ZADD", f"{base}:cells", start, start), ("HSET", f"{base}:s:{start}", *fields)]
        )
    read, run = list[int](), store._link.run

    async def spied(*arguments: Any) -> Any:
        found = await run(*arguments)
        read.append(len(sums._unpacked(found[:1])))
        return found

    monkeypatch.setattr(store._link, "run", spied)
    found = await store.series("digits", since=T0, until=T0 + 10 * buckets, step=10)
    assert len(found) == buckets * epochs
    assert max(read) == sums.MAX_CELLS_PER_CALL / (2 * epochs)
    assert sum(read) == buckets


async def test_rewards_in_segments_come_in_shorter_scripts(
    server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counts again in every segment that it is in."""
    store = await connect(address(server))
    sent, run = list[int](), store._link.run

    async def spied(script: Script, base: str, *arguments: Any, **options: Any) -> Any:
        sent.append(len(arguments))
        return await run(script, base, *arguments, **options)

    monkeypatch.setattr(store._link, "run", spied)
    for segments in (0, 4):
        sent.clear()
        context = pack_values([bytes(6)] * segments).hex() if segments else ""
        rewards = [reward(1.0, of=outcome(T0), context=context) for _ in range(500)]
        assert await store.reward(rewards) == ["accepted"] * 500
        assert len([number for number in sent if number > 15]) == 1 + segments


@pytest.mark.long
async def test_upkeep_without_work_is_one_short_call_for_each_route(
    server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve calls each, one of which returned the buckets of 90 days: five thousand of each route, each minute."""
    store, routes, hours, now = await connect(address(server)), 4, 40, T0 + 3 * 86_400
    cells = [f"{T0 - 3600 * hour:.0f}" for hour in range(hours)]
    for route in (f"r{number}" for number in range(routes)):
        await store.append([outcome(route=route)], [shadowed(of=outcome(route=route))])
        await store.reward([reward(of=outcome(route=route))])
        for epoch in range(1, 5):
            await store.publish(published(epoch, route=route, time=now))
    base = store._link.of_route("r0")
    for index in ("cells", "shadow_cells"):
        await store._link.command("ZADD", f"{base}:{index}", *[part for c in cells for part in (c, c)])
    while await store.prune(Retention(), now=now):
        pass
    replies: list[object] = []
    for name in ("run", "command", "commands"):
        real = getattr(store._link, name)

        async def spied(*arguments: Any, real: Any = real, **more: Any) -> Any:
            replies.append(found := await real(*arguments, **more))
            return found

        monkeypatch.setattr(store._link, name, spied)
    assert not await store.prune(Retention(), now=now + 60)
    assert len(replies) <= routes + 4
    assert max(len(str(found)) for found in replies) < 500
