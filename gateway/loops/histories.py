"""The histories of routes get the steps that the process which took them did not live to add, or could not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.state import history, shapes
from gateway.state.store import DocumentStore

KIND: Final = shapes.kind("histories", {"after": int})
HISTORIES_S: Final = 10.0
"""Seconds between two looks."""
_ALL_ROUTES: Final = ""
_MAX_READ_AGAIN: Final = 1000
"""Events that a new leader reads once more; a bandit adds one each second."""
_EVENTS_AT_ONCE: Final = 100
"""Requests wait while a page of them is decoded."""


@dataclass(slots=True)
class Histories:
    """Follows the events of the store, in the leader."""

    store: DocumentStore
    leads: Callable[[], bool]
    """Whether this process is the leader."""
    _after: int | None = None
    """The last event that was looked at; None before the first look."""

    async def step(self) -> None:
        """Add to the histories what they lack of new events. Raises StoreUnavailable."""
        if not self.leads():
            self._after = None  # another process goes on
            return
        version, text = await self.store.load(KIND, _ALL_ROUTES) or (0, '{"after": 0}')
        stored = json.loads(text)["after"]
        after = self._after if self._after is not None else stored
        kept = False
        while events := await self.store.events(after=after, limit=_EVENTS_AT_ONCE):
            for event in events:
                kept |= event.kind in history.STEPS
                await history.keep(self.store, event)
            self._after = after = events[-1].id
        if kept or after - stored >= _MAX_READ_AGAIN:
            await self.store.save(KIND, _ALL_ROUTES, json.dumps({"after": after}), expected=version)
