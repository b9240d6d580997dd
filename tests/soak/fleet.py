"""Replicas of the gateway on one Redis, behind a wire that can be slowed, cut and moved; and what they are asked."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiohttp

from benchmarks.faults import Backend
from gateway.state.base import StoreUnavailable
from gateway.state.redis import RedisStore
from tests.support.processes import GatewayProcess

CONFIG = """
listen: "127.0.0.1:${REPLICA_PORT}"
store: "redis://127.0.0.1:@WIRE@/0@QUERY@"
record: {spool: "${REPLICA_FOLDER}/spool"}
metrics: {good: {type: boolean}}
backends:
  a: {url: "http://127.0.0.1:@A@"}
routes:
  canary:
    match: {path: /canary}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 10%, for: 5s}, {weight: 30%, for: 15s}, {weight: 50%, for: 10m}]
      guardrails: [{metric: error_rate, max_increase: 60%}]
      on_success: wait
  bandit:
    match: {path: /bandit}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: bandit, metric: good, floor: 10%}
"""
ROUTES = ("canary", "bandit")
P = ParamSpec("P")
T = TypeVar("T")


class Wire:
    """A TCP proxy in front of Redis: each piece is held up for `delay` seconds; `port` is where it leads."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.delay: float = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._serving.add(asyncio.create_task(self._serve(reader, writer)))

        self._server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self.listens: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._serving)

    def cut(self) -> None:
        """Ends all connections, as a failed-over address does."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        self._writers -= {writer, back}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.close()


class Replica(GatewayProcess):
    """One of several gateways with the same configuration, letter by letter: its own values are in its environment."""

    def start(self, *, ready: bool = True) -> None:
        os.environ["REPLICA_PORT"], os.environ["REPLICA_FOLDER"] = str(self.port), str(self.folder)
        super().start(ready=ready)


@dataclass
class Asked:
    """What the clients saw."""

    requests: Counter[str] = field(default_factory=Counter)
    """Answered with 200, by route."""
    failed: int = 0
    """Not answered with 200 by a replica that nothing was done to."""
    failed_at_victims: int = 0
    rewards: Counter[str] = field(default_factory=Counter)
    """Acknowledged, by route; each was sent until it was."""
    values: Counter[str] = field(default_factory=Counter)
    """The sum of the values that were acknowledged, by route."""
    resent: int = 0
    rejected: list[str] = field(default_factory=list)


class Fleet:
    """Three replicas, their clients, and what must hold of them."""

    def __init__(self, replicas: list[Replica], wire: Wire, store: RedisStore) -> None:
        self.replicas = replicas
        self.wire = wire
        self.store = store
        self.asked = Asked()
        self.victims: set[int] = set()
        """Positions of replicas that something is done to."""
        self.held_back: list[tuple[str, dict[str, Any]]] = []
        """Reports that are sent later."""
        self.hold_back = False
        self.over = False
        self.owners: dict[int, set[str]] = {}
        """By fencing number: who held the lease of the allocation loop."""
        self._chance = random.Random(11)
        self._turn = itertools.cycle(range(len(replicas)))
        # Requests are many; a client of httpx computes five times as long for each.
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(20), connector=aiohttp.TCPConnector(limit=400)
        )

    # Clients ------------------------------------------------------------------------------------
    async def ask(self, seconds: float, rate: float = 40.0) -> None:
        """Requests at a fixed rate, to one replica after the other, each with a reward."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with asyncio.TaskGroup() as group:
            while loop.time() < end:
                group.create_task(self._ask_once(next(self._turn)))
                await asyncio.sleep(1 / rate)

    async def _call(
        self, replica: Replica, path: str, method: str = "POST", **options: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, header fields and body of the response; 0 as the status of none."""
        try:
            async with self._client.request(method, f"{replica.url}{path}", **options) as response:
                return response.status, response.headers, await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return 0, {}, b""

    async def _ask_once(self, place: int) -> None:
        route = self._chance.choice(ROUTES)
        status, fields, _ = await self._call(self.replicas[place], f"/{route}")
        if status != 200:
            if place in self.victims:
                self.asked.failed_at_victims += 1
            else:
                self.asked.failed += 1
            return
        self.asked.requests[route] += 1
        item = {
            "decision_id": fields["x-decision-id"],
            "metric": "good",
            "value": self._chance.random() < 0.5,
        }
        if self.hold_back:
            self.held_back.append((route, item))
        else:
            await self.report(route, item)

    async def report(self, route: str, item: dict[str, Any]) -> None:
        """Sends a report to one replica after the other until one acknowledges it, as a client library does."""
        for place in itertools.chain([next(self._turn)], self._turn):
            status, _, body = await self._call(self.replicas[place], "/-/feedback", json=item)
            if status == 200:
                told = json.loads(body)
                if told["rejected"]:
                    self.asked.rejected.append(told["rejected"][0]["code"])
                    return
                assert told["accepted"] + told["duplicates"] == 1, told
                self.asked.rewards[route] += 1
                self.asked.values[route] += bool(item["value"])
                return
            self.asked.resent += 1
            await asyncio.sleep(0.2)

    # What must hold -----------------------------------------------------------------------------
    async def watch_lease(self) -> None:
        """Notes who leads, ten times a second, until `over`."""
        key = "turnout:{.}-:lease:allocation"
        while not self.over:
            with contextlib.suppress(Exception):
                owner, fence = await self.store._link.command("HMGET", key, "owner", "fence")
                if owner:
                    self.owners.setdefault(int(fence), set()).add(owner.decode())
            await asyncio.sleep(0.1)

    async def leader(self) -> int:
        """The position of the replica that leads now; waits until there is one."""
        while True:
            owner = next(iter(self.owners[max(self.owners)]))
            for place, replica in enumerate(self.replicas):
                if str(replica.process.pid) == owner.split("-")[-2]:
                    return place
            await asyncio.sleep(0.1)

    async def _read(self, read: Callable[P, Awaitable[T]], *args: P.args, **rest: P.kwargs) -> T:
        """What the store says; again where it was said over a connection that ended with Redis."""
        for _ in range(20):
            with contextlib.suppress(StoreUnavailable):
                return await read(*args, **rest)
            await asyncio.sleep(0.2)
        return await read(*args, **rest)

    async def stored(self) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """By route, what the store has: requests, rewards, and the sum of their values."""
        requests, rewards, values = Counter[str](), Counter[str](), Counter[str]()
        for route in ROUTES:
            requests[route] = sum(a for a, _, _ in (await self._read(self.store.decided, route)).values())
            for (_, metric), sums in (await self._read(self.store.reward_sums, route)).items():
                if metric == "good":
                    rewards[route] += int(sums.count)
                    values[route] += int(sums.total)
        return requests, rewards, values

    async def settled(self, limit: float = 60.0) -> None:
        """Waits until spools and records are written; the caller compares."""
        for _ in range(int(limit * 5)):
            requests, rewards, _ = await self.stored()
            if (requests, rewards) == (self.asked.requests, self.asked.rewards):
                return
            await asyncio.sleep(0.2)

    async def state(self, replica: Replica) -> dict[str, Any]:
        """What has to be the same everywhere."""
        paths = ("/-/config", *(f"/-/routes/{name}" for name in ROUTES))
        responses = [await self._call(replica, path, "GET") for path in paths]
        if any(status != 200 for status, _, _ in responses):
            return {"unavailable": replica.url}  # its store has not come back yet
        canary, bandit = (json.loads(body) for _, _, body in responses[1:])
        rollout = canary["rollout"]
        return {
            "etag": responses[0][1]["etag"],
            "revision": canary["revision"],
            "stage": (rollout["state"], rollout["stage"], rollout["weight"]),
            "canary": (canary["epoch"], canary["allocation"]),
            "bandit": (bandit["epoch"], bandit["allocation"]),
        }

    async def agreed(self, limit: float = 60.0) -> dict[str, Any]:
        """The state that all replicas have come to."""
        for _ in range(int(limit * 5)):
            states = [await self.state(replica) for replica in self.replicas]
            if all(state == states[0] for state in states):
                return states[0]
            await asyncio.sleep(0.2)
        raise AssertionError(json.dumps(states, indent=1))

    async def check_leaders(self, *, consecutive: bool) -> int:
        """How many leaders there were; each lease had one, and each epoch was published once, in order."""
        assert all(len(owners) == 1 for owners in self.owners.values()), self.owners
        for route in ROUTES if consecutive else ():
            epochs = [one.epoch for one in await self._read(self.store.allocation_history, route)]
            assert epochs == list(range(epochs[0], epochs[0] + len(epochs))), epochs
        return len({owner for owners in self.owners.values() for owner in owners})

    async def edit(self, more: str) -> None:
        """Adds to the configuration through the API."""
        replica = self.replicas[0]
        text = replica.path.read_text() + more
        headers = {"if-match": "*", "content-type": "application/yaml"}
        status, _, body = await self._call(replica, "/-/config", "PUT", data=text, headers=headers)
        assert status == 200, body

    async def alarmed(self) -> int:
        """How many replicas have told that the store lost data."""
        kept = [
            json.loads(event.data) for event in await self._read(self.store.events) if event.kind == "alarm"
        ]
        return sum(alarm["code"] == "store_lost_data" for alarm in kept)

    def forget(self) -> None:
        """Counts from here on: the store has nothing any more."""
        kept = self.asked
        self.asked = Asked(failed=kept.failed, failed_at_victims=kept.failed_at_victims, resent=kept.resent)

    async def close(self) -> None:
        await self._client.close()
        await self.store.close()


@contextmanager
def replicas(folder: Path, backend: Backend, wire: Wire, query: str = "") -> Iterator[list[Replica]]:
    """Three of them."""
    text = CONFIG.replace("@A@", str(backend.port)).replace("@WIRE@", str(wire.listens))
    text = text.replace("@QUERY@", query)
    with ExitStack() as stack:
        made = []
        for name in "xyz":
            (folder / name).mkdir()
            made.append(stack.enter_context(Replica(folder / name, text, ready=False)))
        yield made
