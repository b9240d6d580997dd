"""What waits to be written: a bounded queue that requests append to, in a module of its own because it is compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Generic, Literal, TypeVar

from gateway.record.events import Batch
from gateway.state.paging import MAX_PAGE_ROWS

T = TypeVar("T")
DropReason = Literal["full", "closed", "store_unavailable", "unwritable"]

BATCH_ROWS: Final = MAX_PAGE_ROWS
"""Rows in one call of a sink: a step of the interpreter that handles all of them (such as transposing) holds up the
event loop for 0.2 ms at most."""


class Ring(Generic[T]):
    """A bounded queue: ``fresh``, to which requests append, and batches of at most BATCH_ROWS, which are written."""

    def __init__(self, capacity: int, batch: Callable[[list[T]], Sequence[T]]) -> None:
        """``batch`` makes a batch of rows."""
        self.capacity = capacity
        self.fresh: list[T] = []
        self.ready: list[Batch] = []
        """What was offered as batches, of any length, since the last `take`."""
        self.older: list[Sequence[T]] = []
        self.room = capacity
        """Maximum length of ``fresh``; negative once the queue is closed."""
        self.taken = 0
        """Rows moved to ``older`` so far."""
        self.told = 0
        """Batches of ``older`` that the sinks have received."""
        self.written = 0
        self.dropped: Counter[DropReason] = Counter()
        self._batch = batch
        self._left = 0
        """Rows that left ``older``."""

    def offer(self, item: T) -> None:
        if len(self.fresh) < self.room:
            self.fresh.append(item)
        else:
            self.dropped["closed" if self.room < 0 else "full"] += 1

    def offer_batch(self, batch: Batch) -> None:
        """`offer` each row."""
        room = max(0, self.room - len(self.fresh))
        if len(batch) > room:
            self.dropped["closed" if self.room < 0 else "full"] += len(batch) - room
            batch = batch[:room]
        if batch:
            self.ready.append(batch)
            self._make_room()

    def take(self) -> None:
        """Moves what was offered to the end of ``older``."""
        fresh, self.fresh = self.fresh, []
        ready, self.ready = self.ready, []
        self._add([self._batch(fresh[at : at + BATCH_ROWS]) for at in range(0, len(fresh), BATCH_ROWS)])
        if ready:
            joined = Batch.joined(ready)
            self._add([joined[at : at + BATCH_ROWS] for at in range(0, len(joined), BATCH_ROWS)])
        self._make_room()

    def _add(self, batches: Sequence[Sequence[T]]) -> None:
        self.older += batches
        self.taken += sum(map(len, batches))

    def untold(self) -> Sequence[T]:
        """The next batch for the sinks, which is then counted as received; empty if there is none."""
        if self.told == len(self.older):
            return ()
        self.told += 1
        return self.older[self.told - 1]

    def wrote(self, number: int, unwritable: int = 0) -> None:
        """Removes the first ``number`` batches: the store has them, but for the rows that can't be written."""
        rows = sum(map(len, self.older[:number]))
        del self.older[:number]
        self.told -= number
        self._left += rows
        self.written += rows - unwritable
        self.dropped["unwritable"] += unwritable
        self._make_room()

    def _make_room(self) -> None:
        if self.room >= 0:
            self.room = self.capacity - self.waiting + len(self.fresh)

    def shut(self) -> None:
        """Drops everything that is offered from now on."""
        self.room = -1

    def abandon(self) -> None:
        """Drops the rows that could not be written."""
        self.dropped["store_unavailable"] += self.taken - self._left
        self._left = self.taken
        self.older.clear()
        self.told = 0

    @property
    def waiting(self) -> int:
        return len(self.fresh) + sum(map(len, self.ready)) + self.taken - self._left

    @property
    def offered(self) -> int:
        return (
            self._left
            + self.waiting
            + sum(self.dropped.values())
            - sum(self.dropped[late] for late in ("store_unavailable", "unwritable"))
        )
