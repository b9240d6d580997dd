"""An address that speaks HTTP/2: few connections, each with many requests."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from gateway.transport.address import MAX_IDLE_CONNECTIONS, Address
from gateway.transport.base import Connection, ResponseHandler
from gateway.transport.endpoint import Endpoint
from gateway.transport.http2_connection import (
    Http2Connection,
    Http2Session,
    SessionOwner,
    StreamConnection,
)

OPENING_TIMEOUT_S: Final = 10.0
"""Until the backend's settings have come; those who wait have shorter limits of their own."""


class Sessions(SessionOwner):
    """The open connections of one address."""

    __slots__ = ("address", "all")

    def __init__(self, address: Http2Address) -> None:
        self.address = address
        self.loop = address.loop
        self.all: list[Http2Session] = []

    def with_room(self) -> Http2Session | None:
        """The first that takes a request, so that those behind it become idle."""
        for session in self.all:
            if session.has_room:
                return session
        return None

    def on_idle(self, session: Http2Session) -> None:
        session.idle_since = self.address.time()
        if not self.address.max_idle:
            session.end(None)

    def forget(self, session: Http2Session) -> None:
        if session in self.all:
            self.all.remove(session)

    def end_idle(self, before: float) -> None:
        """Ends those without requests since ``before``."""
        for session in tuple(self.all):
            if not session.streams and session.idle_since <= before:
                session.end(None)


class Http2Address(Address):
    """See the module."""

    __slots__ = ("_opening", "sessions")

    def __init__(
        self,
        endpoint: Endpoint,
        loop: asyncio.AbstractEventLoop,
        *,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        max_idle: int = MAX_IDLE_CONNECTIONS,
    ) -> None:
        super().__init__(endpoint, loop, context=context, server_name=server_name, max_idle=max_idle)
        self.sessions = Sessions(self)
        self._opening: asyncio.Task[Http2Session] | None = None

    def take_idle(self) -> Connection | None:
        session = self.sessions.with_room()
        return StreamConnection(session) if session is not None else None

    async def _connect(self, handler: ResponseHandler) -> None:
        """Waits for a connection with room; those who wait at the same time share it."""
        session = None
        while session is None:
            opening = self._opening
            if opening is None or opening.done():
                opening = self._opening = self.loop.create_task(self._open())
                opening.add_done_callback(_retrieve)
            try:
                fresh = await asyncio.shield(opening)
                if fresh.peer_streams < 1:
                    raise ConnectionError("it permits no requests")
            except (OSError, UnicodeError) as error:
                self._report(handler, error)
                return
            session = self.sessions.with_room()
        handler.on_connected(StreamConnection(session))

    async def _open(self) -> Http2Session:
        """A connection whose limits are known: a burst of requests is not refused by one that permits fewer."""
        async with asyncio.timeout(OPENING_TIMEOUT_S):
            transport, protocol = await self.loop.create_connection(
                lambda: Http2Connection(self.sessions, self.endpoint.web_scheme.encode()),
                self.endpoint.host,
                self.endpoint.port,
                ssl=self.context,
                server_hostname=self.server_name,
            )
            session = protocol.session
            try:
                if session is None:
                    raise ssl.SSLError("the backend did not agree on HTTP/2; write its address with https://")
                await session.ready
            except BaseException:
                transport.abort()
                raise
        if session.ended:
            raise ConnectionError("it closed the connection")
        session.idle_since = self.time()
        self.sessions.all.append(session)
        return session

    def sweep(self) -> None:
        self.sessions.end_idle(self.time() - self.idle_timeout)

    def close(self) -> None:
        self.sessions.end_idle(float("inf"))
        for session in self.sessions.all:
            session.closing = True


def _retrieve(task: asyncio.Task[Http2Session]) -> None:
    """Looks at the exception, which asyncio reports otherwise if those who waited have left."""
    if not task.cancelled():
        task.exception()
