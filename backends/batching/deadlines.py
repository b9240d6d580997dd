"""One timer for the nearest deadline of all waiting requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from backends.batching.entry import Entry

MIN_PURGE_ENTRIES: Final = 64


class Deadlines:
    """Calls ``expire`` for each entry that still waits at its deadline."""

    def __init__(self, expire: Callable[[Entry], None]) -> None:
        self._expire = expire
        self._heap: list[tuple[int, int, Entry]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._purge_at = MIN_PURGE_ENTRIES

    def add(self, entry: Entry) -> None:
        """``entry`` has a deadline."""
        if len(self._heap) >= self._purge_at:
            self._purge()
        heappush(self._heap, (entry.deadline, next(self._order), entry))
        if self._heap[0][2] is entry:
            self._arm()

    def _purge(self) -> None:
        """Forgets entries that left the queue in time; amortised over as many additions."""
        self._heap = [item for item in self._heap if not item[2].taken]
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
        while self._heap and (self._heap[0][2].taken or self._heap[0][0] <= now):
            entry = heappop(self._heap)[2]
            if not entry.taken:
                self._expire(entry)
        if self._heap:
            self._arm()
