"""How long the leader's loops hold up the event loop: `gateway.loops.allocation`, `gateway.loops.controller` and
`gateway.loops.alarms` themselves, on uvloop, over a real store and with the gateway's own threads. 100 routes of 5
variants, bandits with a guardrail and a stop rule (or, with --mixed, also canaries with guardrails, bandits with
features, splits and shadows in turn), all have new outcomes and rewards each second, and had them for two hours.

    python -m benchmarks.allocations [--routes 100] [--variants 5] [--metric boolean] [--history 7200] [--seconds 20]
        [--mixed] [--redis redis://127.0.0.1:6379]

A heartbeat comes round as often as the loop lets it; each gap between two beats is a time for which no request
would have been looked at. In wall time a gap has in it whatever else the machine was doing meanwhile, and the
first row (the same loop with nothing to do) says how much that is. "ours" leaves it out: of each gap at most the
processor time of all threads of this process, and at most what is left without the time for which the loop's
thread was ready to run and had no core (Linux's run delay). "first look" is that of a new leader, which reads all
of the history. "CPU" is measured without the heartbeat: processor time of the whole process in each second, of
which the traffic, which the benchmark writes itself, is the part in the row before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.leader_traffic import MIXED, Traffic, copy_keys, copy_rows, document
from gateway.compile.arrange import arranged
from gateway.compile.plans import plan
from gateway.compile.steering import Steering
from gateway.loops.alarms import ALARMS_S, Alarms
from gateway.loops.allocation import Allocations
from gateway.loops.controller import Controller
from gateway.loops.periodic import Step, periodically
from gateway.runtime.process import freeze_collector
from gateway.runtime.threads import pool, prioritise_event_loop
from gateway.state import open_store
from gateway.state.base import Published
from gateway.state.events import Events
from gateway.state.outage import StoreOutage

CPU_S = 10.0
"""Seconds of a phase in which processor time is measured."""


@dataclass(frozen=True)
class Row:
    """What one run showed; times in milliseconds."""

    beats: int
    longest: float
    over_1ms: int
    over_5ms: int
    ours: float
    """The longest gap, less what was the machine's doing."""
    on_the_loop: float
    """The longest gap in processor time of the loop's own thread."""
    published: float
    """Allocations a second."""
    in_threads: float
    """Processor time of all other threads of this process, in each second."""
    cpu: float = 0.0
    """Processor time of the process in each second, measured without the heartbeat."""


class _RunDelay:
    """Seconds for which the calling thread was ready and had no core; always 0 where the kernel doesn't say."""

    def __init__(self) -> None:
        path = Path("/proc/thread-self/schedstat")
        self._file = path.open("rb", buffering=0) if path.exists() else None

    def __call__(self) -> float:
        return 1e-9 * float(os.pread(self._file.fileno(), 80, 0).split()[1]) if self._file else 0.0


