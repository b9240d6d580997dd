"""Errors and latencies by sticky unit, read from the record (`policies.sequential.unit_outcomes`).

The aggregates count requests. Where units are sticky, guardrails need units: each process that looks reads
the decisions of the window once, of all workers and replicas.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from gateway.clock import Clock
from gateway.record.exposures import Exposure
from gateway.state.store import RecordStore
from policies.sequential.unit_outcomes import UnitOutcomes

LATE_S: Final = 120.0
"""An outcome is read if it is in the record this long after its decision: requests may take long."""
STEP_S: Final = 60.0
"""Seconds of the record that are read together."""
BACK_S: Final = 86_400.0
"""Seconds of the record that a new process reads, at most."""
MAX_LOOK_S: Final = 5.0
"""Seconds that one look may read for."""


@dataclass(slots=True)
class _Window:
    since: float
    epoch: int | None
    until: float
    """All outcomes of decisions made before this are in."""
    outcomes: UnitOutcomes = field(default_factory=UnitOutcomes)
    taken: set[tuple[float, int]] = field(default_factory=set)
    """(time, unit) of the decisions since ``until`` that are in already."""


class OutcomesByUnit:
    """The windows that are being looked at, one for each route."""

    def __init__(self, store: RecordStore, clock: Clock, *, max_look_s: float = MAX_LOOK_S) -> None:
        self._max_look_s = max_look_s
        self._store = store
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    async def read(self, name: str, since: float, epoch: int | None = None) -> UnitOutcomes | None:
        """The units of the route ``name`` that came after ``since`` (in ``epoch``); None while it is being read."""
        window = self._windows.get(name)
        if window is None or (window.since, window.epoch) != (since, epoch):
            begin = max(since, self._clock() - BACK_S)
            window = self._windows[name] = _Window(since, epoch, begin)
        now, began = self._clock() + STEP_S, perf_counter()
        start = window.until
        while start < now:
            if perf_counter() - began > self._max_look_s:
                return None
            found = await self._store.exposures(
                name, since=start, until=start + STEP_S, below=window.outcomes.below
            )
            await asyncio.to_thread(_take, window, found)
            start += STEP_S
            if start <= self._clock() - LATE_S:
                _settle(window, start)
        return window.outcomes


def _take(window: _Window, found: list[Exposure]) -> None:
    new = [
        one
        for one in found
        if one.seen
        and (one.time, one.mix) not in window.taken
        and (window.epoch is None or one.epoch == window.epoch)
    ]
    window.taken.update((one.time, one.mix) for one in new)
    window.outcomes.add(
        (one.mix, one.time, one.assigned, one.failed, one.latency, one.propensity) for one in new
    )


def _settle(window: _Window, until: float) -> None:
    window.until = until
    window.taken = {key for key in window.taken if key[0] >= until}
