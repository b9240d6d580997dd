"""One HTTP/2 connection to a backend: the I/O of its session."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final, cast

from gateway.internal_errors import INTERNAL_ERRORS
from gateway.transport.http2_session import BackendStream, Http2Session, SessionOwner

HIGH_WATER_BYTES: Final = 65_536
MAX_UNREAD_BYTES: Final = 16 << 20
"""That wait for a backend which sends, besides the bodies before them: more than the heads of all its streams."""


class Http2Connection(asyncio.Protocol):
    """Reads for a session, a limited number of frames in a turn of the loop."""

    __slots__ = ("_behind", "_max_waiting", "_owner", "session", "transport")

    def __init__(self, owner: SessionOwner) -> None:
        self._owner = owner
        self._behind = False
        """Whether frames that have arrived wait for the next turn of the loop; nothing is read meanwhile."""
        self._max_waiting = 0
        """Bytes that may wait to be written while the transport is paused."""
        self.session: Http2Session | None = None
        """Set when the connection is made; None if the backend did not agree on HTTP/2."""
        self.transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._owner.on_http1(self.transport)
            return
        self.session = Http2Session(self._owner, self.transport)
        self.session.start()

    def data_received(self, data: bytes) -> None:
        session = self.session
        if session is None:
            return
        # Every PING is responded to, so a backend that reads nothing would fill the memory.
        if session.write_paused and self.transport.get_write_buffer_size() > self._max_waiting:
            self.transport.abort()
            return
        behind = self._handle(session, data, perf_counter())
        if behind:
            # Or a peer that sends faster than it is served would fill the buffer of the session.
            self.transport.pause_reading()
            session.owner.loop.call_soon(self._catch_up)
        elif self._behind and not self.transport.is_closing():
            self.transport.resume_reading()
        self._behind = behind

    def _handle(self, session: Http2Session, data: bytes, now: float) -> bool:
        """Whether frames that have arrived are left."""
        try:
            session.receive(data, now)
        except Exception as error:  # noqa: BLE001 - other backends must go on
            INTERNAL_ERRORS.report(error)
            session.end(None)
        return session.behind and not session.ended

    def _catch_up(self) -> None:
        if self._behind:
            self.data_received(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        session = self.session
        if session is None:
            return
        self._behind = False
        # What came before the end counts: it may be the rest of a response.
        while session.behind and self._handle(session, b"", session.now):
            pass
        session.fail("it closed the connection before it sent its settings")
        session.ended = True
        for stream in tuple(session.streams.values()):
            stream.drop()
            assert isinstance(stream, BackendStream)
            stream.connection_of.on_connection_lost(head_done=stream.head_done)

    def pause_writing(self) -> None:
        # A body that was whole may be larger than the limit; further ones wait until the transport resumes.
        self._max_waiting = self.transport.get_write_buffer_size() + MAX_UNREAD_BYTES
        if self.session is not None:
            self.session.pause_writing()

    def resume_writing(self) -> None:
        if self.session is not None:
            self.session.resume_writing()
