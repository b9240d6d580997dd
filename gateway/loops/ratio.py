"""Sample-ratio mismatch, looked for all the time: were units assigned as the allocation says?

A route without units is tested by its requests, from the aggregates. With sticky units all requests of one user go to
one variant. That is not a fault, but it looks like one if requests are counted, so there each *unit* counts once: the
leader reads the units from the record, whatever worker or replica served them. That test is kept in the store: a new
leader continues it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

import numpy as np

from gateway.clock import Clock
from gateway.config.policy import BanditConfig
from gateway.config.route import RouteConfig
from gateway.ingest.remembered import pieces
from gateway.state import shapes
from gateway.state.base import BUCKET_S, MAX_CLOCK_SKEW_S, Bucket, Published
from gateway.state.store import Store
from policies.sequential.srm import SampleRatio, UnitRatio

KIND: Final = shapes.kind(
    "units",
    {
        "fingerprint": str,
        "until": shapes.time,
        "below": int,
        "ratio": {
            "counts": {str: float},
            "expected": {str: float},
            "norms": {str: [float]},
            "impossible": float,
        },
        "seen": str,
    },
)
ALPHA: Final = 0.001
"""Probability that a healthy route ever raises an alarm, over all looks at it until its section is edited."""
SETTLED_S: Final = 30.0
"""Seconds after which a bucket of the aggregates, and the record, is whole if no request hangs: every worker has
flushed."""
FLUSHED_S: Final = 10.0
"""Seconds after the timeout of a request that hung within which it is recorded."""
BACK_S: Final = 3600.0
"""Seconds of the record that a test begins with."""
STEP_S: Final = 10.0
"""Seconds of the record that are read together."""
MAX_STEPS: Final = 360
"""Maximum number of such steps in one look, after a pause."""
NEW_EPOCHS, MAX_EPOCHS = 64, 1000
"""Allocations that are read where a look needs only new ones, and at most."""
MAX_ROWS: Final = 5000
"""Decisions that are read together, however long they took: after a pause most of hundreds of routes have few."""
KEPT_S: Final = 60.0
"""Seconds between two writes of a test to the store, if it has seen further units."""
IDLE_S: Final = 1800.0
"""Seconds between two writes of a test without further units."""

Probabilities = Mapping[int, Mapping[str, float]]
"""By epoch."""


@dataclass(slots=True)
class _Requests:
    """A route without units: each bucket of the aggregates goes in once."""

    ratio: SampleRatio = field(default_factory=SampleRatio)
    until: float = 0.0
    """Buckets that begin before this are in ``ratio``."""


@dataclass(slots=True)
class _Units:
    """A route with units: each decision of the record is counted exactly one time."""

    fingerprint: str
    test: UnitRatio
    until: float
    version: int
    kept: float = 0.0
    """When it was written to the store."""
    news: bool = True
    """Whether units were seen since."""


class Ratios:
    """The tests of all routes, for `gateway.loops.alarms`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._requests: dict[str, _Requests] = {}
        self._units: dict[str, _Units] = {}

    async def look(self, name: str, route: RouteConfig) -> tuple[SampleRatio, str] | None:
        """The test of a route so far, and what it counts; None where there is none: with `algorithm: linear`
        each request has probabilities of its own, and the record has only that of the variant it got."""
        if isinstance(route.policy, BanditConfig) and route.policy.algorithm == "linear":
            return None
        if route.unit is None:
            return await self._by_request(name, _settled(route)), "requests"
        return await self._by_unit(name, route, _settled(route)), "units"

    async def _probabilities(self, name: str, oldest: int = 0) -> Probabilities:
        """Those of the epochs since ``oldest``, of the last thousand at most; mostly they are among the newest."""
        found: Sequence[Published] = ()
        for limit in (NEW_EPOCHS, MAX_EPOCHS):
            found = await self._store.allocation_history(name, limit=limit)
            if len(found) < limit or found[0].epoch <= oldest:
                break
        return {p.epoch: p.probabilities for p in found}

    async def _by_request(self, name: str, settled_s: float) -> SampleRatio:
        tested = self._requests.setdefault(name, _Requests())
        until = (self._clock() - settled_s) // BUCKET_S * BUCKET_S
        tested.until = _believed(tested.until, until)
        for begin, end in pieces(tested.until, until, until):
            assigned = await self._store.reduced_series(
                name, _assigned, since=begin, until=end, step=BUCKET_S, epochs="each"
            )
            if assigned:
                probabilities = await self._probabilities(name, min(assigned))
                await asyncio.to_thread(_add, tested.ratio, probabilities, assigned)
            tested.until = end
        return tested.ratio

    async def _by_unit(self, name: str, route: RouteConfig, settled_s: float) -> SampleRatio:
        until = self._clock() - settled_s
        tested = await self._known(name, route, until)
        tested.until = _believed(tested.until, until)
        step = await self._step(name, tested.until, until)
        for _ in range(MAX_STEPS):
            if tested.until >= until:
                break
            end = min(tested.until + step, until)
            found = await self._store.exposures(name, since=tested.until, until=end, below=tested.test.below)
            if found:
                tested.news = True
                each = [(s.mix, s.epoch, s.assigned) for s in found]
                probabilities = await self._probabilities(name, min(s.epoch for s in found))
                await asyncio.to_thread(tested.test.add, each, probabilities)
            tested.until = end
        if self._clock() - tested.kept >= (KEPT_S if tested.news else IDLE_S):
            await self._keep(name, tested)
        return tested.test.ratio

    async def _step(self, name: str, since: float, until: float) -> float:
        """Seconds of the record to read together."""
        if until - since <= 2 * STEP_S:
            return STEP_S
        counts = await self._store.counts(name, since=since, until=until)
        return until - since if sum(c.assigned for c in counts.values()) <= MAX_ROWS else STEP_S

    async def _known(self, name: str, route: RouteConfig, until: float) -> _Units:
        """The test as this process or, where it is new, the store has it; a new one for an edited route."""
        # Without defaults: a later build may have more keys, and forgets nothing for that.
        text = route.model_dump_json(exclude_defaults=True)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        tested = self._units.get(name)
        if tested is None:
            tested = await self._read(name) or _Units(fingerprint, UnitRatio(), until - BACK_S, 0)
        if tested.fingerprint != fingerprint:
            tested.fingerprint, tested.test = fingerprint, tested.test.renewed()
        self._units[name] = tested
        return tested

    async def _read(self, name: str) -> _Units | None:
        found = await self._store.load(KIND, name)
        if found is None:
            return None
        version, kept = found[0], json.loads(found[1])
        seen = np.frombuffer(base64.b64decode(kept["seen"]), "<u8").tolist()
        test = UnitRatio(SampleRatio.from_dict(kept["ratio"]), set(seen), kept["below"])
        return _Units(kept["fingerprint"], test, kept["until"], version, self._clock())

    async def _keep(self, name: str, tested: _Units) -> None:
        text = await asyncio.to_thread(_written, tested)
        tested.kept, tested.news = self._clock(), False
        if await self._store.save(KIND, name, text, expected=tested.version):
            tested.version += 1
        else:
            self._units.pop(name, None)  # another leader has gone on with it: so do we, from there

    def forget(self) -> None:
        """Drops the tests: another leader continues them. Call it while another one leads."""
        self._units.clear()


