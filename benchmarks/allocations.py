"""How long the loops that move allocations hold up the event loop: `gateway.loops.allocation` and
`gateway.loops.controller` themselves, on uvloop, over a real SQLite store and with the gateway's own threads. 100
bandit routes of 5 variants, each with a guardrail and a stop rule, all have new outcomes and rewards each second,
and had them for two hours.

    python -m benchmarks.allocations [--routes 100] [--variants 5] [--metric boolean] [--history 7200] [--seconds 20]

A heartbeat comes round as often as the loop lets it; each gap between two beats is a time for which no request
would have been looked at. In wall time a gap has in it whatever else the machine was doing meanwhile, and the
first row (the same loop with nothing to do) says how much that is. "ours" leaves it out: of each gap at most the
processor time of all threads of this process, and at most what is left without the time for which the loop's
thread was ready to run and had no core (Linux's run delay).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import operator
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from gateway.compile.arrange import arranged
from gateway.compile.plans import plan
from gateway.compile.steering import Steering
from gateway.config.document import Document
from gateway.config.load import load
from gateway.loops.allocation import Allocations
from gateway.loops.controller import Controller
from gateway.loops.periodic import periodically
from gateway.record.events import Outcome, Reward
from gateway.runtime.threads import pool, prioritise_event_loop
from gateway.state.base import Published
from gateway.state.outage import StoreOutage
from gateway.state.sqlite import SqliteStore

METRIC = "m"


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


def document(routes: int, variants: int, kind: str) -> Document:
    names = [f"v{k}" for k in range(variants)]
    lines = [
        f"metrics: {{{METRIC}: {{type: {kind}}}}}",
        "backends: {a: {url: 'http://127.0.0.1:1'}}",
        "routes:",
    ]
    for r in range(routes):
        members = ", ".join(f"{name}: {{backend: a}}" for name in names)
        lines += [
            f"  r{r}:",
            f"    match: {{path: /r{r}}}",
            f"    variants: {{{members}}}",
            "    policy:",
            "      type: bandit",
            f"      metric: {METRIC}",
            f"      floor: {0.01 / variants:.5f}",
            "      baseline: v0",
            "      guardrails: [{metric: error_rate, max_increase: 5%}]",
            "      stop: {min_samples: 1000, then: ask}",
        ]
    return load("\n".join(lines), source="benchmark", env={})


class Traffic:
    """New outcomes and their rewards for every route, as the recorder and clients would write them."""

    def __init__(self, store: SqliteStore, routes: int, variants: int, rng: np.random.Generator) -> None:
        self._store, self._routes, self._variants, self._rng = store, routes, variants, rng
        self._numbers, self._epoch = count(1), 1

    async def come(self, each: int, pause: float) -> None:
        """``each`` requests for every variant of every route, a route at a time, as feedback calls would."""
        for r in range(self._routes):
            outcomes = [
                self._outcome(r, k, time.time() - 1.0) for k in range(self._variants) for _ in range(each)
            ]
            await self._store.append(outcomes)
            await self._store.reward([self._reward(outcome) for outcome in outcomes])
            await asyncio.sleep(pause)

    async def past(self, seconds: float) -> None:
        """Two requests for every variant each two seconds, under an epoch whose shares differ by about one per cent."""
        end = time.time() - 2.0
        times = np.arange(end - seconds, end, 2.0).tolist()
        shares = self._rng.dirichlet([20_000 / self._variants] * self._variants, len(times)).tolist()
        for start in range(0, len(times), 500):
            outcomes = [
                self._outcome(0, k, now + second)._replace(epoch=epoch, propensity=shares[epoch - 1][k])
                for epoch, now in enumerate(times[start : start + 500], start + 1)
                for k in range(self._variants)
                for second in (0.0, 1.0)
            ]
            await self._store.append(outcomes)
            await self._store.reward([self._reward(outcome) for outcome in outcomes])
        self._epoch = len(times) + 1

    def _outcome(self, route: int, k: int, now: float) -> Outcome:
        number, variant = next(self._numbers), f"v{k}"
        return Outcome(
            decision=int(now * 1e3).to_bytes(6, "big") + number.to_bytes(10, "big"),
            time=now,
            route=f"r{route}",
            policy="bandit",
            revision=1,
            epoch=self._epoch,
            unit=number,
            sticky=False,
            assigned=variant,
            served=variant,
            propensity=1.0 / self._variants,
            forced=False,
            status=200,
            error="backend_reset" if self._rng.random() < 0.01 else "",
            fallback=False,
            attempts="",
            gateway_ms=0.2,
            backend_ms=3.0,
            total_ms=float(self._rng.lognormal(1.5, 0.5)),
            request_bytes=512,
            answer_bytes=128,
            request_id="",
            principal="",
            features="",
        )

    def _reward(self, of: Outcome) -> Reward:
        return Reward(
            decision=of.decision,
            metric=METRIC,
            value=float(self._rng.random() < 0.5 + 0.02 * int(of.assigned[1:])),
            time=of.time + 1.0,
            decided=of.time,
            route=of.route,
            assigned=of.assigned,
            served=of.served,
            epoch=of.epoch,
            propensity=of.propensity,
            unit=of.unit,
            forced=False,
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


def copy_history(path: Path, routes: int) -> None:
    """Give the aggregates of the first route to all others."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("outcome_cells", "reward_cells", "outcome_totals", "reward_totals"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rest = ", ".join(column for column in columns if column != "route")
            connection.executemany(
                f"INSERT INTO {table} (route, {rest}) SELECT ?, {rest} FROM {table} WHERE route = 'r0'",
                [(f"r{r}",) for r in range(1, routes)],
            )


