"""A request that has no decision yet, because its body decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.dataplane.exchange.states import READING
from gateway.dataplane.request.json_body import JsonBody
from gateway.dataplane.timed import Timed


class BodyWait(Timed):
    """Waits for the body to arrive, then for another process to read it."""

    __slots__ = ("_expired", "deadline", "reading", "state")

    def __init__(self, deadline: float, expired: Callable[[], None]) -> None:
        """``expired`` is called when ``deadline`` has passed."""
        self.state = READING
        self.deadline = deadline
        self.reading: asyncio.Future[JsonBody] | None = None
        self._expired = expired

    def expire(self, now: float) -> None:
        self._expired()

    def cancel(self) -> None:
        """Stops the reading: the body is not needed any more."""
        if self.reading is not None:
            self.reading.cancel()
