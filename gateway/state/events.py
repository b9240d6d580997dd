"""Events: told to the store, and waited for by streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.clock import Clock
from gateway.state import history
from gateway.state.base import Event, StoreUnavailable
from gateway.state.store import DocumentStore

MAX_LATE_STEPS: Final = 200
"""Steps that a process keeps for a store that is away; beyond it the oldest are lost."""


@dataclass(slots=True)
class _Step:
    """An event to add."""

    time: float
    kind: str
    route: str
    data: str
    event: Event | None = None
    """As the store has it, once it does; it may still be missing in the history."""


class Events:
    """The events of one process and, through the store, of all that share it."""

    def __init__(self, store: DocumentStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._news = asyncio.Event()
        """Set when something comes; then another takes its place."""
        self._ending = False
        self._late: deque[_Step] = deque(maxlen=MAX_LATE_STEPS)
        """Steps of routes that the store has not taken, oldest first."""
        self._adding = asyncio.Lock()

    async def emit(self, kind: str, route: str, data: Mapping[str, Any]) -> Event:
        """Adds an event; `StoreUnavailable` while the store is away."""
        return await self._add(_Step(self._clock(), kind, route, json.dumps(data)))

    async def emit_quietly(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        """`emit`; while the store is away, a step of a route is kept for `catch_up`, and other events are lost.

        Steps are added in order. A store that took one and could not say so may have its event twice.
        """
        event = _Step(self._clock(), kind, route, json.dumps(data))
        with contextlib.suppress(StoreUnavailable):
            if kind not in history.STEPS:
                await self._add(event)
            else:
                self._late.append(event)
                await self.catch_up()

    async def catch_up(self) -> None:
        """Adds the steps that the store has not taken; `StoreUnavailable` while it is away."""
        async with self._adding:
            while self._late:
                step = self._late.popleft()
                try:
                    await self._add(step)
                except (StoreUnavailable, asyncio.CancelledError):
                    if len(self._late) < MAX_LATE_STEPS:  # a full deque would lose its newest
                        self._late.appendleft(step)
                    raise

    async def _add(self, step: _Step) -> Event:
        if step.event is None:
            step.event = await self._store.add_event(
                time=step.time, kind=step.kind, route=step.route, data=step.data
            )
            self.wake()
        await history.keep(self._store, step.event)
        return step.event

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
