"""HTTP/2 with a backend, without I/O: a session, whose streams serve requests side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Final

from gateway.http.grpc import judged_status
from gateway.http2.connection import Connection as Http2
from gateway.http2.errors import (
    CANCEL,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    ConnectionFault,
    StreamFault,
)
from gateway.http2.fields import Field
from gateway.http2.frames import MAX_WINDOW
from gateway.http2.hpack import HeaderList
from gateway.http2.limits import MAX_TURN_FRAMES, Limits
from gateway.http2.stream import Stream, StreamOwner
from gateway.transport.base import Connection, ResponseHandler, ResponseHead
from gateway.transport.http2_head import HeadEncoder, response_lines
from gateway.transport.response import MAX_FIELDS, MAX_HEAD_BYTES, MAX_INTERIM_RESPONSES

MAX_STREAMS: Final = 100
"""Requests on one connection at the same time, if the backend permits as many."""
CONNECTION_WINDOW_BYTES: Final = 1 << 30
"""Only the windows of streams bound what waits: clients that do not read must not hold up others."""
MAX_STREAM_WINDOW_BYTES: Final = 2 << 20
MAX_GROWN_BYTES: Final = 16 << 20
"""The windows of streams grow to these while clients take what comes: of one, and of all on a connection if each had
that of the one that grows. A backend that is far away sends one window per round trip."""
MIN_SILENCE_S: Final = 1.0
"""Seconds without a byte after which a request that is given up makes its connection suspect."""


class SessionOwner:
    """The address that a session belongs to."""

    __slots__ = ("heads", "loop")

    loop: asyncio.AbstractEventLoop
    heads: HeadEncoder

    def on_idle(self, session: Http2Session) -> None:
        """No request is in flight on ``session``."""
        raise NotImplementedError

    def forget(self, session: Http2Session) -> None:
        """``session`` has ended, or takes no further requests."""
        raise NotImplementedError

    def on_http1(self, transport: asyncio.Transport) -> None:
        """The backend has not agreed on HTTP/2."""
        raise NotImplementedError


class BackendStream(Stream):
    """One request and its response."""

    __slots__ = ("connection_of", "held_head", "interims")

    connection_of: StreamConnection

    def __init__(self, connection: StreamOwner, stream_id: int, owner: StreamConnection) -> None:
        super().__init__(connection, stream_id)
        self.connection_of = owner
        self.held_head: ResponseHead | None = None
        """Held until what arrived with it is read: a gRPC status right behind it is still judged with it."""
        self.interims = 0

    def pass_head(self) -> None:
        """Hand over the head if it was held."""
        head, self.held_head = self.held_head, None
        handler = self.connection_of.handler
        if head is not None and handler is not None:
            handler.on_head(head)

    def pass_whole(self, lines: list[bytes]) -> None:
        """Hand over the head if it was held; ``lines``, the last of the response, have its gRPC status, if any."""
        head = self.held_head
        if head is not None:
            judged = judged_status(lines, 0)
            head.judged = judged or head.status
            head.statusless = not judged
            self.pass_head()

    def on_data(self, data: bytes) -> None:
        self.pass_head()
        handler = self.connection_of.handler
        if handler is not None:
            handler.on_data(data)

    def on_end(self, trailers: list[Field]) -> None:
        lines = response_lines(trailers)
        self.pass_whole(lines)
        handler = self.connection_of.take_handler()
        if self.local_open:
            self.reset(NO_ERROR)  # it responded early: the rest of the request has no reader
        if handler is not None:
            handler.on_end(b"".join(lines))

    def on_batch_end(self) -> None:
        self.pass_head()
        handler = self.connection_of.handler
        if handler is not None and self.head_done:
            handler.flush()

    def on_reset(self, code: int) -> None:
        # RFC 9113 8.7: it promises that the request was not processed, so it may be sent again.
        refused = code == REFUSED_STREAM and not self.head_done
        self.connection_of.fail("it reset the request's stream", self._head_passed(), unread=refused)

    def on_fault(self, fault: StreamFault) -> None:
        self.connection_of.fail(fault.message, self._head_passed(), protocol=True)

    def _head_passed(self) -> bool:
        """Whether the head was handed over. One that is held is dropped: the client can get another response."""
        held, self.held_head = self.held_head, None
        return self.head_done and held is None

    def on_blocked(self) -> None:
        handler = self.connection_of.handler
        if handler is not None:
            handler.pause_upload()

    def on_drained(self) -> None:
        handler = self.connection_of.handler
        if handler is not None:
            handler.resume_upload()


class StreamConnection(Connection):
    """A stream as the sender of a request sees it: a connection for one request."""

    __slots__ = ("_head_only", "_session", "_started", "_stream")

    def __init__(self, session: Http2Session) -> None:
        self._session = session
        self._stream: BackendStream | None = None
        self._started = 0.0
        self._head_only = False
        self.transport = session.transport
        self.handler = None
        self.closed = self.sent_whole = self.unread = False
        self.tunnel = None

    # Called by the handler --------------------------------------------------------------------------
    def send_request(
        self, handler: ResponseHandler, head_only: bool, head: list[bytes], body: list[bytes]
    ) -> None:
        self._start(handler, head_only, head, body, end=True)

    def begin_request(
        self, handler: ResponseHandler, head_only: bool, head: list[bytes], body: list[bytes], chunked: bool
    ) -> None:
        self._start(handler, head_only, head, body, end=False)

    def _start(
        self, handler: ResponseHandler, head_only: bool, head: list[bytes], body: list[bytes], *, end: bool
    ) -> None:
        self.handler = handler
        self._head_only = head_only
        self.sent_whole = end
        session = self._session
        if session.ended:
            self.fail("its connection has ended", False, unread=True)
            return
        self._started = perf_counter()
        session.highest += 2 if session.highest else 1
        self._stream = stream = BackendStream(session, session.highest, self)
        session.open(stream)
        data = b"".join(body)
        block = session.owner.heads.encode(head)
        if end:
            stream.send_message(block, data)
        else:
            stream.send_head(block, end=False)
            if data:
                stream.send_data(data)
        session.flush_soon()

    def send_body(self, pieces: list[bytes], end: bool) -> None:
        self.sent_whole = end
        stream = self._stream
        if stream is not None and stream.local_open:
            stream.send_data(b"".join(pieces), end=end)
            self._session.flush_soon()

    def pause_reading(self) -> None:
        if self._stream is not None:
            self._stream.hold(full=True)

    def resume_reading(self) -> None:
        if self._stream is not None:
            self._stream.hold(full=False)

    def abandon(self) -> None:
        stream = self._stream
        self._release()
        if stream is not None:
            # A request given up early says nothing; nor does one whose connection has since brought bytes of others.
            if self._silent and perf_counter() - self._started > MIN_SILENCE_S:
                self._session.retire()
            stream.reset(CANCEL)
            self._session.flush_soon()

    @property
    def _silent(self) -> bool:
        """Whether no byte came on the connection since the request was sent."""
        return self._session.now < self._started

    def _release(self) -> ResponseHandler | None:
        """The request and its stream have done with each other: no cycle is left for the collector."""
        handler, self.handler = self.handler, None
        self._stream = None
        self.closed = True
        return handler

    # Called by the stream ---------------------------------------------------------------------------
    def on_connection_lost(self, *, head_done: bool) -> None:
        """The connection has ended; perhaps it was closed while it was idle, before the request reached it."""
        handler = self._release()
        if handler is not None:
            code = "backend_truncated" if head_done else "backend_reset"
            race = self._silent and self._session.served > 0
            handler.on_failure(code, "it closed the connection before it responded", idle_close=race)

    def take_handler(self) -> ResponseHandler | None:
        """The response is over."""
        self._session.served += 1
        return self._release()

    def fail(self, detail: str, head_done: bool, *, unread: bool = False, protocol: bool = False) -> None:
        """No whole response will come. ``unread``: the backend has not acted on the request."""
        handler = self._release()
        self.unread = unread
        if handler is not None:
            code = "backend_truncated" if head_done else "backend_protocol" if protocol else "backend_reset"
            handler.on_failure(code, detail, idle_close=unread)

    def on_response_head(self, stream: BackendStream, headers: HeaderList, *, end: bool) -> None:
        """Passes on an interim response or the head of the final one.

        Raises:
            StreamFault: The head is malformed or too large.
        """
        handler = self.handler
        if handler is None:
            return
        if headers.oversized:
            raise StreamFault(PROTOCOL_ERROR, f"its head is larger than {MAX_HEAD_BYTES} bytes")
        fields = headers.as_response()
        if fields.fault:
            raise StreamFault(PROTOCOL_ERROR, f"its response has {fields.fault}")
        status = fields.status
        if status < 200:
            stream.interims += 1
            if status == 101 or end or fields.length >= 0 or stream.interims > MAX_INTERIM_RESPONSES:
                raise StreamFault(PROTOCOL_ERROR, "its interim response is not valid, or one too many")
            handler.on_interim(status, response_lines(fields.regular))
            return
        stream.head_done = True
        bodiless = self._head_only or status in (204, 304)
        if not bodiless:
            stream.expected = fields.length
        if fields.lines is None:
            fields.lines = response_lines(fields.regular)
        lines = fields.lines.copy()
        head = ResponseHead(status, lines, fields.length, False, bodiless, False)
        head.request_id = fields.request_id
        stream.held_head = head
        if end:
            stream.pass_whole(lines)


class Http2Session(Http2):
    """The streams of one connection."""

    __slots__ = ("owner", "ready", "served", "transport")

    def __init__(self, owner: SessionOwner, transport: asyncio.Transport) -> None:
        limits = Limits(
            connection_window=CONNECTION_WINDOW_BYTES,
            max_list_bytes=MAX_HEAD_BYTES,
            max_fields=MAX_FIELDS,
            turn_frames=MAX_TURN_FRAMES,
        )
        super().__init__(limits, client=True)
        self.owner = owner
        self.transport = transport
        self.served = 0
        """Whole responses so far."""
        self.ready: asyncio.Future[None] = owner.loop.create_future()
        """Done when the backend's settings came; an OSError if it ends before."""

    @property
    def has_room(self) -> bool:
        """Whether another request can be sent."""
        return (
            not self.closing
            and not self.ended
            and len(self.streams) < min(self.peer.streams, MAX_STREAMS)
            # Stream numbers are never used again (RFC 9113 5.1.1): the connection ends when they run out.
            and self.highest < MAX_WINDOW - 2
        )

    def open(self, stream: Stream) -> None:
        """Count a stream that we open."""
        self.streams[stream.id] = stream

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def _call_soon(self, work: Callable[[], None]) -> None:
        self.owner.loop.call_soon(work)

    def on_response_head(self, stream: Stream, headers: HeaderList, *, end: bool) -> None:
        assert isinstance(stream, BackendStream)
        stream.connection_of.on_response_head(stream, headers, end=end)

    def widened(self, window: int) -> int:
        wider = 2 * window
        if wider > MAX_STREAM_WINDOW_BYTES or wider * len(self.streams) > MAX_GROWN_BYTES:
            return window
        return wider

    def on_settings(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
        elif not (self.streams or self.has_room):
            self.end(None)  # it permits no further requests

    def on_ended(self, fault: ConnectionFault | None) -> None:
        self.fail(f"it does not speak HTTP/2: {fault.message}" if fault is not None else "it was given up")
        self.transport.close()

    def fail(self, reason: str) -> None:
        """Take no further requests; requests that wait for the settings get ``reason``."""
        self.owner.forget(self)
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))

    def retire(self) -> None:
        """Take no further requests: nothing says that the backend still has this connection.

        The other end may be gone without a word. Requests in flight keep their own time limits.
        """
        self.closing = True
        self.owner.forget(self)

    def on_goaway(self, last_stream: int, code: int) -> None:
        """Streams beyond ``last_stream`` were not acted on, and may be repeated."""
        self.owner.forget(self)
        for stream in tuple(self.streams.values()):
            if stream.id > last_stream:
                stream.drop()
                stream.on_reset(REFUSED_STREAM)
        if not self.streams:
            self.transport.close()

    def on_idle(self) -> None:
        # A reset that was sent with the last stream's end must leave before the connection does.
        self.flush()
        if self.closing:
            self.transport.close()
        else:
            self.owner.on_idle(self)
