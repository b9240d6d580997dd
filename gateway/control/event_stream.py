"""The events of the gateway, as `GET /-/events` streams them and as the dashboard lists them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from gateway.control.context import Context
from gateway.state.base import Event

HEARTBEAT: Final = 10.0
"""Seconds of silence after which a comment is sent, so that proxies keep the stream and leaving is noticed."""
KEPT: Final = 1000
_LOOK: Final = 0.5
"""Seconds between two looks whether the gateway is still ready."""
_PAGE: Final = 1000
_RETRY_MS: Final = 2000


class News:
    """Knows the newest events, so that a reader can begin at the present without reading all history."""

    def __init__(self, context: Context, told: Callable[[Event], None] = lambda _: None) -> None:
        """``told`` hears of each event that a stream passes on."""
        self._context = context
        self.told = told
        self._recent: deque[Event] = deque(maxlen=KEPT)
        self._last = 0
        self._lock = asyncio.Lock()

    async def newest(self) -> int:
        """The id of the newest event; 0 when there was none yet."""
        async with self._lock:
            while page := await self._context.store.events(after=self._last, limit=_PAGE):
                self._recent.extend(page)
                self._last = page[-1].id
        return self._last

    async def recent(self, limit: int, wanted: Callable[[Event], bool]) -> list[Event]:
        """The newest events that are wanted (of the last `KEPT`), oldest first."""
        await self.newest()
        found = [event for event in reversed(self._recent) if wanted(event)][:limit]
        return found[::-1]

    async def stream(
        self, after: int | None, wanted: Callable[[Event], bool], closing: asyncio.Event
    ) -> AsyncIterator[bytes]:
        """Server-sent events until ``closing`` is set or the reader stops reading."""
        last = await self.newest() if after is None else after
        yield f"retry: {_RETRY_MS}\n: connected\n\n".encode()
        while not closing.is_set():
            events = await self._next(last, closing)
            if events is None:
                return
            for event in events:
                last = max(last, event.id)
                self.told(event)
                if wanted(event):
                    yield framed(event)
            if not events:
                yield b": heartbeat\n\n"

    async def _next(self, after: int, closing: asyncio.Event) -> list[Event] | None:
        """The next events, none after `HEARTBEAT`, None when it is time to close.

        A gateway that is no longer ready (it is draining, say) keeps no reader: another one will serve it.
        """
        news = asyncio.ensure_future(self._context.next_events(after, HEARTBEAT))
        end = asyncio.ensure_future(closing.wait())
        try:
            while not news.done():
                if closing.is_set() or not self._context.ready()[0]:
                    return None
                await asyncio.wait((news, end), timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            return news.result()
        finally:
            news.cancel()
            end.cancel()


def shown(event: Event) -> dict[str, Any]:
    """An event as JSON."""
    data = json.loads(event.data) if event.data else {}
    return {"id": event.id, "time": event.time, "kind": event.kind, "route": event.route, "data": data}


def framed(event: Event) -> bytes:
    """One server-sent event. JSON text holds no line end, so it is one ``data`` line."""
    kind = event.kind.replace("\n", " ").replace("\r", " ")
    text = json.dumps(shown(event), ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.id}\nevent: {kind}\ndata: {text}\n\n".encode()
