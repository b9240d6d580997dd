"""The path of outcomes from requests to the store: a bounded queue in memory, written in batches.

A request only appends. If the store is away, outcomes wait up to the capacity; beyond it new ones are dropped and
counted by reason. ``offered = written + dropped + waiting`` at any moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from gateway.ingest.ring import DropReason, Ring
from gateway.record.events import Batch, Outcome, Shadowed
from gateway.state.base import StoreUnavailable
from gateway.state.outage import StoreOutage

log = logging.getLogger("turnout.record")

Sink = Callable[[Sequence[Outcome]], None]
"""Receives each outcome once, in batches, whether or not the store takes it; runs in a background thread."""

Index = Callable[[Sequence[Outcome]], Awaitable[None]]
"""Receives each batch before each attempt to store it. Raises StoreUnavailable."""

WRITE_BATCHES: Final = 4
"""Batches in one call of the store, since a transaction costs as much as 200 rows."""
_MIN_RETRY_PAUSE_S: Final = 0.1
_MAX_RETRY_PAUSE_S: Final = 5.0


class Appends(Protocol):
    """The part of a `Store` that the recorder writes to."""

    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None: ...


class Recorder:
    """Writes outcomes (or plain tuples of an `Outcome`'s fields) and shadow results of one event loop."""

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
        """Set up the queues; `run` writes them.

        Args:
            store: Destination of both kinds of rows.
            capacity: Maximum number of each kind that may wait.
            interval: Seconds between writes.
            sinks: Receive each batch of outcomes as well.
            outage: Reports that the store is away.
            index: Receives each batch before the store does.
        """
        self._store = store
        self._index = index
        self._interval = interval
        self._sinks = tuple(sinks)
        self._outage = outage or StoreOutage()
        self._outcomes: Ring[Outcome] = Ring(capacity, Batch)
        self._shadowed: Ring[Shadowed] = Ring(capacity, list)
        self._flushing = asyncio.Lock()
        self._pause = interval
        self.sink_errors = 0
        self.offer = self._outcomes.offer
        """``offer(outcome)``: what a request calls. Does not wait or raise."""
        self.offer_batch = self._outcomes.offer_batch
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
        """Dropped rows by reason."""
        return self._outcomes.dropped + self._shadowed.dropped

    @property
    def counts(self) -> Counter[str]:
        """Totals of offered, written and dropped rows."""
        return Counter(offered=self.offered, written=self.written, dropped=self.dropped.total())

    # Writing ------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Writes periodically until cancelled."""
        while True:
            await asyncio.sleep(self._pause)
            try:
                await self.flush()
            except Exception:
                self._pause = min(max(self._pause * 2, _MIN_RETRY_PAUSE_S), _MAX_RETRY_PAUSE_S)
                log.exception("writing the record failed; retrying")

    async def flush(self) -> bool:
        """Writes all that waits; False if the store is away, and the rows go on waiting."""
        async with self._flushing:
            self._outcomes.take()
            self._shadowed.take()
            while batch := self._outcomes.untold():
                await asyncio.to_thread(self._tell_sinks, batch)
            try:
                await self._write()
            except StoreUnavailable as error:
                self._outage.failed("record", error)
                self._pause = min(max(self._pause * 2, _MIN_RETRY_PAUSE_S), _MAX_RETRY_PAUSE_S)
                return False
            self._outage.worked("record")
            self._pause = self._interval
            return True

    async def _write(self) -> None:
        while self._outcomes.older or self._shadowed.older:
            batches, others = self._outcomes.older[:WRITE_BATCHES], self._shadowed.older[:1]
            shadowed, unwritable = others[0] if others else (), (0, 0)
            try:
                await self._append(Batch.joined(batches) if batches else (), shadowed)
            except StoreUnavailable:
                raise
            except Exception:
                outcomes = [row for batch in batches for row in batch]
                unwritable = await self._append_each(outcomes, shadowed)
                log.exception("%d rows of the record can't be written and are dropped", sum(unwritable))
            self._outcomes.wrote(len(batches), unwritable[0])
            self._shadowed.wrote(len(others), unwritable[1])

    async def _append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed]) -> None:
        if self._index is not None and outcomes:
            await self._index(outcomes)  # first, so that no outcome of the record is without its entry
        await self._store.append(outcomes, shadowed)

    async def _append_each(
        self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed]
    ) -> tuple[int, int]:
        """Write a batch row by row; returns how many outcomes and shadow results can't be written.

        One row must not hold up all later ones. Raises the last failure if no row can be written: then the fault is
        not in the rows.
        """
        failures = [await self._failure([row], []) for row in outcomes]
        failures += [await self._failure([], [row]) for row in shadowed]
        if None not in failures and failures[-1] is not None:
            raise failures[-1]
        lost = [failure is not None for failure in failures]
        return sum(lost[: len(outcomes)]), sum(lost[len(outcomes) :])

    async def _failure(self, outcomes: list[Outcome], shadowed: list[Shadowed]) -> Exception | None:
        try:
            await self._append(outcomes, shadowed)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - logged once for all rows
            return error
        return None

    def _tell_sinks(self, outcomes: Sequence[Outcome]) -> None:
        for sink in self._sinks:
            try:
                sink(outcomes)
            except Exception:
                self.sink_errors += 1
                log.exception("a consumer of the record failed; the record itself continues")

    async def _flush_until_written(self) -> None:
        while True:
            if await self.flush():
                return
            await asyncio.sleep(0.1)

    async def close(self, *, timeout: float = 5.0) -> None:
        """Refuses new rows and writes those that wait; drops and counts them after ``timeout`` seconds."""
        self._outcomes.shut()
        self._shadowed.shut()
        try:
            async with asyncio.timeout(timeout):
                await self._flush_until_written()
        except TimeoutError:
            log.error("%d rows of the record could not be written and are lost", self.waiting)
        except Exception:  # the spool and the store must still be closed
            log.exception("%d rows of the record could not be written and are lost", self.waiting)
        self._outcomes.take()
        self._outcomes.abandon()
        self._shadowed.take()
        self._shadowed.abandon()


class NullOutcomeSink:
    """Discards outcomes, for ``record: {enabled: false}``; they still reach the metrics."""

    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        """Discards the outcomes."""