def _clocks(delayed: _RunDelay) -> tuple[float, float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time(), delayed()


class Heartbeat:
    """Gaps between two turns of the event loop. Only what is longest is kept: a list of millions would
    grow, and be walked by the garbage collector, in gaps of its own."""

    def __init__(self) -> None:
        self.beats = self.over_1ms = self.over_5ms = 0
        self.longest = self.ours = self.on_the_loop = 0.0
        self._began = _clocks(_RunDelay())

    async def run(self) -> None:
        delayed = _RunDelay()
        wall, process, thread, delay = _clocks(delayed)
        while True:
            await asyncio.sleep(0)
            before = wall, process, thread, delay
            wall, process, thread, delay = _clocks(delayed)
            gap = wall - before[0]
            self.beats += 1
            if gap > 1e-3:
                self.over_1ms += 1
                self.over_5ms += gap > 5e-3
            self.longest = max(self.longest, gap)
            self.ours = max(self.ours, min(gap - (delay - before[3]), process - before[1]))
            self.on_the_loop = max(self.on_the_loop, thread - before[2])

    def row(self, published: float) -> Row:
        """``published``: allocations a second."""
        wall, process, thread, _ = map(operator.sub, _clocks(_RunDelay()), self._began)
        return Row(
            self.beats,
            1e3 * self.longest,
            self.over_1ms,
            self.over_5ms,
            1e3 * self.ours,
            1e3 * self.on_the_loop,
            published,
            1e3 * (process - thread) / wall,
        )


@asynccontextmanager
async def beating() -> AsyncIterator[Heartbeat]:
    heart = Heartbeat()
    task = asyncio.create_task(heart.run())
    try:
        yield heart
    finally:
        task.cancel()


async def resting(seconds: float) -> Row:
    async with beating() as heart:
        await asyncio.sleep(seconds)
    return heart.row(0.0)


@dataclass(frozen=True)
class Given:
    """What is run."""

    routes: int
    variants: int
    metric: str
    history: float
    seconds: float
    mixed: bool
    redis: str


async def measured(given: Given) -> dict[str, Row]:
    asyncio.get_running_loop().set_default_executor(pool())
    rows = {"nothing to do": await resting(given.seconds / 4)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.db"
        store = open_store(given.redis or f"sqlite:///{path}")
        await store.open()
        policies = MIXED if given.mixed else MIXED[:1]
        content = document(given.routes, given.variants, given.metric, policies)
        traffic = Traffic(store, content, given.variants, len(policies), np.random.default_rng(1))
        await traffic.past(given.history)
        if given.redis:
            await asyncio.to_thread(copy_keys, given.redis, given.routes, len(policies))
        else:
            await asyncio.to_thread(copy_rows, path, given.routes, len(policies))
        published: list[Published] = []

        def announce(one: Published) -> None:
            published.append(one)
            if content.routes[one.route].policy.type == "bandit":
                traffic.epochs[int(one.route[1:])] = traffic.ends + one.epoch

        allocations = Allocations(
            store, owner="bench", clock=time.time, swap=lambda *_: None, announce=announce
        )
        await allocations.start()
        ago = given.history
        events = Events(store, time.time)
        controller = Controller(store, allocations, clock=lambda: time.time() - ago, events=events)
        alarms = Alarms(
            store,
            allocations,
            clock=time.time,
            events=events,
            raised=lambda *_: None,
            dropped=lambda: 0,
        )
        controller.take(content, {name: Steering() for name in content.routes})
        allocations.take(
            content, {name: arranged(plan(content, name), None, None, b"") for name in content.routes}
        )
        await traffic.come(20, 0.0)
        async with beating() as heart:
            await allocations.step()
            await controller.step()  # guardrails compare since then
            ago = 0.0
            await controller.step()
            await alarms.step(content)
        rows["first look"] = heart.row(0.0)
        rows["traffic alone"] = replace(
            await _run(traffic, {}, given.seconds / 4), cpu=await _cpu(traffic, {})
        )
        published.clear()
        steps: dict[str, tuple[Step, float]] = {
            "allocations": (allocations.step, 1.0),
            "controllers": (controller.step, 1.0),
            "alarms": (lambda: alarms.step(content), ALARMS_S),
        }
        found = await _run(traffic, steps, given.seconds)
        rate = len(published) / given.seconds
        rows["traffic, and all loops"] = replace(found, published=rate, cpu=await _cpu(traffic, steps))
        await store.close()
    return rows


async def _run(traffic: Traffic, steps: Mapping[str, tuple[Step, float]], seconds: float) -> Row:
    """Requests for every route each second, and whatever the loops do meanwhile."""
    async with beating() as heart:
        await _pass(traffic, steps, seconds)
    return heart.row(0.0)


async def _cpu(traffic: Traffic, steps: Mapping[str, tuple[Step, float]]) -> float:
    """Milliseconds of processor time in each second."""
    before, began = time.process_time(), time.perf_counter()
    await _pass(traffic, steps, CPU_S)
    return 1e3 * (time.process_time() - before) / (time.perf_counter() - began)


async def _pass(traffic: Traffic, steps: Mapping[str, tuple[Step, float]], seconds: float) -> None:
    loops = [
        asyncio.create_task(periodically(name, step, lambda pause=pause: pause, StoreOutage()))  # type: ignore[misc]
        for name, (step, pause) in steps.items()
    ]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await traffic.come(1, 1.0 / len(traffic.epochs))
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="How long a refresh of all allocations holds up the event loop."
    )
    parser.add_argument("--routes", type=int, default=100)
    parser.add_argument("--variants", type=int, default=5)
    parser.add_argument("--metric", default="boolean", choices=("boolean", "fraction", "real", "count"))
    parser.add_argument("--history", type=float, default=7200.0, help="seconds of traffic before")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--mixed", action="store_true", help="policies of every kind, in turn")
    parser.add_argument("--redis", default="", help="URL of an empty Redis, in place of SQLite")
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    given = Given(**options)
    prioritise_event_loop()
    freeze_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(measured(given))
    if as_json:
        json.dump({name: asdict(row) for name, row in rows.items()}, sys.stdout, indent=1)
        print()
        return 0
    where = "Redis" if given.redis else "SQLite"
    print(
        f"{given.routes} routes x {given.variants} variants, {given.metric}, {given.history:.0f} s of history, "
        f"{where}; ms"
    )
    print(
        f"{'':26}{'longest':>9}{'over 1':>8}{'over 5':>8}{'ours':>8}{'loop':>8}{'published/s':>13}"
        f"{'threads/s':>11}{'CPU/s':>8}{'beats':>10}"
    )
    for name, row in rows.items():
        print(
            f"{name:26}{row.longest:9.2f}{row.over_1ms:8}{row.over_5ms:8}{row.ours:8.2f}{row.on_the_loop:8.2f}"
            f"{row.published:13.0f}{row.in_threads:11.0f}{row.cpu:8.0f}{row.beats:10}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
