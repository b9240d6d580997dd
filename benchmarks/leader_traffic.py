"""Routes of every kind with a past, and their traffic, for `benchmarks.allocations`."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import redis

from gateway.compile.plans import plan
from gateway.config.document import Document
from gateway.config.load import load
from gateway.record.context import pack
from gateway.record.events import Outcome, Reward, Shadowed
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
