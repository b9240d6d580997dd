"""From the hot path to the store: a bounded ring in memory, written in batches by another task.

The hot path only appends. When the store is away the batches wait, up to the capacity; beyond it what
comes new is dropped and counted by reason. ``offered = written + dropped + waiting`` at any moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Literal, Protocol, TypeVar

from gateway.record.events import Outcome, Shadowed
from gateway.state.base import StoreUnavailable
from gateway.state.outage import StoreOutage

log = logging.getLogger("turnout.record")

T = TypeVar("T")
DropReason = Literal["full", "closed", "store_unavailable"]
Sink = Callable[[Sequence[Outcome]], None]
"""Gets each outcome once, a batch at a time, whether the store takes it or not; in a background thread."""

Index = Callable[[Sequence[Outcome]], Awaitable[None]]
"""Gets each batch before the store does, as often as it is tried; raises StoreUnavailable."""

BATCH: Final = 500
"""Rows in one call of the store or of a sink. Whatever is done to all of them in one step of the
interpreter (turning them on their side, say) keeps the event loop from its turn for 0.1 ms at most."""
_LONGEST_PAUSE: Final = 5.0


class Ring(Generic[T]):
    """What waits to be written: a fresh part that is appended to, and an older one being written."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.fresh: list[T] = []
        self.older: list[T] = []
        self.room = capacity
        """How long ``fresh`` may get."""
        self.taken = 0
        self.told = 0
        """How many of ``older`` the sinks have got."""
        self.written = 0
        self.dropped: Counter[DropReason] = Counter()

    def offer(self, item: T) -> None:
        if len(self.fresh) < self.room:
            self.fresh.append(item)
        else:
            self.dropped["closed" if self.room < 0 else "full"] += 1

    def take(self) -> None:
        """Moves what is fresh to the older part."""
        new, self.fresh = self.fresh, []
        self.taken += len(new)
        self.older += new
        self._make_room()

    def untold(self) -> Sequence[T]:
        """The next batch for the sinks; it counts as told."""
        batch = self.older[self.told : self.told + BATCH]
        self.told += len(batch)
        return batch

    def wrote(self, number: int) -> None:
        del self.older[:number]
        self.told -= number
        self.written += number
        self._make_room()

    def _make_room(self) -> None:
        if self.room >= 0:
            self.room = self.capacity - len(self.older)

    def shut(self) -> None:
        self.room = -1

    def abandon(self) -> None:
        """Gives up what could not be written."""
        self.dropped["store_unavailable"] += len(self.older)
        self.older.clear()
        self.told = 0

    @property
    def waiting(self) -> int:
        return len(self.fresh) + len(self.older)

    @property
    def offered(self) -> int:
        return self.taken + len(self.fresh) + sum(self.dropped.values()) - self.dropped["store_unavailable"]


class Appends(Protocol):
    """The part of a `Store` that the recorder writes to."""

    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None: ...


class Recorder:
    """Takes outcomes (or plain tuples of an `Outcome`'s fields) and shadows' answers from one event loop.

    ``capacity``: how many of each may wait. ``interval``: seconds between writes. ``sinks`` get every
    batch of outcomes on its way.
    """

    def __init__(
        self,
        store: Appends,
        *,
        capacity: int = 65_536,
        interval: float = 0.25,
        sinks: Sequence[Sink] = (),
        outage: StoreOutage | None = None,
        index: Index | None = None,
    ) -> None:
        self._store = store
        self._index = index
        self._interval = interval
        self._sinks = tuple(sinks)
        self._outage = outage or StoreOutage()
        self._outcomes: Ring[Outcome] = Ring(capacity)
        self._shadowed: Ring[Shadowed] = Ring(capacity)
        self._flushing = asyncio.Lock()
        self._pause = interval
        self.sink_errors = 0
        self.offer = self._outcomes.offer
        """``offer(outcome)``: the hot path's only call. Never waits, never raises."""
        self.offer_shadowed = self._shadowed.offer

    # Figures ------------------------------------------------------------------------------------
    @property
    def offered(self) -> int:
        return self._outcomes.offered + self._shadowed.offered

    @property
    def written(self) -> int:
        return self._outcomes.written + self._shadowed.written

    @property
    def waiting(self) -> int:
        return self._outcomes.waiting + self._shadowed.waiting

    @property
    def dropped(self) -> Counter[DropReason]:
        """By reason."""
        return self._outcomes.dropped + self._shadowed.dropped

    @property
    def counts(self) -> Counter[str]:
        """``offered``, ``written``, ``dropped``: figures that only grow."""
        return Counter(offered=self.offered, written=self.written, dropped=self.dropped.total())

    # Writing ------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Writes what is offered, until cancelled."""
        while True:
            await asyncio.sleep(self._pause)
            try:
                await self.flush()
            except Exception:
                self._pause = min(max(self._pause * 2, 0.1), _LONGEST_PAUSE)
                log.exception("writing the record failed; it is tried again")

    async def flush(self) -> bool:
        """Writes all that waits; False when the store did not take it (it then goes on waiting)."""
        async with self._flushing:
            self._outcomes.take()
            self._shadowed.take()
            while batch := self._outcomes.untold():
                await asyncio.to_thread(self._tell_sinks, batch)
            try:
                await self._write()
            except StoreUnavailable as error:
                self._outage.failed("record", error)
                self._pause = min(max(self._pause * 2, 0.1), _LONGEST_PAUSE)
                return False
            self._outage.worked("record")
            self._pause = self._interval
            return True

    async def _write(self) -> None:
        while self._outcomes.older or self._shadowed.older:
            outcomes = self._outcomes.older[:BATCH]
            shadowed = self._shadowed.older[:BATCH]
            if self._index is not None and outcomes:
                await self._index(outcomes)  # first, so that no outcome of the record is without its entry
            await self._store.append(outcomes, shadowed)
            self._outcomes.wrote(len(outcomes))
            self._shadowed.wrote(len(shadowed))

    def _tell_sinks(self, outcomes: Sequence[Outcome]) -> None:
        for sink in self._sinks:
            try:
                sink(outcomes)
            except Exception:
                self.sink_errors += 1
                log.exception("a sink of the record failed; the record itself goes on")

    async def _flush_patiently(self) -> None:
        while True:
            if await self.flush():
                return
            await asyncio.sleep(0.1)

    async def close(self, *, patience: float = 5.0) -> None:
        """Takes nothing more and writes what waits; gives up, and counts it, after ``patience`` seconds."""
        self._outcomes.shut()
        self._shadowed.shut()
        try:
            async with asyncio.timeout(patience):
                await self._flush_patiently()
        except TimeoutError:
            log.error("%d rows of the record could not be written and are lost", self.waiting)
        self._outcomes.take()
        self._outcomes.abandon()
        self._shadowed.take()
        self._shadowed.abandon()


class Unrecorded:
    """Where outcomes go with ``record: {enabled: false}``: into the metrics alone."""

    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        """Nothing is kept."""
