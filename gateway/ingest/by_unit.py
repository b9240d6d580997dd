"""Errors and latencies by sticky unit, read from the record (`policies.sequential.unit_outcomes`).

The aggregates count requests. Where units are sticky, guardrails need units: each process that looks reads the
decisions of the window once, of all workers and replicas. What was recorded before its first look is read by time;
what comes then, by page: a look costs what is new, whatever the route's traffic in the last minutes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Final

from gateway.clock import Clock
from gateway.record.exposures import Exposure
from gateway.state.store import RecordStore
from policies.sequential.unit_outcomes import UnitOutcomes

MAX_LATENESS_S: Final = 120.0
"""An outcome is read if it is in the record this long after its decision: requests may take long."""
STEP_S: Final = 60.0
"""Seconds of the record that are read together."""
STEP_PAGES: Final = 32
"""Pages that are read together."""
BACK_S: Final = 86_400.0
"""Seconds of the record that a new process reads, at most."""
MAX_REST_S: Final = 1800.0
"""After a longer pause the window is read again: pages that were read may have become part of others."""
MAX_LOOK_S: Final = 5.0
"""Seconds that one look may read for."""


@dataclass(slots=True)
class _Window:
    since: float
    epoch: int | None
    until: float
    """All decisions made before this are in."""
    tail: float
    """Decisions made from here on are read by page."""
    recent: float
    """Pages without decisions made since are in."""
    looked: float = inf
    """When a look last began that read all pages, or the first that read any."""
    outcomes: UnitOutcomes = field(default_factory=UnitOutcomes)
    pages: set[int] = field(default_factory=set)
    """Numbers of the pages that are in, but for old ones."""

    def take(self, found: list[Exposure]) -> None:
        epoch = self.epoch
        self.outcomes.add(
            (
                one.mix,
                one.time,
                one.assigned,
                one.failed,
                one.latency,
                one.propensity,
                one.client_error,
            )
            for one in found
            if one.seen and (epoch is None or one.epoch == epoch)
        )


class OutcomesByUnit:
    """The windows that are being looked at, one for each route."""

    def __init__(self, store: RecordStore, clock: Clock, *, max_look_s: float = MAX_LOOK_S) -> None:
        self._max_look_s = max_look_s
        self._store = store
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    async def read(self, name: str, since: float, epoch: int | None = None) -> UnitOutcomes | None:
        """The units of the route ``name`` that came after ``since`` (in ``epoch``); None while it is being read."""
        now = self._clock()
        window = self._windows.get(name)
        if (
            window is None
            or (window.since, window.epoch) != (since, epoch)
            or now - window.looked > MAX_REST_S
            # The clock was set back: the numbers of pages that are listed again are forgotten, they would count twice.
            or now + MAX_LATENESS_S < window.looked < inf
        ):
            for other in [o for o, w in self._windows.items() if now - w.looked > MAX_REST_S]:
                del self._windows[other]  # the route is gone, or no one looks at it now
            begin = max(since, now - BACK_S)
            tail = max(begin, now - MAX_LATENESS_S)
            window = self._windows[name] = _Window(
                since, epoch, begin, tail, recent=tail, outcomes=UnitOutcomes(since=begin)
            )
        until = perf_counter() + self._max_look_s
        read = await self._read_times(name, window, until) and await self._read_pages(
            name, window, now, until
        )
        return window.outcomes if read else None

    async def _read_times(self, name: str, window: _Window, until: float) -> bool:
        """Read what was recorded before the first look; False if there is more."""
        while window.until < window.tail:
            if perf_counter() > until:
                return False
            end = min(window.until + STEP_S, window.tail)
            found = await self._store.exposures(
                name, since=window.until, until=end, below=window.outcomes.below
            )
            await asyncio.to_thread(window.take, found)
            window.until = end
        return True

    async def _read_pages(self, name: str, window: _Window, now: float, until: float) -> bool:
        """Read the pages that are new; False if there are more."""
        window.looked = min(window.looked, now)
        recent = await self._store.page_numbers(name, since=window.recent)
        new = [number for number in recent if number not in window.pages]
        for start in range(0, len(new), STEP_PAGES):
            if perf_counter() > until:
                return False
            some = new[start : start + STEP_PAGES]
            found = await self._store.page_exposures(
                name, some, since=window.tail, below=window.outcomes.below
            )
            await asyncio.to_thread(window.take, found)
            window.pages.update(some)
        # Older ones are not listed again, so their numbers need not be kept.
        window.pages.intersection_update(recent)
        window.recent, window.looked = max(window.recent, now - MAX_LATENESS_S), now
        return True
