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
import redis
import uvloop

from gateway.compile.arrange import arranged
from gateway.compile.plans import plan
from gateway.compile.steering import Steering
from gateway.config.document import Document
from gateway.config.load import load
from gateway.loops.alarms import ALARMS_S, Alarms
from gateway.loops.allocation import Allocations
from gateway.loops.controller import Controller
from gateway.loops.periodic import Step, periodically
from gateway.record.context import pack
from gateway.record.events import Outcome, Reward, Shadowed
from gateway.runtime.process import freeze_collector
from gateway.runtime.threads import pool, prioritise_event_loop
from gateway.state import open_store
from gateway.state.base import Published
from gateway.state.outage import StoreOutage
from gateway.state.store import Store
from policies.contextual.bandit import Contextual
from policies.contextual.features import encode, fingerprint

METRIC = "m"
BANDIT = """
      type: bandit
      metric: m
      floor: 0.2%
      baseline: v0
      guardrails: [{metric: error_rate, max_increase: 5%}]
      stop: {min_samples: 1000, then: ask}
"""
MIXED = (
    BANDIT,
    """
      type: canary
      baseline: v0
      candidate: v1
      stages: [{weight: 50%, for: 30d}]
      guardrails: [{metric: error_rate, max_increase: 5%}, {metric: m, max_decrease: 5%}]
""",
    """
      type: bandit
      algorithm: linear
      metric: m
      floor: 0.2%
      features: {tier: {header: x-tier, values: [free, paid]}, age: {json: age, maximum: 100}}
""",
    """
      type: split
      weights: {WEIGHTS}
""",
    """
      type: shadow
      primary: v0
      shadows: {SHADOWS}
""",
)
"""The policies of routes, in turn."""
PAST_EPOCH = 1_000_000
"""Before the first epoch of the past, so that what is published now has others."""
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


def document(routes: int, variants: int, kind: str, policies: Sequence[str]) -> Document:
    names = [f"v{k}" for k in range(variants)]
    weights = ", ".join(f"{name}: {1 / variants:.6f}" for name in names)
    shadows = ", ".join(f"{name}: 100%" for name in names[1:])
    lines = [
        f"metrics: {{{METRIC}: {{type: {kind}}}}}",
        "backends: {a: {url: 'http://127.0.0.1:1'}}",
        "routes:",
    ]
    for r in range(routes):
        members = ", ".join(f"{name}: {{backend: a}}" for name in names)
        policy = policies[r % len(policies)].replace("WEIGHTS", weights).replace("SHADOWS", shadows)
        lines += [
            f"  r{r}:",
            f"    match: {{path: /r{r}}}",
            f"    variants: {{{members}}}",
            f"    policy: {policy}",
        ]
    return load("\n".join(lines), source="benchmark", env={})


