"""One HTTP/1.1 connection to a backend, which serves one request after another.

It has no knowledge of routes or variants; `gateway.transport.base` describes the calls of its handler.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from time import perf_counter
from typing import Final, cast

import httptools

from gateway.internal_errors import INTERNAL_ERRORS
from gateway.transport.base import Connection, ResponseHandler
from gateway.transport.response import MAX_HEAD_BYTES, BadResponseError, ResponseParser

HIGH_WATER_BYTES: Final = 65_536
MIN_VECTORED_BYTES: Final = 65_536
"""A body from this size on is written piece by piece instead of being joined (copied)."""
MAX_FINAL_READS: Final = 16
"""Reads of up to `HIGH_WATER_BYTES` from a connection that a failed write has ended."""
STEP_BYTES: Final = 16_384
"""What is parsed of a chunked response between looks at the clock: tiny chunks cost the most for their length."""
MAX_TURN_S: Final = 0.001
"""A read that takes longer to parse goes on in the next turn of the loop."""
REFUSAL_POLL_S: Final = 0.01
MAX_REFUSAL_POLLS: Final = 5
"""How often to look for the refusal of a request: a round trip takes no longer than all of them."""


def framed(pieces: list[bytes]) -> list[bytes]:
    """``pieces`` as one chunk: a client's tiny ones would cost the backend as much as the gateway."""
    size = sum(map(len, pieces))
    return [b"%x\r\n" % size, *pieces, b"\r\n"] if size else []


class ConnectionOwner:
    """The pool that a connection returns to."""

    __slots__ = ("context", "loop")

    loop: asyncio.AbstractEventLoop
    context: ssl.SSLContext | None
    """None for connections without TLS."""

    def release(self, connection: BackendConnection) -> None:
        """Takes a connection that is ready for another request."""
        raise NotImplementedError

    def forget(self, connection: BackendConnection) -> None:
        """The connection has ended."""
        raise NotImplementedError

    def made(self, connection: BackendConnection, handler: ResponseHandler) -> None:
        """The connection that ``handler`` asked for is open."""
        raise NotImplementedError


