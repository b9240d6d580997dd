"""The events of the gateway, as `GET /-/events` streams them and as the dashboard lists them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from gateway.control.gateway_api import GatewayApi
from gateway.state.base import Event

HEARTBEAT_S: Final = 10.0
"""After this long without events a comment is sent: proxies keep the stream, and a closed connection is noticed."""
ALLOCATION: Final = "allocation"
MAX_RECENT_EVENTS: Final = 1000
CHECK_S: Final = 0.5
"""Seconds between two looks whether the gateway is ready and the reader still admitted."""
MAX_PAGE_EVENTS: Final = 1000
RETRY_MS: Final = 2000


class EventStream:
    """Keeps the newest events, so that a reader can begin at the present without reading all history."""

    def __init__(self, gateway: GatewayApi, on_event: Callable[[Event], None] = lambda _: None) -> None:
        """``on_event`` is called with each event that a stream reads."""
        self._gateway = gateway
        self._on_event = on_event
        self._recent: deque[Event] = deque(maxlen=MAX_RECENT_EVENTS)
        self._allocations: deque[Event] = deque(maxlen=MAX_RECENT_EVENTS)
        """Apart: a bandit adds one each second, and the others would be gone in a quarter of an hour."""
        self._last = 0
        self._lock = asyncio.Lock()

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
        """Yield server-sent events until ``closing`` is set or the reader stops reading or is no longer admitted."""
        last = await self.newest() if after is None else after
        yield f"retry: {RETRY_MS}\n: connected\n\n".encode()
        while not closing.is_set():
            events = await self._next(last, closing, admitted)
            if events is None:
                return
            for event in events:
                last = max(last, event.id)
                self._on_event(event)
                if wanted(event):
                    yield framed(event)
            if not events:
                yield b": heartbeat\n\n"

    async def _next(
        self, after: int, closing: asyncio.Event, admitted: Callable[[], Awaitable[bool]]
    ) -> list[Event] | None:
        """Return the next events; an empty list after `HEARTBEAT_S` seconds; None if the stream must end.

        A gateway that is no longer ready, for example while it drains, ends its streams: another one will serve them.
        """
        waiting = asyncio.ensure_future(self._gateway.next_events(after, HEARTBEAT_S))
        end = asyncio.ensure_future(closing.wait())
        try:
            while not waiting.done():
                if closing.is_set() or not self._gateway.ready()[0] or not await admitted():
                    return None
                await asyncio.wait((waiting, end), timeout=CHECK_S, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result()
        finally:
            waiting.cancel()
            end.cancel()


def event_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON."""
    data = json.loads(event.data) if event.data else {}
    return {"id": event.id, "time": event.time, "kind": event.kind, "route": event.route, "data": data}


def framed(event: Event) -> bytes:
    """Return one server-sent event. JSON text has no line ends, so it is one ``data`` line."""
    kind = event.kind.replace("\n", " ").replace("\r", " ")
    text = json.dumps(event_json(event), ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.id}\nevent: {kind}\ndata: {text}\n\n".encode()
