"""Events: told to the store, and waited for by streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from gateway.clock import Clock
from gateway.state import history
from gateway.state.base import Event, StoreUnavailable
from gateway.state.store import DocumentStore

MAX_LATE_STEPS: Final = 200
"""Steps that a process keeps for a store that is away; beyond it the oldest are lost."""


class Events:
    """The events of one process and, through the store, of all that share it."""

    def __init__(self, store: DocumentStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._news = asyncio.Event()
        self._ending = False
        self._late: deque[tuple[float, str, str, str]] = deque(maxlen=MAX_LATE_STEPS)
        """Steps of routes that the store could not take, oldest first."""

    async def emit(self, kind: str, route: str, data: Mapping[str, Any]) -> Event:
        """Adds an event; `StoreUnavailable` while the store is away."""
        return await self._add(self._clock(), kind, route, json.dumps(data))

    async def emit_quietly(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        """`emit`; while the store is away, a step of a route is kept for `catch_up`, and other events are lost.

        The store may have taken such a step all the same: then the events have it twice.
        """
        time, text = self._clock(), json.dumps(data)
        try:
            await self._add(time, kind, route, text)
        except StoreUnavailable:
            if kind in history.STEPS:
                self._late.append((time, kind, route, text))

    async def catch_up(self) -> None:
        """Adds what the store could not take; `StoreUnavailable` while it is away."""
        while self._late:
            await self._add(*self._late[0])
            self._late.popleft()

    async def _add(self, time: float, kind: str, route: str, data: str) -> Event:
        event = await self._store.add_event(time=time, kind=kind, route=route, data=data)
        await history.keep(self._store, event)
        self.wake()
        return event

    async def wait(self, after: int, timeout: float) -> list[Event]:
        """Those with an id above ``after``; waits up to ``timeout`` seconds for the first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            self._news.clear()
            found = await self._store.events(after=after)
            left = deadline - loop.time()
            if found or left <= 0 or self._ending:
                return found
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)

    def wake(self) -> None:
        """Makes all that wait look again: another process may have added some."""
        self._news.set()

    def end(self) -> None:
        """Nothing is waited for any more."""
        self._ending = True
        self.wake()
