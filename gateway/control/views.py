"""Views that pages of the dashboard watch: each is made once for all its watchers, who get the changes.

A view is a mapping; a page first gets all of it, then the entries that changed (null: removed). Of an entry of the
list of routes, which is a mapping itself, only the fields that changed are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from time import perf_counter, process_time
from typing import Any, Final

from gateway.errors import TurnoutError
from gateway.internal_errors import INTERNAL_ERRORS
from gateway.json_text import compact
from gateway.state.base import StoreUnavailable

Json = dict[str, Any]
Make = Callable[[], Awaitable[Mapping[str, Any]]]

log = logging.getLogger("turnout.control")

INTERVAL_S: Final = 1.0
LIST_INTERVAL_S: Final = 2.0
"""Of the list of routes, whose figures are those of minutes; events change it immediately."""
MAKING_TIME_FACTOR: Final = 80.0
"""If making all views that are watched takes t seconds of CPU, each is made again after 80 t at the earliest, unless an
event changes it: however many pages are open, their views take an eightieth of a core."""
MAX_MAKING_SHARE: Final = 0.1
"""Part of the time for which they may keep a store busy, or wait for CPU that others take."""
MAX_INTERVAL_S: Final = 15.0
"""Each is made this often at least: beyond t = 0.19 s they take t / 15 of a core."""
MIN_INTERVAL_S: Final = 0.1
SETTLING_S: Final = 3.0
"""For this long after an event a view is made each second, and with each allocation: shares follow the event that tells
of a step, and other processes learn of both a moment later than of the event."""
VOLATILE: Final = frozenset({"as_of"})
"""Entries that are sent only with others, since they always change."""


class View:
    """One view, made while a page watches it."""

    def __init__(self, make: Make, interval: Callable[[], float], *, nested: bool = False) -> None:
        """``interval``: seconds from one making to the next; ``nested``: of an entry only the fields that changed are
        sent."""
        self._make = make
        self._interval = interval
        self.nested = nested
        self._took = (0.0, 0.0)
        self._task: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._settled = 0.0
        self._changed = asyncio.Condition()
        self.watchers = 0
        self.version = 0
        self.current: Mapping[str, Any] = {}
        self.before: Mapping[str, Any] = {}
        self.patch: Json = {}
        """From ``before`` to ``current``."""
        self._framed: tuple[Json, bytes] = ({}, b"")
        self.error: Exception | None = None

    @property
    def cost(self) -> float:
        """Seconds of CPU of the cheaper of the last two makings: the first one reads what later ones find cached."""
        return min(self._took)

    def refresh(self) -> None:
        """Make the view now, and while things settle."""
        self._settled = perf_counter() + SETTLING_S
        self._due.set()

    def follow(self) -> None:
        """Make the view now if things settle: an allocation was published."""
        if perf_counter() < self._settled:
            self._due.set()

    async def watch(self) -> AsyncGenerator[Mapping[str, Any]]:
        """Yield the view now and after each change. Raises what making it raised."""
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
        while self._task is asyncio.current_task():  # redis-py may swallow that it was cancelled
            self._due.clear()
            began, cpu = perf_counter(), process_time()
            await self._step()
            waited = (perf_counter() - began) / (MAX_MAKING_SHARE * MAKING_TIME_FACTOR)
            self._took = (self._took[1], max(process_time() - cpu, waited))
            await asyncio.sleep(MIN_INTERVAL_S)
            interval = INTERVAL_S if perf_counter() < self._settled else self._interval()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), interval - MIN_INTERVAL_S)

    async def _step(self) -> None:
        try:
            made, self.error = await self._make(), None
        except (StoreUnavailable, TurnoutError) as error:
            made, self.error = self.current, error
        except Exception as error:  # noqa: BLE001 - it is made again in a second
            INTERNAL_ERRORS.report(error)
            return
        patch = changes(self.current, made, nested=self.nested)
        if self.error is None and self.version and not patch:
            return
        async with self._changed:
            self.before, self.current, self.patch = self.current, made, patch
            self.version += 1
            self._changed.notify_all()

    def since(self, sent: Mapping[str, Any] | None) -> Json:
        """Return what a watcher needs that has been sent ``sent``; None: nothing yet."""
        if sent is None:
            return dict(self.current)
        return self.patch if sent is self.before else changes(sent, self.current, nested=self.nested)

    def framed(self, patch: Json) -> bytes:
        """Return the server-sent event with ``patch``; that of all watchers of everything is written once."""
        if patch is not self.patch:
            return _framed(patch)
        if self._framed[0] is not patch:
            self._framed = (patch, _framed(patch))
        return self._framed[1]


def _framed(patch: Json) -> bytes:
    return b"event: view\ndata: %b\n\n" % compact(patch)


def changes(before: Mapping[str, Any], after: Mapping[str, Any], *, nested: bool = False) -> Json:
    """Return the entries of ``after`` that differ from ``before``, or if ``nested``, the fields of entries; empty if
    only `VOLATILE` ones do."""
    patch: Json = {}
    for key, value in after.items():
        old = before.get(key)
        if nested and isinstance(old, Mapping) and isinstance(value, Mapping):
            if part := changes(old, value):
                patch[key] = part
        elif key not in before or old != value:
            patch[key] = value
    patch |= dict.fromkeys(before.keys() - after.keys())
    return patch if patch.keys() - VOLATILE else {}


class Views:
    """The views that pages watch, by name."""

    def __init__(self) -> None:
        self._views: dict[str, View] = {}

    def _interval(self) -> float:
        cost = sum(view.cost for view in self._views.values())
        return min(MAX_INTERVAL_S, max(INTERVAL_S, MAKING_TIME_FACTOR * cost))

    def _list_interval(self) -> float:
        return max(LIST_INTERVAL_S, self._interval())

    def refresh(self, route: str) -> None:
        """Make the views of ``route`` ("": of all routes) now, and while things settle."""
        for view in self._of(route):
            view.refresh()

    def follow(self, route: str) -> None:
        """Make the views of ``route`` that settle."""
        for view in self._of(route):
            view.follow()

    def _of(self, route: str) -> list[View]:
        names = ("routes", f"route:{route}")
        return [view for name, view in self._views.items() if not route or name in names]

    async def patches(
        self, name: str, make: Make, allowed: Callable[[str], bool] | None = None, *, nested: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield the view as server-sent events; ``allowed`` filters entries by name."""
        interval = self._list_interval if nested else self._interval
        view = self._views.setdefault(name, View(make, interval, nested=nested))
        sent: Mapping[str, Any] | None = None
        try:
            # Closed here: left to the garbage collector, it would still count as a watcher below.
            async with contextlib.aclosing(view.watch()) as watching:
                async for found in watching:
                    patch = view.since(sent)
                    if allowed is not None:
                        patch = {key: value for key, value in patch.items() if allowed(key)}
                    first, sent = sent is None, found
                    if patch or first:
                        yield view.framed(patch)
        finally:
            if not view.watchers:
                self._views.pop(name, None)


async def merged(*streams: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what ``streams`` yield, in order of arrival, until the first of them ends."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=16)

    async def forward(stream: AsyncIterator[bytes]) -> None:
        try:
            async for piece in stream:
                await queue.put(piece)
        except (StoreUnavailable, TurnoutError) as error:
            log.info("a page's stream ended: %s", error)
        except Exception:  # without the end below the page would never end
            log.exception("a page's stream failed")
        await queue.put(None)

    tasks = [asyncio.create_task(forward(stream)) for stream in streams]
    try:
        while (piece := await queue.get()) is not None:
            yield piece
    finally:
        for task in tasks:
            task.cancel()
