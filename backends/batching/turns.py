"""When the event loop looks at a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backends.batching.queue import Queue


class Turns:
    """Calls ``turn`` at the end of the event loop's turn, or once the queue's delay has passed."""

    def __init__(self, queue: Queue, turn: Callable[[], None]) -> None:
        self._queue = queue
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """The queue has a new entry, or there is room for a batch."""
        if self._soon is not None:
            return
        if not self._queue.delay or self._queue.full or self._queue.closed:
            self._soon = self._loop.call_soon(self._run)
        elif self._timer is None:
            self._timer = self._loop.call_later(self._queue.delay / 1e9, self._run)

    def cancel(self) -> None:
        """Forgets what is scheduled."""
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._soon = self._timer = None

    def _run(self) -> None:
        self.cancel()
        self._turn()
