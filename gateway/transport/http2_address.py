"""Addresses that speak HTTP/2: few connections, each with many requests; over TLS perhaps only if agreed on."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from gateway.transport.address import MAX_IDLE_CONNECTIONS, Address
from gateway.transport.base import Connection, ResponseHandler
from gateway.transport.connection import BackendConnection
from gateway.transport.endpoint import Endpoint
from gateway.transport.http2_connection import Http2Connection
from gateway.transport.http2_head import HeadEncoder
from gateway.transport.http2_session import Http2Session, SessionOwner, StreamConnection

OPENING_TIMEOUT_S: Final = 10.0
"""Until the backend's settings have come; those who wait have shorter limits of their own."""


class Sessions(SessionOwner):
    """The open connections of one address."""

    __slots__ = ("_address", "all")

    def __init__(self, address: Http2Address) -> None:
        self._address = address
        self.loop = address.loop
        self.heads = HeadEncoder(address.endpoint.web_scheme.encode())
        self.all: dict[Http2Session, float] = {}
        """With the time at which each became idle."""

    def with_room(self) -> Http2Session | None:
        """The first that takes a request, so that those behind it become idle."""
        for session in self.all:
            if session.has_room:
                return session
        return None

    def on_idle(self, session: Http2Session) -> None:
        if session in self.all:
            self.all[session] = self._address.time()
        # One that permits no further requests is never used again.
        if not self._address.max_idle or not session.has_room:
            session.end(None)

    def forget(self, session: Http2Session) -> None:
        self.all.pop(session, None)

    def on_http1(self, transport: asyncio.Transport) -> None:
        self._address.on_http1(transport)

    def end_idle(self, before: float) -> None:
        """Ends those without requests since ``before``."""
        for session, idle_since in tuple(self.all.items()):
            if not session.streams and idle_since <= before:
                session.end(None)


class Http2Address(Address):
    """An address that must speak HTTP/2."""

    __slots__ = ("_opening", "offer", "sessions")

    offer: ssl.SSLContext | None
    """Offers HTTP/2; None for connections without TLS."""

    def __init__(
        self,
        endpoint: Endpoint,
        loop: asyncio.AbstractEventLoop,
        *,
        context: ssl.SSLContext | None = None,
        offer: ssl.SSLContext | None = None,
        server_name: str | None = None,
        max_idle: int = MAX_IDLE_CONNECTIONS,
    ) -> None:
        super().__init__(endpoint, loop, context=context, server_name=server_name, max_idle=max_idle)
        self.offer = offer
        self.sessions = Sessions(self)
        self._opening: asyncio.Task[Http2Session | None] | None = None
        self.http2 = True

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
                # Others wait for the same connection: one that gives up must not cancel it.
                fresh = await asyncio.shield(opening)
                if fresh is None:
                    await self._connect_http1(handler)
                    return
                if fresh.peer.streams < 1:
                    raise ConnectionError("it permits no requests")
                # Or it would be connected to without pause until the request's limit.
                if fresh.closing or fresh.ended:
                    raise ConnectionError("it ended the connection before a request")
            except (OSError, UnicodeError) as error:
                self._report(handler, error)
                return
            session = self.sessions.with_room()
        handler.on_connected(StreamConnection(session))

    async def _connect_http1(self, handler: ResponseHandler) -> None:
        self._report(
            handler, ssl.SSLError("the backend did not agree on HTTP/2; write its address with https://")
        )

    def on_http1(self, transport: asyncio.Transport) -> None:
        """The backend has not agreed on HTTP/2."""
        transport.abort()

    async def _open(self) -> Http2Session | None:
        """A connection whose limits are known: a burst of requests is not refused by one that permits fewer.

        None if the backend speaks HTTP/1.1.
        """
        async with asyncio.timeout(OPENING_TIMEOUT_S):
            transport, protocol = await self.loop.create_connection(
                lambda: Http2Connection(self.sessions),
                self.endpoint.host,
                self.endpoint.port,
                ssl=self.offer,
                server_hostname=self.server_name,
            )
            session = protocol.session
            if session is None:
                return None
            try:
                await session.ready
            except BaseException:  # cancelled or timed out: nothing else would close it
                transport.abort()
                raise
        # It may have ended between its settings and this turn of the loop.
        if session.ended:
            raise ConnectionError("it closed the connection")
        self.sessions.all[session] = self.time()
        return session

    def sweep(self) -> None:
        self.sessions.end_idle(self.time() - self.idle_timeout)

    def close(self) -> None:
        super().close()
        self.sessions.end_idle(float("inf"))
        for session in self.sessions.all:
            session.closing = True


class NegotiatedAddress(Http2Address):
    """An https address: HTTP/2 if the backend agrees on it (ALPN), else HTTP/1.1, as for a change of protocol.

    Its ``context`` offers HTTP/1.1 alone. `http2` is false once the backend has not agreed; it is asked again when no
    connection is left.
    """

    __slots__ = ()

    def take_idle(self) -> Connection | None:
        return Http2Address.take_idle(self) or Address.take_idle(self)

    async def _connect(self, handler: ResponseHandler) -> None:
        if handler.upgrade or not self.http2:
            await Address._connect(self, handler)
        else:
            await Http2Address._connect(self, handler)

    async def _connect_http1(self, handler: ResponseHandler) -> None:
        connection = Address.take_idle(self)  # of those who have waited, one gets the connection just made
        if connection is not None:
            handler.on_connected(connection)
        else:
            await Address._connect(self, handler)

    def on_http1(self, transport: asyncio.Transport) -> None:
        self.http2 = False
        connection = BackendConnection(self, None)
        self.connections.add(connection)
        transport.set_protocol(connection)
        connection.adopt(transport)
        connection.idle_since = self.time()
        self.idle.append(connection)

    def sweep(self) -> None:
        Http2Address.sweep(self)
        Address.sweep(self)
        self.http2 = self.http2 or not self.connections


def _retrieve(task: asyncio.Task[Http2Session | None]) -> None:
    """Looks at the exception, which asyncio reports otherwise if those who waited have left."""
    if not task.cancelled():
        task.exception()
