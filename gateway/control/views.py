"""What pages watch: each view is made once for all who watch it, and a page is sent what changed.

A view is a mapping; a page first gets all of it, then the entries that changed (null: gone).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Final

from gateway.errors import TurnoutError
from gateway.state.base import StoreUnavailable

Json = dict[str, Any]
Make = Callable[[], Awaitable[Mapping[str, Any]]]

log = logging.getLogger("turnout.control")

INTERVAL_S: Final = 1.0
EASE: Final = 40.0
"""A view that took t seconds to make is made again after 40 t at the earliest, but for news."""
MAX_INTERVAL_S: Final = 5.0
MIN_INTERVAL_S: Final = 0.1
QUIET: Final = frozenset({"as_of"})
"""Entries that are sent with others only: they change all the time."""


class View:
    """One view, made as long as somebody watches it."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._changed = asyncio.Condition()
        self.watchers = 0
        self.version = 0
        self.current: Mapping[str, Any] = {}
        self.error: Exception | None = None

    def hurry(self) -> None:
        """Makes it now rather than when it is due."""
        self._hurry.set()

    async def watch(self) -> AsyncIterator[Mapping[str, Any]]:
        """The view now, and whenever it changed. Raises what making it raised."""
        self.watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        seen = 0
        try:
            while True:
                async with self._changed:
                    while self.version in (0, seen):
                        await self._changed.wait()
                seen = self.version
                if self.error is not None:
                    raise self.error
                yield self.current
        finally:
            self.watchers -= 1
            if not self.watchers and self._task is not None:
                self._task.cancel()
                self._task, self.version = None, 0

    async def _run(self) -> None:
        while True:
            self._hurry.clear()
            began = perf_counter()
            await self._step()
            took = perf_counter() - began
            await asyncio.sleep(MIN_INTERVAL_S)
            rest = min(MAX_INTERVAL_S, max(INTERVAL_S, EASE * took)) - MIN_INTERVAL_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), rest)

    async def _step(self) -> None:
        try:
            made, self.error = await self._make(), None
        except (StoreUnavailable, TurnoutError) as error:
            made, self.error = self.current, error
        except Exception:
            log.exception("a view could not be made; it is tried again")
            return
        if self.error is None and self.version and not changes(self.current, made):
            return
        async with self._changed:
            self.current = made
            self.version += 1
            self._changed.notify_all()


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Json:
    """The entries of ``after`` that ``before`` has not; nothing where only `QUIET` ones differ."""
    patch = {key: value for key, value in after.items() if key not in before or before[key] != value}
    patch |= dict.fromkeys(before.keys() - after.keys())
    return patch if patch.keys() - QUIET else {}


class Views:
    """All views that are watched, by name."""

    def __init__(self) -> None:
        self._views: dict[str, View] = {}

    def hurry(self, route: str) -> None:
        """Something happened to ``route`` ("": to all)."""
        for name, view in self._views.items():
            if not route or name in ("routes", f"route:{route}"):
                view.hurry()

    async def patches(
        self, name: str, make: Make, allowed: Callable[[str], bool] = lambda _: True
    ) -> AsyncIterator[bytes]:
        """Server-sent events of the view: what ``allowed`` (of an entry's name) lets through."""
        view = self._views.setdefault(name, View(make))
        sent: Mapping[str, Any] = {}
        try:
            async for found in view.watch():
                shown = {key: value for key, value in found.items() if allowed(key)}
                patch = changes(sent, shown) if sent else shown
                sent = shown
                if patch:
                    text = json.dumps(patch, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
                    yield f"event: view\ndata: {text}\n\n".encode()
        finally:
            if not view.watchers:
                self._views.pop(name, None)


async def merged(*streams: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What all ``streams`` say, as it comes, until the first of them ends."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=16)

    async def forward(stream: AsyncIterator[bytes]) -> None:
        try:
            async for piece in stream:
                await queue.put(piece)
        except (StoreUnavailable, TurnoutError) as error:
            log.info("a page's stream ended: %s", error)
        await queue.put(None)

    tasks = [asyncio.create_task(forward(stream)) for stream in streams]
    try:
        while (piece := await queue.get()) is not None:
            yield piece
    finally:
        for task in tasks:
            task.cancel()
