"""The queue of one version: filled by the event loop, emptied in batches by the instances' threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from backends.batching.entry import Entry
from backends.errors import Unavailable


class Batch(NamedTuple):
    """Entries to run together, and those whose time ran out while they waited."""

    entries: list[Entry]
    expired: list[Entry]


def gather(waiting: deque[Entry], max_rows: int, now: int) -> Batch:
    """Takes the next batch out of ``waiting``; what stays keeps its order.

    The oldest entry always goes; others go with it if their key is the same and the rows fit.
    Entries whose waiter has gone are dropped, those past their deadline go to `expired`.
    """
    batch: list[Entry] = []
    expired: list[Entry] = []
    left: list[Entry] = []
    rows = 0
    while waiting and rows < max_rows:
        entry = waiting.popleft()
        if entry.future.done():
            continue
        if entry.deadline and entry.deadline < now:
            expired.append(entry)
        elif batch and (entry.key != batch[0].key or rows + entry.rows > max_rows):
            left.append(entry)
        else:
            batch.append(entry)
            rows += entry.rows
    waiting.extendleft(reversed(left))
    return Batch(batch, expired)


class Queue:
    """Bounded, and safe between the event loop and the instances' threads.

    ``max_rows`` is the most rows of a batch, ``delay`` the nanoseconds that a batch which isn't full
    waits for more, ``limit`` the most requests that wait.
    """

    def __init__(self, max_rows: int, delay: int, limit: int) -> None:
        self._max_rows = max_rows
        self._delay = delay
        self._limit = limit
        self._waiting: deque[Entry] = deque()
        self._rows = 0
        self._idle = 0
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, entry: Entry) -> None:
        """Raises Unavailable when the queue is full or closed."""
        with self._changed:
            if self._closed:
                raise Unavailable("this version is being unloaded; send the request again")
            if len(self._waiting) >= self._limit:
                raise Unavailable(
                    f"{self._limit} requests are waiting already; try again as Retry-After says"
                )
            self._waiting.append(entry)
            self._rows += entry.rows
            # An instance that is busy looks by itself when it is done: waking nobody is cheaper.
            if self._idle:
                self._changed.notify()

    def discard(self, entry: Entry) -> None:
        """Forgets an entry that nobody waits for any more, if it is still here."""
        with self._changed:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._rows -= entry.rows

    def close(self) -> None:
        """Takes no more; what waits is still handed out, then `take` returns None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> Batch | None:
        """Blocks until there is a batch; None once the queue is closed and empty."""
        with self._changed:
            self._idle += 1
            try:
                while not self._waiting:
                    if self._closed:
                        return None
                    self._changed.wait()
                self._wait_for_more()
            finally:
                self._idle -= 1
            batch = gather(self._waiting, self._max_rows, time.perf_counter_ns())
            self._rows = sum(entry.rows for entry in self._waiting) if self._waiting else 0
            return batch

    def _wait_for_more(self) -> None:
        if not self._delay:
            return
        due = self._waiting[0].arrived + self._delay
        while self._waiting and self._rows < self._max_rows and not self._closed:
            left = due - time.perf_counter_ns()
            if left <= 0:
                return
            self._changed.wait(left / 1e9)
