"""The queue of one version: filled by the event loop, emptied in batches by the instances."""

from __future__ import annotations

import threading
import time
from collections import deque

from backends.batching.entry import Entry
from backends.errors import Unavailable


class Queue:
    """A bounded queue, safe between the event loop and the instances' threads.

    Args:
        max_rows: Maximum rows of a batch.
        delay: Nanoseconds that a batch which is not full waits for more rows.
        limit: Maximum number of waiting requests.
    """

    def __init__(self, max_rows: int, delay: int, limit: int) -> None:
        self.delay = delay
        self._max_rows = max_rows
        self._limit = limit
        self._order: deque[Entry] = deque()
        """All entries by arrival. The first one waits; others may have been taken as part of a batch."""
        self._lanes: dict[object, deque[Entry]] = {}
        """The same entries by key, so that a batch never walks past entries of other shapes."""
        self._count = 0
        self._rows = 0
        self._idle = 0
        self._closed: str = ""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def __len__(self) -> int:
        return self._count

    @property
    def closed(self) -> bool:
        """Whether new entries are refused."""
        return bool(self._closed)

    @property
    def full(self) -> bool:
        """Whether the waiting rows fill a batch."""
        return self._rows >= self._max_rows

    def put(self, entry: Entry) -> None:
        """Raises Unavailable when the queue is full or closed."""
        with self._lock:
            if self._closed:
                raise Unavailable(self._closed)
            if self._count >= self._limit:
                raise Unavailable(
                    f"{self._limit} requests are waiting already; try again as Retry-After says"
                )
            self._order.append(entry)
            lane = self._lanes.get(entry.key)
            if lane is None:
                self._lanes[entry.key] = deque((entry,))
            else:
                lane.append(entry)
            self._count += 1
            self._rows += entry.rows
            # A busy instance looks by itself when it is done, so only an idle one is woken.
            if self._idle:
                self._changed.notify()

    def discard(self, entry: Entry) -> None:
        """Drops an entry whose outcome is no longer needed, if it still waits."""
        with self._lock:
            if entry.taken:
                return
            self._leave(entry)
            self._order.remove(entry)
            self._forget_taken()
            lane = self._lanes[entry.key]
            lane.remove(entry)
            if not lane:
                del self._lanes[entry.key]

    def close(self, reason: str = "this version is being unloaded; send the request again") -> None:
        """Refuses new entries; waiting ones are still handed out, then `take` returns None."""
        with self._lock:
            self._closed = self._closed or reason
            self._changed.notify_all()

    def reopen(self) -> None:
        """Takes new entries again."""
        with self._lock:
            self._closed = ""

    def take(self) -> list[Entry] | None:
        """Blocks until there is a batch; None once the queue is closed and empty."""
        with self._lock:
            self._idle += 1
            try:
                while not self._count:
                    if self._closed:
                        return None
                    self._changed.wait()
                self._wait_for_more()
            finally:
                self._idle -= 1
            return self._gather()

    def take_now(self) -> list[Entry]:
        """The next batch without waiting; empty if nothing waits."""
        with self._lock:
            return self._gather()

    def _gather(self) -> list[Entry]:
        """The oldest entry, and the next ones of its key as far as their rows fit."""
        if not self._count:
            return []
        key = self._order[0].key
        lane = self._lanes[key]
        batch: list[Entry] = []
        rows = 0
        while lane and (not batch or rows + lane[0].rows <= self._max_rows):
            entry = lane.popleft()
            rows += entry.rows
            self._leave(entry)
            batch.append(entry)
        if not lane:
            del self._lanes[key]
        self._forget_taken()
        return batch

    def _forget_taken(self) -> None:
        order = self._order
        while order and order[0].taken:
            order.popleft()

    def _leave(self, entry: Entry) -> None:
        entry.taken = True
        self._count -= 1
        self._rows -= entry.rows

    def _wait_for_more(self) -> None:
        if not self.delay:
            return
        while self._count and not self.full and not self._closed:
            # By the oldest: it has waited since before this thread looked.
            left = self._order[0].arrived + self.delay - time.perf_counter_ns()
            if left <= 0:
                return
            self._changed.wait(left / 1e9)
