"""Events: told to the store, and waited for by streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from gateway.clock import Clock
from gateway.state import history
from gateway.state.base import Event, StoreUnavailable
from gateway.state.store import DocumentStore


class Events:
    """The events of one process and, through the store, of all that share it."""

    def __init__(self, store: DocumentStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._news = asyncio.Event()
        self._ending = False

    async def emit(self, kind: str, route: str, data: Mapping[str, Any]) -> Event:
        """Adds an event; `StoreUnavailable` while the store is away."""
        event = await self._store.add_event(time=self._clock(), kind=kind, route=route, data=json.dumps(data))
        await history.keep(self._store, event)
        self.wake()
        return event

    async def emit_quietly(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        """`emit`; the event is lost while the store is away."""
        with contextlib.suppress(StoreUnavailable):
            await self.emit(kind, route, data)

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
