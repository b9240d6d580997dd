"""One timer for the nearest deadline of all waiting requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final
from weakref import ref

from backends.batching.entry import Entry

MIN_PURGE_ENTRIES: Final = 64


class Deadlines:
    """Calls ``expire`` for each entry that still waits at its deadline."""

    def __init__(self, expire: Callable[[Entry], None]) -> None:
        self._expire = expire
        # Weak: a request that had its response long before its deadline must not keep its tensors until then.
        self._heap: list[tuple[int, int, ref[Entry]]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._purge_at = MIN_PURGE_ENTRIES

    def add(self, entry: Entry) -> None:
        """``entry`` has a deadline."""
        if len(self._heap) >= self._purge_at:
            self._purge()
        item = entry.deadline, next(self._order), ref(entry)
        heappush(self._heap, item)
        if self._heap[0] is item:
            self._arm()

    def _purge(self) -> None:
        """Forgets entries that left the queue in time; amortised over as many additions."""
        self._heap = [item for item in self._heap if _waiting(item[2])]
        heapify(self._heap)
        self._purge_at = max(MIN_PURGE_ENTRIES, 2 * len(self._heap))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(self._heap[0][0] - time.perf_counter_ns(), 0) / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = time.perf_counter_ns()
        while self._heap and (self._heap[0][0] <= now or not _waiting(self._heap[0][2])):
            entry = _waiting(heappop(self._heap)[2])
            if entry is not None:
                self._expire(entry)
        if self._heap:
            self._arm()


def _waiting(reference: ref[Entry]) -> Entry | None:
    """The entry, if it has not left the queue."""
    entry = reference()
    return None if entry is None or entry.taken else entry