async def measured(routes: int, variants: int, kind: str, history: float, seconds: float) -> dict[str, Row]:
    asyncio.get_running_loop().set_default_executor(pool())
    rows = {"nothing to do": await resting(seconds / 4)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.db"
        store = SqliteStore(path)
        await store.open()
        traffic = Traffic(store, routes, variants, np.random.default_rng(1))
        await traffic.past(history)
        await asyncio.to_thread(copy_history, path, routes)
        seen: list[Published] = []
        allocations = Allocations(
            store, owner="bench", clock=time.time, swap=lambda *_: None, announce=seen.append
        )
        await allocations.start()
        given = document(routes, variants, kind)
        ago = history
        controller = Controller(store, allocations, clock=lambda: time.time() - ago, emit=_unheard)
        steered = {name: Steering() for name in given.routes}
        begun = {name: arranged(plan(given, name), None, None, b"") for name in given.routes}
        controller.take(given, steered)
        allocations.take(given, begun)
        await traffic.come(20, 0.0)
        await allocations.step()
        await controller.step()  # guardrails compare since then
        ago = 0.0
        await controller.step()
        rows["traffic alone"] = await _run(traffic, routes, [], seconds / 4)
        seen.clear()
        steps = {"allocations": allocations.step, "controllers": controller.step}
        loops = [
            asyncio.create_task(periodically(name, step, lambda: 1.0, StoreOutage()))
            for name, step in steps.items()
        ]
        found = await _run(traffic, routes, loops, seconds)
        rows["traffic, and both loops"] = replace(found, published=len(seen) / seconds)
        await store.close()
    return rows


async def _unheard(kind: str, route: str, data: Mapping[str, Any]) -> None:
    """An event."""


async def _run(traffic: Traffic, routes: int, loops: Sequence[asyncio.Task[None]], seconds: float) -> Row:
    """Each second requests for every route, and whatever ``loops`` do meanwhile."""
    async with beating() as heart:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await traffic.come(1, 1.0 / routes)
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    return heart.row(0.0)


def _ease_collector() -> None:
    """As `gateway.serving` does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="How long a refresh of all allocations holds up the event loop."
    )
    parser.add_argument("--routes", type=int, default=100)
    parser.add_argument("--variants", type=int, default=5)
    parser.add_argument("--metric", default="boolean", choices=("boolean", "fraction", "real", "count"))
    parser.add_argument("--history", type=float, default=7200.0, help="seconds of traffic before")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    prioritise_event_loop()
    _ease_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(measured(given.routes, given.variants, given.metric, given.history, given.seconds))
    if given.json:
        json.dump({name: asdict(row) for name, row in rows.items()}, sys.stdout, indent=1)
        print()
        return 0
    print(f"{given.routes} routes x {given.variants} variants, {given.metric}; ms")
    print(
        f"{'':34}{'longest':>9}{'over 1':>8}{'over 5':>8}{'ours':>8}{'loop':>8}{'published/s':>13}"
        f"{'threads':>9}{'beats':>10}"
    )
    for name, row in rows.items():
        print(
            f"{name:34}{row.longest:9.2f}{row.over_1ms:8}{row.over_5ms:8}{row.ours:8.2f}{row.on_the_loop:8.2f}"
            f"{row.published:13.0f}{row.in_threads:9.0f}{row.beats:10}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