class Traffic:
    """New outcomes and their rewards for every route, as the recorder and clients would write them."""

    def __init__(
        self, store: Store, given: Document, variants: int, policies: int, rng: np.random.Generator
    ) -> None:
        self._store, self._given, self._variants, self._rng = store, given, variants, rng
        self._policies, self._numbers = policies, count(1)
        self._plans = [plan(given, name) for name in given.routes]
        self.epochs = [1] * len(given.routes)
        """Of each route, the epoch under which requests come now."""

    async def come(self, each: int, pause: float) -> None:
        """``each`` requests for every variant of every route, a route at a time, as feedback calls would."""
        for r, epoch in enumerate(self.epochs):
            now = time.time() - 1.0
            share = 1.0 / len(self._used(r))
            await self._write(
                r, [self._outcome(r, k, now, epoch, share) for k in self._used(r) for _ in range(each)]
            )
            await asyncio.sleep(pause)

    async def past(self, seconds: float) -> None:
        """Two requests for every variant each two seconds on the first route of each policy: a bandit's under an epoch
        whose shares differ by about one per cent."""
        end = time.time() - 2.0
        times = np.arange(end - seconds, end, 2.0).tolist()
        for r in range(min(self._policies, len(self.epochs))):
            moves, used = bool(self._given.routes[f"r{r}"].policy.type == "bandit"), self._used(r)
            shares = self._rng.dirichlet([20_000 / len(used)] * len(used), len(times)).tolist()
            for start in range(0, len(times), 500):
                outcomes = [
                    self._outcome(
                        r, k, now + second, PAST_EPOCH + n if moves else 1, shares[n][k] if moves else 1.0
                    )
                    for n, now in enumerate(times[start : start + 500], start)
                    for k in used
                    for second in (0.0, 1.0)
                ]
                await self._write(r, outcomes)
        self.ends = PAST_EPOCH + len(times)
        for r in range(len(self.epochs)):
            if self._given.routes[f"r{r}"].policy.type == "bandit":
                self.epochs[r] = self.ends

    def _used(self, r: int) -> range:
        """The variants that get requests."""
        policy = self._given.routes[f"r{r}"].policy.type
        return range({"canary": 2, "shadow": 1}.get(policy, self._variants))

    async def _write(self, r: int, outcomes: Sequence[Outcome]) -> None:
        shadowed: list[Shadowed] = []
        if self._given.routes[f"r{r}"].policy.type == "shadow":
            shadowed = [self._shadowed(one, k) for one in outcomes for k in range(1, self._variants)]
        await self._store.append(outcomes, shadowed)
        await self._store.reward([self._reward(r, outcome) for outcome in outcomes])

    def _outcome(self, route: int, k: int, now: float, epoch: int, propensity: float) -> Outcome:
        number, variant = next(self._numbers), f"v{k}"
        return Outcome(
            decision=int(now * 1e3).to_bytes(6, "big") + number.to_bytes(10, "big"),
            time=now,
            route=f"r{route}",
            policy="bandit",
            revision=1,
            epoch=epoch,
            unit=number,
            sticky=False,
            assigned=variant,
            served=variant,
            propensity=propensity,
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

    def _shadowed(self, of: Outcome, k: int) -> Shadowed:
        agrees = bool(self._rng.random() < 0.95)
        return Shadowed(
            of.decision, of.time, of.route, f"v{k}", of.served, 200, "", 3.0, 3.0, agrees, None, ""
        )

    def _reward(self, r: int, of: Outcome) -> Reward:
        context, plan = "", self._plans[r]
        if isinstance(plan, Contextual):
            raw = {"tier": ("free", "paid")[self._rng.integers(2)], "age": float(self._rng.integers(100))}
            context = pack(fingerprint(plan.features), encode(plan.features, raw)).hex()
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
            context=context,
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


def copy_rows(path: Path, routes: int, policies: int) -> None:
    """Give the aggregates of the first route of each policy to all others, in SQLite."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("outcome_cells", "reward_cells", "outcome_totals", "reward_totals", "linear_cells"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rest = ", ".join(column for column in columns if column != "route")
            connection.executemany(
                f"INSERT INTO {table} (route, {rest}) SELECT ?, {rest} FROM {table} WHERE route = ?",
                [(f"r{r}", f"r{r % policies}") for r in range(policies, routes)],
            )


def copy_keys(url: str, routes: int, policies: int) -> None:
    """Give all keys of the first route of each policy to all others, in Redis."""
    with redis.Redis.from_url(url) as server:
        for r in range(min(policies, routes)):
            for key in list(server.scan_iter(f"turnout:{{r{r}}}:*", count=1000)):
                value, rest = server.dump(key), key.partition(b"}")[2]
                for other in range(r + policies, routes, policies):
                    server.restore(b"turnout:{r%d}%s" % (other, rest), 0, value)


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
        controller = Controller(store, allocations, clock=lambda: time.time() - ago, emit=_unheard)
        alarms = Alarms(
            store,
            allocations,
            clock=time.time,
            emit=_unheard,
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


async def _unheard(kind: str, route: str, data: Mapping[str, Any]) -> None:
    """An event."""


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
