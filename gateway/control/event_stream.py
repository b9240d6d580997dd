"""The events of the gateway, as `GET /-/events` streams them and as the dashboard lists them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, Final

from gateway.control.gateway_api import GatewayApi
from gateway.json_text import compact
from gateway.state.base import ALLOCATION, Event

HEARTBEAT_S: Final = 10.0
"""After this long without events a comment is sent: proxies keep the stream, and a closed connection is noticed."""
MAX_RECENT_EVENTS: Final = 1000
CHECK_S: Final = 0.5
"""Seconds between two looks whether the gateway is ready and the reader still admitted."""
MAX_PAGE_EVENTS: Final = 1000
RETRY_MS: Final = 2000


class EventStream:
    """Keeps the newest events, so that a reader can begin at the present without reading all history.

    While there are readers, one task waits for events and makes the text of each, for all of them.
    """

    def __init__(self, gateway: GatewayApi, on_event: Callable[[Event], None] = lambda _: None) -> None:
        """``on_event`` is called once with each event that comes while there are readers."""
        self._gateway = gateway
        self._on_event = on_event
        self._recent: deque[Event] = deque(maxlen=MAX_RECENT_EVENTS)
        self._allocations: deque[Event] = deque(maxlen=MAX_RECENT_EVENTS)
        """Apart: a bandit adds one each second, and the others would be gone in a quarter of an hour."""
        self._last = 0
        self._lock = asyncio.Lock()
        self._tail: deque[tuple[Event, bytes]] = deque(maxlen=MAX_RECENT_EVENTS)
        """What the task has read, each with its text."""
        self._tail_after = 0
        """All later events are in ``_tail``."""
        self._task: asyncio.Task[None] | None = None
        self._readers = 0
        self._news = asyncio.Event()
        """Set when something comes; then another takes its place."""

    async def newest(self) -> int:
        """Return the id of the newest event; 0 without any."""
        async with self._lock:
            while page := await self._gateway.store.events(after=self._last, limit=MAX_PAGE_EVENTS):
                self._recent.extend(event for event in page if event.kind != ALLOCATION)
                self._allocations.extend(event for event in page if event.kind == ALLOCATION)
                self._last = page[-1].id
        return self._last

    async def recent(self, limit: int, wanted: Callable[[Event], bool]) -> list[Event]:
        """Return the newest events that are wanted, oldest first, of the last `MAX_RECENT_EVENTS`, and as many
        allocations."""
        await self.newest()
        found = [event for kept in (self._recent, self._allocations) for event in kept if wanted(event)]
        return sorted(found, key=lambda event: event.id)[-limit:]

    async def stream(
        self,
        after: int | None,
        wanted: Callable[[Event], bool],
        closing: asyncio.Event,
        admitted: Callable[[], Awaitable[bool]],
    ) -> AsyncIterator[bytes]:
        """Yield server-sent events until ``closing`` is set or the reader stops reading or is no longer admitted.

        A gateway that is no longer ready, for example while it drains, ends its streams: another one will serve them.
        """
        newest = await self.newest()
        # A store that lost its data counts from the start again: a reader that is ahead of it would see nothing.
        last = newest if after is None else min(after, newest)
        with self._following(newest) as task:
            yield f"retry: {RETRY_MS}\n: connected\n\n".encode()
            sent_at = looked_at = perf_counter()
            while not closing.is_set() and self._gateway.ready()[0]:
                if perf_counter() - looked_at >= CHECK_S:  # events may come far more often
                    if not await admitted():
                        return
                    looked_at = perf_counter()
                news = self._news
                if task.done():
                    task.result()  # raises what ended it
                found = await self._after(last)
                if texts := [text for event, text in found if wanted(event)]:
                    yield b"".join(texts)
                    sent_at = perf_counter()
                if found:
                    last = found[-1][0].id
                silent = perf_counter() - sent_at
                if silent >= HEARTBEAT_S:
                    yield b": heartbeat\n\n"
                    sent_at = perf_counter()
                elif not found:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), min(CHECK_S, HEARTBEAT_S - silent))

    @contextlib.contextmanager
    def _following(self, newest: int) -> Iterator[asyncio.Task[None]]:
        """The task that reads events after ``newest``, while there are readers."""
        if self._task is None:
            self._tail.clear()
            self._tail_after = newest
            self._task = asyncio.create_task(self._follow(newest))
        self._readers += 1
        try:
            yield self._task
        finally:
            self._readers -= 1
            if not self._readers:
                self._task.cancel()
                self._task = None

    async def _follow(self, last: int) -> None:
        try:
            while True:
                found = await self._gateway.events.wait(last, HEARTBEAT_S)
                if self._task is not asyncio.current_task():  # redis-py may swallow that it was cancelled
                    return
                for event in found:
                    last = event.id
                    self._on_event(event)
                    if len(self._tail) == MAX_RECENT_EVENTS:
                        self._tail_after = self._tail[0][0].id
                    self._tail.append((event, framed(event)))
                self._wake()
        finally:
            self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _after(self, last: int) -> Sequence[tuple[Event, bytes]]:
        """Return the known events after ``last``; from the store where the task began later."""
        if last < self._tail_after:
            events = await self._gateway.store.events(after=last, limit=MAX_PAGE_EVENTS)
            return [(event, framed(event)) for event in events]
        if not self._tail or self._tail[-1][0].id <= last:
            return ()
        return [one for one in self._tail if one[0].id > last]


def event_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON."""
    return {
        "id": event.id,
        "time": event.time,
        "kind": event.kind,
        "route": event.route,
        "data": event.fields,
    }


def framed(event: Event) -> bytes:
    """Return one server-sent event. JSON text has no line ends, so it is one ``data`` line."""
    kind = event.kind.replace("\n", " ").replace("\r", " ")
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.id, kind.encode(), compact(event_json(event)))
