"""One HTTP/1.1 client connection: pipelining, framing of responses, flow control, deadlines.

What matches a route becomes an `Exchange` (callbacks only); what begins with ``/-/`` becomes an ASGI call of the
control application. Responses leave in the order of their requests.

Bytes are parsed in pieces, at most a few requests ahead of the responses, and for a short time in one turn of the loop:
the rest waits in ``backlog`` (up to one read). The same buffer holds what follows an upgrade until the backend has said
whether it is a tunnel or the next request.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from time import perf_counter
from typing import Any, Final, cast

from gateway.dataplane.base import PipelinedRequest, Role, Runtime, TunnelEnd
from gateway.dataplane.client.forwarding import Forwarding
from gateway.dataplane.client.http2.protocol import Http2Protocol
from gateway.dataplane.client.reader import RequestQueue, RequestReader
from gateway.dataplane.client.refusal import Refusal
from gateway.errors import TurnoutError
from gateway.internal_errors import INTERNAL_ERRORS

LINGER_S: Final = 1.0
"""A connection with unread request bytes is read for this long, or a reset loses its last response (RFC 9112 9.6)."""
MAX_LINGER_BYTES: Final = 1 << 20
HIGH_WATER_BYTES: Final = 65_536
MAX_UNCUT_BYTES: Final = 4096
"""A read up to this size is parsed in one piece."""
MAX_TURN_S: Final = 0.001
"""Parsing goes on in the next turn of the loop after this long."""

# Reasons not to read:
READ_PIPELINE: Final = 1  # as many responses are owed as there may be
READ_BODY: Final = 2  # the body has no taker yet
READ_HELD: Final = 4  # bytes wait unparsed
READ_DEAF: Final = 8  # nothing that comes matters


class ClientProtocol(RequestQueue):
    """An HTTP/1.1 connection."""

    __slots__ = (
        "_pumping", "_registered", "_resting", "backlog", "closing", "deadline", "deaf", "pauses", "queue", "reader",
        "tunnel", "upgrading",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, registered: set[Any] | None = None, role: Role = "all") -> None:
        """``registered``: uvicorn's set of connections, which it asks to end on shutdown. ``role``: of their socket."""
        self._registered = registered if registered is not None else set()
        super().__init__(runtime, role)
        self.current = None
        self.queue: list[PipelinedRequest] = []
        """Requests behind ``current``; short, so a list (an empty deque takes ten times its memory)."""
        self.reader = RequestReader(self)
        self.deaf = False
        """What comes in is no longer parsed; responses that are owed still go out."""
        self.closing = False
        """The last response is out; the connection is about to end."""
        self.deadline = 0.0
        """When an idle connection ends; 0.0: to be set at the next `check`."""
        self.pauses = 0
        self.backlog = b""
        """Bytes read but not parsed yet."""
        self.upgrading = False
        """Nothing is parsed until the backend has responded to an upgrade."""
        self.tunnel: TunnelEnd | None = None
        self._pumping = False
        self._resting = False
        """It is the turn of other connections; the backlog waits."""

    # asyncio's side ---------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._hand_over().connection_made(transport)
            return
        self.forwarding = Forwarding.of(transport)
        self.deadline = perf_counter() + self.runtime.snapshot.limits.header_timeout
        self._registered.add(self)
        self.surplus = self.runtime.opened(self)

    def _hand_over(self) -> Http2Protocol:
        """Lets HTTP/2 have the transport."""
        successor = Http2Protocol(self.runtime, self._registered, self.role)
        self.lost = self.deaf = True
        self.transport.set_protocol(successor)
        return successor

    def switch_to_http2(self, data: bytes) -> None:
        self._registered.discard(self)
        self.runtime.closed(self)
        self._hand_over().adopt(self.transport, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.backlog = b""
        self._registered.discard(self)
        self.runtime.closed(self)
        if self.tunnel is not None:
            self.tunnel.connection_lost(exc)
        for request in (self.current, *self.queue):
            if request is not None:
                request.client_lost()
        # The parser and the transport keep this object until the collector's turn: not the client's bytes with it.
        self.current = self.reader.incoming = None
        self.reader.forget()
        self.queue.clear()

    def eof_received(self) -> None:
        """Lets the connection end: a half-close looks like a close, and unwanted work is waste."""

    def data_received(self, data: bytes) -> None:
        self.now = perf_counter()
        if self.tunnel is not None:
            self.tunnel.data_received(data)
            return
        if self.deaf:
            self._linger(data)
            return
        if self.upgrading or self.backlog:
            self._hold(data)  # in order: what came before is not parsed yet
            return
        if len(data) > MAX_UNCUT_BYTES:
            self._parse(data)
        else:
            upgraded = self.reader.feed(data)
            if upgraded is not None:
                self.upgrading = True
                self._hold(upgraded)
        request = self.current
        if request is not None:
            request.advance()
        if self.queue or self.backlog:
            self._pump()

    def _parse(self, data: bytes) -> None:
        """Feeds piece by piece; what goes too far ahead of the responses becomes the backlog."""
        start, size, began = 0, len(data), perf_counter()
        while start < size and not self.deaf:
            if self._ahead() or (start and self._turn_is_over(began)):
                self._hold(data[start:])
                return
            piece = data[start : start + self.reader.step()]
            start += len(piece)
            upgraded = self.reader.feed(piece)
            if upgraded is not None:
                self.upgrading = True
                self._hold(upgraded)
        if start < size:
            successor = self.transport.get_protocol()
            if isinstance(successor, Http2Protocol):  # what was parsed was the preface
                successor.data_received(data[start:])

    def _turn_is_over(self, began: float) -> bool:
        if perf_counter() - began > MAX_TURN_S:
            self._resting = self.reader.dear = True  # or one client's tiny chunks delay all others
            self.runtime.loop.call_soon(self._go_on)
        return self._resting

    def _go_on(self) -> None:
        self._resting = False
        self._pump()

    def _hold(self, data: bytes) -> None:
        """Keeps bytes unparsed: behind an upgrade until the backend responds, behind many requests for responses."""
        self.backlog += data
        if len(self.backlog) > HIGH_WATER_BYTES or not self.upgrading:
            self._pause(READ_HELD)

    def _linger(self, data: bytes) -> None:
        self.reader.unclaimed += len(data)
        if self.reader.unclaimed > MAX_LINGER_BYTES:
            self.transport.abort()

    # The parser's side ------------------------------------------------------------------------------
    def enqueue(self, request: PipelinedRequest) -> None:
        if self.current is None and not self.queue and not self.write_paused:
            self.current = request
            if request.head.expect:
                self._continue(request)
        else:
            self.queue.append(request)

    def _continue(self, request: PipelinedRequest) -> None:
        """Sends 100 Continue to a client that waits for it, now that its turn has come."""
        if request.head.expects_continue and not request.complete and not isinstance(request, Refusal):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def hold_body(self) -> None:
        self._pause(READ_BODY)

    def refuse(self, error: TurnoutError) -> None:
        reader = self.reader
        incoming, reader.incoming = reader.incoming, None
        self.deaf = True
        self.backlog = b""
        if incoming is not None and not incoming.complete:
            # Its attempt must never look complete to the backend.
            incoming.head.close = True
            incoming.refuse(error)
            if incoming is self.current:
                incoming.advance()
        else:
            self.queue.append(Refusal(self, reader.refused_head(), error, last=True))
        reader.in_head = False
        self._pump()
        if not self.closing:
            self._pause(READ_DEAF)

    # Responses --------------------------------------------------------------------------------------
    def responded(self, request: PipelinedRequest) -> None:
        if request is not self.current:
            return
        self.current = None
        if request.head.close:
            self._close(request)
            return
        if self.pauses:
            self._resume(READ_BODY)
        if request.head.upgrade:  # and it was refused: what was held is the next request
            self.upgrading = False
            self.reader.incoming = None
        self.deadline = 0.0
        if self.queue or self.backlog:
            self._pump()

    def _pump(self) -> None:
        """Gives requests their turn and parses on. A loop: a segment can hold thousands of pipelined requests."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while not self.closing and not self.write_paused:
                if self.current is None and self.queue:
                    self.current = self.queue.pop(0)
                    self._continue(self.current)
                    self._resume(READ_BODY)
                elif self.backlog and not (self.deaf or self._resting or self._ahead()):
                    data, self.backlog = self.backlog, b""
                    self._resume(READ_HELD)
                    self._parse(data)
                else:
                    break
                if self.current is not None:
                    self.current.advance()
        finally:
            self._pumping = False
        if self._ahead():
            self._pause(READ_PIPELINE)
        else:
            self._resume(READ_PIPELINE)

    def _ahead(self) -> bool:
        """Whether the client has sent as many requests as it may ahead of the responses."""
        return self.upgrading or len(self.queue) > self.snapshot.limits.pipeline

    def _close(self, request: PipelinedRequest) -> None:
        """Ends the connection after its last response; unread bytes are read for a moment first."""
        reader = self.reader
        settled = request.complete and reader.incoming is None and not (reader.unclaimed or self.pauses)
        reader.unclaimed = 0  # from here on, what is read and dropped
        self.closing = self.deaf = True
        self.queue.clear()
        self.backlog = b""
        self.deadline = perf_counter() + LINGER_S
        self._resume(READ_PIPELINE | READ_BODY | READ_HELD | READ_DEAF)
        if settled or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()

    def abort(self) -> None:
        request = self.current
        if request is not None and request.head.http10:
            # A response without length or chunks ends with the connection, so only a reset says that it was cut.
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.closing = self.deaf = self.lost = True
        self.current = None
        self.transport.abort()

    # Flow control -----------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        self.write_paused = True
        if self.tunnel is not None:
            self.tunnel.pause_writing()
        elif self.current is not None:
            self.current.pause_response()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.tunnel is not None:
            self.tunnel.resume_writing()
            return
        if self.current is not None:
            self.current.resume_response()
        if self.queue or self.backlog:
            self._pump()

    def pause_body(self) -> None:
        self._pause(READ_BODY)

    def resume_body(self) -> None:
        self._resume(READ_BODY)

    def _pause(self, reason: int) -> None:
        if not self.pauses and not self.lost:
            self.transport.pause_reading()
            self.runtime.unread.add(self)
        self.pauses |= reason

    def _resume(self, reason: int) -> None:
        if self.pauses:
            self.pauses &= ~reason
            if not self.pauses:
                self.runtime.unread.discard(self)
                if not self.lost:
                    self.transport.resume_reading()

    def open_tunnel(self, end: TunnelEnd) -> bytes:
        self.tunnel = end
        held, self.backlog = self.backlog, b""
        self._resume(READ_HELD | READ_PIPELINE)
        return held

    # Time -------------------------------------------------------------------------------------------
    def check(self, now: float) -> None:
        reader, snapshot = self.reader, self.snapshot
        if self.lost:
            return
        # A close alone would wait for the client without end.
        if self.progress.stuck(self.transport.get_write_buffer_size(), now, snapshot.limits.write_timeout):
            self.transport.abort()
        elif self.tunnel is not None:
            self.tunnel.check(now)
        elif self.closing:
            if now > self.deadline and not self.transport.get_write_buffer_size():
                self.transport.abort()
        elif reader.in_head:
            if self.pauses:
                reader.head.started = now  # nothing is being read, so the client is not slow
            elif now - reader.head.started > snapshot.limits.header_timeout:
                self.refuse(TurnoutError("request_timeout"))
        elif reader.incoming is not None and not reader.incoming.complete:
            self._check_body(reader.incoming, now)
        elif self.current is None and not self.queue:
            self._check_idle(now)
        elif self.current is not None and self.current.ended:
            INTERNAL_ERRORS.report(RuntimeError("a request has ended, and its connection does not know"))
            self.transport.abort()

    def _check_body(self, incoming: PipelinedRequest, now: float) -> None:
        waits = incoming is not self.current and incoming.head.expects_continue
        progress = self.reader.body
        # The client is not slow if nothing is being read, or if it waits for 100 Continue.
        if self.pauses or waits:
            progress.since += now - self.now
            self.now = now
        elif progress.too_slow(now, self.now, self.snapshot.limits):
            self.refuse(TurnoutError("request_timeout"))

    def _check_idle(self, now: float) -> None:
        if self.deadline:
            if now > self.deadline:
                self.transport.close()
            return
        self.snapshot = self.runtime.snapshot
        limits = self.snapshot.limits
        # A response that began before the process was told to end did not say that its connection will.
        self.deadline = now + (limits.last_idle if self.runtime.draining else limits.idle_timeout)
        self.reader.forget()

    def shutdown(self) -> None:
        """Ends the connection after the requests in flight; uvicorn calls it when the server ends."""
        if self.current is None and not self.queue and not self.reader.in_head:
            soon = perf_counter() + self.runtime.snapshot.limits.last_idle
            self.deadline = min(self.deadline, soon) if self.deadline else soon
        if self.tunnel is not None:
            self.transport.close()

    def end(self) -> None:
        if self.tunnel is not None:
            self.tunnel.connection_lost(None)  # recorded as it was: no error response is put behind its bytes
        elif self.current is not None:
            self.current.cut_short()
        if not self.closing:
            self.transport.abort()
