"""One HTTP/2 client connection: I/O, deadlines, draining."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, Final, cast

from gateway.dataplane.base import Role, Runtime
from gateway.dataplane.client.forwarding import Forwarding
from gateway.dataplane.client.http2.session import Session, StreamCarrier
from gateway.dataplane.client.timeouts import WriteProgress
from gateway.dataplane.snapshot import Limits
from gateway.http2.errors import ENHANCE_YOUR_CALM, INTERNAL_ERROR, ConnectionFault
from gateway.http2.frames import PREFACE
from gateway.internal_errors import INTERNAL_ERRORS

LINGER_S: Final = 1.0
"""For this long a connection is read after its GOAWAY, so that it is not lost to a reset."""
MAX_LINGER_BYTES: Final = 1 << 20
HIGH_WATER_BYTES: Final = 65_536
DRAIN_NOTICE_S: Final = 1.0
"""Seconds between the GOAWAY that announces the end and the one that refuses new streams."""


class Http2Protocol(StreamCarrier):
    """An HTTP/2 connection; its streams carry the responses, see `StreamClient`."""

    __slots__ = (
        "_behind",
        "_deadline",
        "_drain_at",
        "_head_since",
        "_lingered",
        "_registered",
        "_session",
        "progress",
    )

    def __init__(self, runtime: Runtime, registered: set[Any], role: Role) -> None:
        """
        Args:
            runtime: The process.
            registered: uvicorn's set of connections, which it asks to end on shutdown.
            role: What the socket that the connection came to serves.
        """
        self.runtime = runtime
        self.snapshot = runtime.snapshot
        self.transport = cast("asyncio.Transport", None)
        self.role = role
        self.surplus = self.lost = self.write_paused = False
        self.now = 0.0
        self.progress = WriteProgress()
        self._registered = registered
        self._session = Session(self)
        self._behind = False
        """Whether frames that have arrived wait for the next turn of the loop; nothing is read meanwhile."""
        self._deadline = 0.0
        """When an idle connection, or one that lingers, ends; 0.0: to be set at the next `check`."""
        self._drain_at = 0.0
        """When the final GOAWAY is due; 0.0: not draining."""
        self._head_since = 0.0
        """When a head was first seen to be incomplete; 0.0: none is."""
        self._lingered = 0

    # asyncio's side ---------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.forwarding = Forwarding.of(transport, b"2.0")
        self._registered.add(self)
        self.surplus = self.runtime.opened(self)
        self._session.start()

    def adopt(self, transport: asyncio.Transport, rest: bytes) -> None:
        """Go on with ``transport`` behind a preface that was read by another protocol."""
        self.connection_made(transport)
        # The session checks the preface itself: one way for both entrances.
        self.data_received(PREFACE + rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._registered.discard(self)
        self.runtime.closed(self)
        self._session.drop_streams(0)

    def eof_received(self) -> None:
        """Lets the connection end: a half-close looks the same as a close."""

    def data_received(self, data: bytes) -> None:
        session = self._session
        if session.ended:
            self._linger(data)
        else:
            self.now = perf_counter()
            try:
                session.receive(data, self.now)
            except Exception as error:  # noqa: BLE001 - other connections must go on
                INTERNAL_ERRORS.report(error)
                session.end(ConnectionFault(INTERNAL_ERROR, "an error inside the gateway"))
        behind = session.behind and not session.ended
        if behind != self._behind:
            self._behind = behind
            self._read_on()
        if behind:
            self.runtime.loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        if self._behind and not (self.lost or self.write_paused):
            self.data_received(b"")

    def _read_on(self) -> None:
        """Reads as long as what was read can be handled."""
        if self.lost:
            return
        if self._behind or self.write_paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _linger(self, data: bytes) -> None:
        self._lingered += len(data)
        if self._lingered > MAX_LINGER_BYTES:
            self.transport.abort()

    # Output -----------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        if not self.lost:
            self.progress.written += len(data)
            self.transport.write(data)

    def pause_writing(self) -> None:
        """Takes no further frames either: responses without a body are not subject to flow control."""
        self.write_paused = True
        self._session.pause_writing()
        self._read_on()
        self.runtime.unread.add(self)

    def resume_writing(self) -> None:
        self.write_paused = False
        self.runtime.unread.discard(self)
        self._read_on()
        self._session.resume_writing()
        self._catch_up()

    # Ends -------------------------------------------------------------------------------------------
    def abort(self) -> None:
        """Ends the connection behind its last frame; unread bytes are read for a moment first."""
        self._deadline = perf_counter() + LINGER_S
        if self.transport.can_write_eof():  # a close would reset a client that still sends
            self.transport.write_eof()
        else:
            self.transport.close()

    def on_idle(self) -> None:
        # Counted from the next check, by the limits in force then.
        self._deadline = 0.0
        if self._session.closing and not self.lost:
            self._session.flush()
            self.transport.close()

    def shutdown(self) -> None:
        """Announces the end to the client, whose next request may be on its way; uvicorn calls it too."""
        if not self._drain_at and not self._session.ended:
            self._drain_at = perf_counter() + DRAIN_NOTICE_S
            self._session.announce_end()

    def end(self) -> None:
        self._session.cut_short()
        self.transport.abort()

    # Time -------------------------------------------------------------------------------------------
    def check(self, now: float) -> None:
        session, limits = self._session, self.runtime.snapshot.limits
        if self.progress.stuck(self.transport.get_write_buffer_size(), now, limits.write_timeout):
            self.transport.abort()
        elif session.ended:
            if now > self._deadline:
                self.transport.abort()
        elif self._drain_at and now >= self._drain_at and not session.closing:
            session.close()
            # No stream will end any more to close the connection.
            if not session.streams:
                self.transport.close()
        elif self._head_is_late(now, limits.header_timeout):
            session.end(ConnectionFault(ENHANCE_YOUR_CALM, "a frame or a header block takes too long"))
        else:
            session.check(now)
            if session.streams:
                self._deadline = 0.0
            else:
                self._check_idle(now, self._idle_timeout(limits))

    def _head_is_late(self, now: float, timeout: float) -> bool:
        partial = self._session.partial
        if not partial.awaits_head:
            self._head_since = 0.0
        elif not self._head_since:
            self._head_since = now
        since = now - timeout
        return 0.0 < self._head_since < since or partial.frame_is_late(since, self._session.streams)

    def _idle_timeout(self, limits: Limits) -> float:
        if self.surplus:
            return limits.header_timeout  # it gets one error response, not an idle connection's place
        return limits.last_idle if self.runtime.draining else limits.idle_timeout

    def _check_idle(self, now: float, timeout: float) -> None:
        if not self._deadline:
            self._deadline = now + timeout
        elif now > self._deadline:
            # A GOAWAY first: a request that is on its way is served, or known to be unserved.
            self.shutdown()
