"""Events: told to the store, and waited for by streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.clock import Clock
from gateway.state import history
from gateway.state.base import Event, NewEvent, StoreUnavailable
from gateway.state.store import DocumentStore

Told = tuple[str, Mapping[str, Any]]
"""The kind of an event, and what it tells."""


class Events:
    """The events of one process and, through the store, of all that share it."""

    def __init__(self, store: DocumentStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._news = asyncio.Event()
        """Set when something comes; then another takes its place."""
        self._ending = False

    async def emit(self, kind: str, route: str, data: Mapping[str, Any]) -> Event:
        """Adds an event; `StoreUnavailable` while the store is away."""
        event = await self._store.add_event(time=self._clock(), kind=kind, route=route, data=json.dumps(data))
        await self._added([event])
        return event

    async def save(
        self,
        kind: str,
        route: str,
        text: str,
        *,
        expected: int,
        told: Iterable[Told],
        saved: Callable[[], None] = lambda: None,
    ) -> bool:
        """Save a document of ``route`` (`DocumentStore.save`), and tell of it: both are stored, or neither.

        ``saved`` is called once they are, before any reader of events is woken: what it then looks at is new.

        Raises StoreUnavailable.
        """
        now = self._clock()
        events = [NewEvent(now, what, route, json.dumps(data)) for what, data in told]
        added = await self._store.save_with_events(kind, route, text, expected=expected, events=events)
        if added is None:
            return False
        saved()
        await self._added(added)
        return True

    async def _added(self, events: Iterable[Event]) -> None:
        with contextlib.suppress(StoreUnavailable):  # they are stored; `loops.histories` adds what is missing
            for event in events:
                self.wake()
                await history.keep(self._store, event)

    async def wait(self, after: int, timeout: float) -> list[Event]:
        """Those with an id above ``after``; waits up to ``timeout`` seconds for the first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            news = self._news
            found = await self._store.events(after=after)
            left = deadline - loop.time()
            if found or left <= 0 or self._ending:
                return found
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), left)

    def wake(self) -> None:
        """Makes all that wait look again: another process may have added some."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def end(self) -> None:
        """Nothing is waited for any more."""
        self._ending = True
        self.wake()