def _settled(route: RouteConfig) -> float:
    """Seconds after which the decisions of a route are recorded, those of a variant that hangs included: or it would
    seem to get fewer, and a rollout would pause instead of being rolled back."""
    timeouts, retry = route.timeouts, route.retry
    hangs = timeouts.first_byte * (retry.attempts if retry.on.timeout and retry.replayable else 1)
    return max(SETTLED_S, min(hangs, timeouts.total or inf) + FLUSHED_S)


def _believed(end: float, until: float) -> float:
    """The ``end`` of what was read; ``until`` for that of a clock that was ahead, or nothing would be tested until it
    is there again."""
    return end if end <= until + MAX_CLOCK_SKEW_S else until


def _written(tested: _Units) -> str:
    test = tested.test
    seen = np.sort(np.fromiter(test.seen, "<u8", len(test.seen)))
    kept: dict[str, Any] = {
        "fingerprint": tested.fingerprint,
        "until": tested.until,
        "below": test.below,
        "ratio": test.ratio.as_dict(),
        "seen": base64.b64encode(seen.tobytes()).decode(),
    }
    return json.dumps(kept)


def _assigned(cells: list[Bucket]) -> dict[int, dict[str, float]]:
    """Decisions by epoch and variant."""
    found: dict[int, dict[str, float]] = {}
    for cell in cells:
        of_epoch = found.setdefault(cell.epoch, {})
        of_epoch[cell.variant] = of_epoch.get(cell.variant, 0.0) + cell.counts.assigned
    return found


def _add(
    ratio: SampleRatio, probabilities: Probabilities, assigned: Mapping[int, Mapping[str, float]]
) -> None:
    """Add what was assigned in each epoch whose allocation is known."""
    for epoch, found in sorted(assigned.items()):
        if epoch in probabilities:
            ratio.add(found, probabilities[epoch])