class BackendConnection(Connection):
    """One connection and the request that it serves, if any."""

    __slots__ = ("_chunked", "_paused", "_rest", "idle_since", "owner", "response", "served")

    def __init__(self, owner: ConnectionOwner, handler: ResponseHandler | None) -> None:
        self.owner = owner
        self.handler = handler
        self.transport = cast("asyncio.Transport", None)
        self.response = ResponseParser(self)
        self.served = 0
        """Whole responses so far."""
        self.closed = False
        self.idle_since = 0.0
        self.tunnel = None
        self._paused = self._chunked = False
        self._rest = b""
        """What was read and waits for the next turn of the loop; nothing more is read meanwhile."""
        self.unread = False

    # Called by the handler --------------------------------------------------------------------------
    def send_request(
        self, handler: ResponseHandler, head_only: bool, head: list[bytes], body: list[bytes]
    ) -> None:
        self.handler = handler
        self.sent_whole = True
        self.response.begin(head_only)
        head += body
        if len(body) > 1 or (body and len(body[0]) >= MIN_VECTORED_BYTES):
            self.transport.writelines(head)
        else:
            self.transport.write(b"".join(head))

    def begin_request(
        self, handler: ResponseHandler, head_only: bool, head: list[bytes], body: list[bytes], chunked: bool
    ) -> None:
        self.handler = handler
        self.sent_whole = False
        self._chunked = chunked
        self.response.begin(head_only)
        # Without an end: `send_body` says when the last piece has come.
        head += framed(body) if chunked else body
        self.transport.writelines(head)

    def send_body(self, pieces: list[bytes], end: bool) -> None:
        self.sent_whole = end
        if self._chunked:
            pieces = framed(pieces)
            if end:
                pieces.append(b"0\r\n\r\n")
        if pieces:
            self.transport.writelines(pieces)

    def pause_reading(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            # What was read before comes first; reading goes on when it is parsed.
            if self._rest:
                # Not here: the caller may be in the middle of a callback of the parser.
                self.owner.loop.call_soon(self._go_on)
            elif not self.closed:
                self.transport.resume_reading()

    def abandon(self) -> None:
        self.handler = None
        if not self.closed:
            self.closed = True
            self.transport.abort()  # a close would wait for a backend that does not read

    # Called by asyncio ------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.adopt(cast("asyncio.Transport", transport))
        if self.handler is not None:
            self.owner.made(self, self.handler)
        else:  # another connection has served who asked for it
            self.owner.release(self)

    def adopt(self, transport: asyncio.Transport) -> None:
        """Uses ``transport`` from now on."""
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        if len(data) > STEP_BYTES or self._rest:
            self._receive_in_turns(data)
        else:
            self._receive(data)

    def _receive_in_turns(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
            return
        began, start, size = perf_counter(), 0, len(data)
        while start < size:
            end = start + STEP_BYTES if self._may_be_tiny_chunks() else size
            if not self._receive(data[start:end], end < size):
                return
            start = end
            if start < size and perf_counter() - began > MAX_TURN_S and not self.closed:
                self._rest = data[start:]
                self.transport.pause_reading()
                self.owner.loop.call_soon(self._go_on)
                if self.handler is not None:  # what has come goes on now, not with the rest
                    self.handler.flush()
                return

    def _may_be_tiny_chunks(self) -> bool:
        response, handler = self.response, self.handler
        if self.tunnel is not None or handler is None:
            return False
        return response.chunked if response.head_done else not handler.upgrade

    def _go_on(self) -> None:
        if self.closed or self._paused or not self._rest:
            return
        rest, self._rest = self._rest, b""
        self._receive_in_turns(rest)
        if not (self._rest or self._paused or self.closed):
            self.transport.resume_reading()

    def _receive(self, data: bytes, more: bool = False) -> bool:
        """Whether the response goes on; ``more``: whether bytes follow that were read already."""
        if self.tunnel is not None:
            self.tunnel.data_received(data)
            return True
        handler = self.handler
        if handler is None:  # a byte on an idle connection belongs to no request
            self.abandon()
            return False
        response = self.response
        try:
            response.feed(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._open_tunnel(data[upgrade.args[0] :])
            return False
        except httptools.HttpParserError as error:
            self._on_error(error)
            return False
        except BadResponseError as error:
            self._fail(str(error))
            return False
        handler = self.handler
        if handler is None:  # the handler abandoned the request during the read
            return False
        if response.done:
            response.excess = response.excess or more
            self._finish(handler)
            return False
        # After the parser: only it knows where a body ends and the next head, chunk line or trailer begins.
        if response.unbounded_bytes > MAX_HEAD_BYTES:
            self._fail(f"its head is larger than {MAX_HEAD_BYTES} bytes")
            return False
        if not more:
            handler.flush()
        return self.handler is not None

    def _on_error(self, error: httptools.HttpParserError) -> None:
        handler = self.handler
        if handler is None:
            return
        if self.response.done:  # the response is whole and valid; only what came behind it is not
            self.response.excess = True
            self._finish(handler)
            return
        cause = error.__context__
        # httptools wraps what a callback raises; without a cause, the parser itself refuses the bytes.
        if cause is None or isinstance(cause, BadResponseError):
            self._fail(str(cause or error))
        else:  # a callback raised: a fault of the gateway, not of the backend
            INTERNAL_ERRORS.report(cause)
            self.abandon()
            handler.on_failure("internal", "an error inside the gateway", idle_close=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.owner.forget(self)
        if self.tunnel is not None:
            self.tunnel.connection_lost(exc)
            return
        if self._rest:
            rest, self._rest = self._rest, b""
            self._receive(rest)
        # Under TLS the bytes in the kernel are records, which only the transport can read.
        if exc is not None and self.handler is not None and self.owner.context is None:
            self._read_to_end()
        handler, response = self.handler, self.response
        if handler is None:
            return
        self.handler = None
        if response.head_done and response.until_close and exc is None and self._ended_on_purpose():
            handler.on_end(b"")
        elif response.head_done:
            handler.on_failure("backend_truncated", "the response broke off", idle_close=False)
        else:
            # A connection that has served may have been closed while the request was on its way (RFC 9112 9.3.1).
            idle_close = not response.started and self.served > 0
            handler.on_failure(
                "backend_reset", "it closed the connection before it responded", idle_close=idle_close
            )

    def _read_to_end(self) -> None:
        """Reads what the kernel still has, as if the loop had looked there before it wrote.

        A backend that responds early and closes refuses the rest of the body: a write fails with a reset while
        the response, which came before it, is still unread.
        """
        fd = self.transport.get_extra_info("socket").fileno()
        for _ in range(MAX_FINAL_READS):
            try:
                data = os.read(fd, HIGH_WATER_BYTES)
            except OSError:
                return
            if not data or self.handler is None:
                return
            self.data_received(data)

    def _ended_on_purpose(self) -> bool:
        """Whether the end of the connection is the backend's.

        Over TLS only a close_notify says so (RFC 9112 9.8): anyone on the path can send a FIN.
        """
        tls: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            return not tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def eof_received(self) -> bool:
        """True keeps the transport open for a moment, see `_await_refusal`."""
        waits = (
            self.handler is not None and not self.response.started and self.served > 0 and self.tunnel is None
        )
        # asyncio keeps no half-closed TLS connection.
        if not waits or self.owner.context is not None:
            return False
        self._await_refusal(MAX_REFUSAL_POLLS)
        return True

    def _await_refusal(self, polls: int) -> None:
        """Finds out whether the backend had closed an idle connection before a request reached it.

        If its kernel refuses the bytes, it had: it cannot have acted on the request, which may then be repeated
        whatever it does. Refused bytes after an end set EPIPE (Linux).
        """
        if self.closed:
            return
        sock = self.transport.get_extra_info("socket")
        self.unread = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE
        if self.unread or not polls:
            self.transport.abort()
        else:
            self.owner.loop.call_later(REFUSAL_POLL_S, self._await_refusal, polls - 1)

    def pause_writing(self) -> None:
        if self.tunnel is not None:
            self.tunnel.pause_writing()
        elif self.handler is not None:
            self.handler.pause_upload()

    def resume_writing(self) -> None:
        if self.tunnel is not None:
            self.tunnel.resume_writing()
        elif self.handler is not None:
            self.handler.resume_upload()

    # Ends -------------------------------------------------------------------------------------------
    def _finish(self, handler: ResponseHandler) -> None:
        """The response is whole, and the read that ended it is over."""
        response = self.response
        self.handler = None
        self.served += 1
        if response.stale:
            response.restart()
        # An idle connection must be read, or its end goes unnoticed.
        if self._paused:
            self.resume_reading()
        if response.reusable and self.sent_whole and not response.excess and not self.transport.is_closing():
            self.owner.release(self)
        else:
            self.abandon()
        # Last: it may send the next request on this very connection.
        handler.on_end(b"")

    def _open_tunnel(self, data: bytes) -> None:
        """Hands over a connection whose 101 was accepted; ``data`` follows it."""
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.on_tunnel(self.response.switched(), data)

    def _fail(self, detail: str) -> None:
        """Ends a connection whose bytes are not a valid response."""
        handler = self.handler
        code = "backend_truncated" if self.response.head_done else "backend_protocol"
        self.abandon()
        if handler is not None:
            handler.on_failure(code, detail, idle_close=False)
