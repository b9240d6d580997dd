"""Replicas on one real Redis while a replica or Redis is stopped, killed, frozen, slowed, failed over, emptied.

Whatever happens: requests are answered by the replicas that nothing was done to, every acknowledged reward is in the
sums exactly once, one replica leads at a time, and configuration, stage and shares are the same everywhere. Each test
prints its row of docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from benchmarks.faults import Backend
from gateway.state.redis import RedisStore
from tests.soak.fleet import Fleet, Wire, replicas
from tests.soak.load import scale
from tests.support.servers import RedisServer, redis_server

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(1800)]
ROUNDS = int(os.environ.get("TURNOUT_ROUNDS", scale(1, 10)))
"""How often each thing is done."""
QUICKLY = ("--repl-diskless-sync-delay", "0")


@asynccontextmanager
async def fleet(folder: Path, backend: Backend, server: RedisServer, query: str = "") -> AsyncIterator[Fleet]:
    wire = Wire(server.port)
    await wire.start()
    with ExitStack() as stack:
        found = stack.enter_context(replicas(folder, backend, wire, query))
        made = watching = None
        try:
            for replica in found:
                await asyncio.to_thread(replica.wait_ready)
            made = Fleet(found, wire, RedisStore(f"redis://127.0.0.1:{wire.listens}/0"))
            watching = asyncio.create_task(made.watch_lease())
            await made.ask(3)
            yield made
        finally:
            for replica in found:
                replica.process.send_signal(signal.SIGCONT)
            if made is not None and watching is not None:
                made.over = True
                await watching
                await made.close()
            await asyncio.to_thread(stack.close)
            await wire.stop()


def told(
    name: str, made: Fleet, leaders: int, lost: tuple[Counter[str], Counter[str]], state: dict[str, object]
) -> None:
    asked = made.asked
    row = {
        "case": name,
        "times": ROUNDS,
        "requests": asked.requests.total() + asked.failed + asked.failed_at_victims,
        "failed elsewhere": asked.failed,
        "failed at the replica": asked.failed_at_victims,
        "rewards": asked.rewards.total(),
        "sent again": asked.resent,
        "rewards lost": lost[0].total(),
        "outcomes lost": lost[1].total(),
        "leaders": leaders,
        "stage": state["stage"],
    }
    print("\n" + json.dumps(row))


async def hold(
    made: Fleet, name: str, *, outcomes_may_be_lost: bool = False, consecutive: bool = True
) -> None:
    """All that must hold once everything is back."""
    await made.settled(15 if outcomes_may_be_lost else 60)
    requests, rewards, values = await made.stored()
    assert made.asked.rejected == []
    assert rewards == made.asked.rewards
    assert values == made.asked.values
    assert made.asked.failed == 0
    lost = made.asked.rewards - rewards, made.asked.requests - requests
    if not outcomes_may_be_lost:
        assert requests == made.asked.requests
    told(name, made, await made.check_leaders(consecutive=consecutive), lost, await made.agreed())


# What is done to the leader -----------------------------------------------------------------------
async def freeze(made: Fleet, place: int) -> None:
    replica = made.replicas[place]
    replica.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(8)  # longer than the lease
    replica.process.send_signal(signal.SIGCONT)


async def kill(made: Fleet, place: int) -> None:
    replica = made.replicas[place]
    replica.kill()
    await asyncio.sleep(6)
    await asyncio.to_thread(replica.start)


async def stop(made: Fleet, place: int) -> None:
    replica = made.replicas[place]
    assert await asyncio.to_thread(replica.stop) == 0
    await asyncio.sleep(2)
    await asyncio.to_thread(replica.start)


async def test_the_leader(tmp_path: Path, backends: list[Backend]) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        async with fleet(tmp_path, backends[0], server) as made:
            for harm in (freeze, stop, kill):  # the last one loses outcomes that were not written yet
                leases = len(made.owners)
                for _ in range(ROUNDS):
                    place = await made.leader()
                    made.victims = {place}
                    asking = asyncio.create_task(made.ask(10))
                    await asyncio.sleep(1)
                    await harm(made, place)
                    await asking
                    made.victims = set()
                    await made.ask(2)
                assert len(made.owners) > leases, f"{harm.__name__}: another took over"
                await hold(made, f"leader: {harm.__name__}", outcomes_may_be_lost=harm is kill)


# What is done to Redis ----------------------------------------------------------------------------
async def slow(made: Fleet, server: RedisServer) -> None:
    made.wire.delay = 0.3
    await asyncio.sleep(8)
    made.wire.delay = 0.0


async def hang(made: Fleet, server: RedisServer) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(8)
    server.process.send_signal(signal.SIGCONT)


async def killed(made: Fleet, server: RedisServer) -> None:
    server.kill()
    await asyncio.sleep(6)
    await asyncio.to_thread(server.start)


async def test_redis(tmp_path: Path, backends: list[Backend]) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        async with fleet(tmp_path, backends[0], server) as made:
            for harm in (slow, hang, killed):
                for _ in range(ROUNDS):
                    asking = asyncio.create_task(made.ask(10))
                    await asyncio.sleep(1)
                    await harm(made, server)
                    await asking
                await hold(made, f"redis: {harm.__name__}")


@contextmanager
def following(folder: Path, primary: RedisServer) -> Iterator[RedisServer]:
    """A replica that has all that its primary has."""
    folder.mkdir()
    with redis_server(folder, "--replicaof", f"127.0.0.1 {primary.port}", *QUICKLY) as replica:
        while "master_link_status:up" not in replica.send("INFO replication"):
            time.sleep(0.05)
        yield replica


async def test_redis_fails_over(tmp_path: Path, backends: list[Backend]) -> None:
    """The primary is killed, its replica promoted, and the address moves; `replicas=1` waits for the replica."""
    (tmp_path / "redis").mkdir()
    with ExitStack() as stack:
        primary = stack.enter_context(redis_server(tmp_path / "redis", *QUICKLY))
        replica = stack.enter_context(following(tmp_path / "redis0", primary))
        async with fleet(tmp_path, backends[0], primary, "?replicas=1") as made:
            for k in range(ROUNDS):
                asking = asyncio.create_task(made.ask(10))
                await asyncio.sleep(3)
                primary.kill()
                await asyncio.sleep(3)
                assert replica.send("REPLICAOF NO ONE").startswith("+OK")
                made.wire.port = replica.port
                made.wire.cut()
                primary = replica
                next_one = following(tmp_path / f"redis{k + 1}", primary)
                replica = await asyncio.to_thread(stack.enter_context, next_one)
                await asking
            await hold(made, "redis: failed over")


async def test_redis_comes_back_empty(tmp_path: Path, backends: list[Backend]) -> None:
    """What it had is gone; what the replicas remember is not: ids, configuration, stage, shares. One of them starts
    on the empty store, with the file as it was before the last edit."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder) as server:
        async with fleet(tmp_path, backends[0], server) as made:
            await made.edit("# edited by the API\n")
            for k in range(ROUNDS):
                made.hold_back = True
                await made.ask(3)
                made.hold_back = False
                await made.ask(3)
                await made.settled()
                before = await made.agreed()
                restarted = made.replicas[k % 3]
                await asyncio.to_thread(restarted.stop)
                server.kill()
                shutil.rmtree(folder / "appendonlydir")
                made.owners.clear()
                made.forget()
                await asyncio.to_thread(server.start)
                await asyncio.to_thread(restarted.start)
                for route, item in made.held_back:
                    await made.report(route, item)
                made.held_back.clear()
                await made.ask(6)
                await made.settled()
                after = await made.agreed()
                assert (after["revision"], after["etag"]) == (before["revision"], before["etag"])
                assert after["stage"][1] >= before["stage"][1]
                assert after["canary"][0] >= before["canary"][0]
                assert await made.alarmed() >= 2, "those that went on"
            await hold(made, "redis: restarted empty", consecutive=False)
