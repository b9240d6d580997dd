"""One client connection: strict HTTP/1.1 parsing, one request at a time, deadlines against slow clients.

Later requests of a pipeline wait: those of the same read parsed, everything else unparsed in `_backlog`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Final, cast

import httptools

from backends.errors import HeadTooLarge, InvalidInput, ServerError, TargetTooLong, Unavailable
from backends.http import deadlines
from backends.http.host import Host, handle
from backends.http.message import (
    Fields,
    Request,
    Response,
    add_piece,
    error_response,
    guarded,
    response_head,
)
from backends.http.request_head import RequestHead

MAX_HEAD_BYTES: Final = 64 * 1024
"""Also of chunk lines and trailers between two pieces of a body."""
MAX_FIELDS: Final = 128
MAX_TARGET_BYTES: Final = 8 * 1024
MAX_BACKLOG_BYTES: Final = 64 * 1024
MAX_BUFFERED_BYTES: Final = 1 << 30
"""Of unfinished bodies on all connections."""
FEED_BYTES: Final = 16 * 1024
"""Parsed per step while a head is incomplete, so that limits apply to within one step."""


class Connection(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_app", "_backlog", "_body", "_body_limit", "_deaf", "_fields", "_host", "_last_head", "_parser",
        "_reading_paused", "_skipped", "body_size", "closing", "current", "in_head", "incoming", "pending", "raw",
        "since", "transport", "unsent", "write_paused",
    )  # fmt: skip

    def __init__(self, host: Host) -> None:
        self._host = host
        self._app = host.app
        self._parser = self._new_parser()
        self._skipped = False
        """Whether the parser passed the head of a request to upgrade and would skip its body."""
        self.transport = cast("asyncio.Transport", None)
        self.current: Request | None = None
        """The request that awaits its response."""
        self.incoming: RequestHead | None = None
        """Of the request that is being read."""
        self._last_head: RequestHead | None = None
        """Of the last request that was completed by the bytes now being parsed."""
        self.pending: list[Request | ServerError] = []
        """Requests read behind `current`, and what could not be read."""
        self._backlog = b""
        self._body: list[bytes | bytearray] = []
        self.body_size = 0
        self._body_limit = 0
        self.raw = 0
        self._fields = 0
        self.in_head = False
        self._deaf = False
        """Incoming bytes are dropped: no further request is read."""
        self.closing = False
        """The last response has been written."""
        self._reading_paused = False
        self.write_paused = False
        self.unsent = 0
        self.since = monotonic()
        """When the present state began: idle, reading a head, reading a body, not taking bytes, lingering."""

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Bytes behind a last request vanish instead of raising.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    # The transport's side ----------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if not self._host.opened(self):
            self._refuse(Unavailable("too many connections; try again as Retry-After says"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.closed(self)
        self._release_body()
        self._deaf = True
        self.pending.clear()
        self._backlog = b""
        request, self.current = self.current, None
        if request is not None and request.abandon is not None:
            request.abandon()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self.current is not None or self.pending or self._backlog:
            self._hold(data)
        elif (
            self._between_requests
            and not self.write_paused
            and (request := self._host.heads.find(data)) is not None
        ):
            self._handle(Request(self, *request))
        else:
            self._parse(data)

    @property
    def _between_requests(self) -> bool:
        return self.raw == 0 and self.incoming is None

    def pause_writing(self) -> None:
        self.write_paused = True
        self.unsent = self.transport.get_write_buffer_size()
        self.since = monotonic()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._advance()

    def _hold(self, data: bytes) -> None:
        self._backlog += data
        if len(self._backlog) > MAX_BACKLOG_BYTES and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _parse(self, data: bytes) -> None:
        fresh = self._between_requests
        if fresh:
            self.since = monotonic()
            self._last_head = None
        try:
            if len(data) <= FEED_BYTES:
                self.raw += len(data)
                self._feed(data)
                if fresh and self._between_requests and self._last_head is not None:
                    self._host.heads.add(data, self._last_head)
            else:
                self._parse_stepwise(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.fault(
                cause
                if isinstance(cause, ServerError)
                else InvalidInput("the request is not valid HTTP/1.1; see RFC 9112")
            )
            return
        if self.raw > MAX_HEAD_BYTES and not self._deaf:
            self.fault(HeadTooLarge("the head is too large; send fewer or smaller fields"))

    def _parse_stepwise(self, data: bytes) -> None:
        place = 0
        while place < len(data) and not self._deaf:
            if self.current is not None:
                self._hold(data[place:])
                return
            size = FEED_BYTES if self.in_head or self.incoming is None else len(data) - place
            piece = data[place : place + size]
            place += len(piece)
            self.raw += len(piece)
            self._feed(piece)
            if self.raw > MAX_HEAD_BYTES and self.in_head:
                return

    def _feed(self, data: bytes) -> None:
        """Parses ``data``. A request to upgrade is a plain one. Raises httptools.HttpParserError."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            if self._skipped:
                assert self.incoming is not None
                self._parser = self._new_parser()
                self._parser.feed_data(self.incoming.framing())

    # The parser's side; what it raises is a ServerError, which `_parse` makes a response --------------
    def on_message_begin(self) -> None:
        self._fields = 0
        if self._skipped:
            return
        self.incoming = RequestHead()
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        head = self.incoming
        if self._skipped:
            return
        assert head is not None
        head.target += url
        if len(head.target) > MAX_TARGET_BYTES:
            raise TargetTooLong("the target is too long; send a shorter one")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise HeadTooLarge(f"the request has more than {MAX_FIELDS} fields; send fewer")
        if self.in_head:  # and trailers are dropped
            assert self.incoming is not None
            self.incoming.field(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        if self._skipped:
            self._skipped = False
            return
        head = self.incoming
        assert head is not None
        self.in_head = False
        if self.raw > MAX_HEAD_BYTES:
            raise HeadTooLarge("the head is too large; send fewer or smaller fields")
        parser = self._parser
        head.method = parser.get_method()
        head.check(parser.get_http_version())
        head.close = not parser.should_keep_alive()
        self._body_limit = self._app.body_limit(head)
        if head.length > self._body_limit:
            raise self._app.too_large(head, self._body_limit)
        if head.expects_continue and self.current is None and not head.http10:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._skipped = parser.should_upgrade() and head.has_body

    def on_body(self, data: bytes) -> None:
        self.raw = 0
        if not self._body:
            self.since = monotonic()
        add_piece(self._body, data)
        self.body_size += len(data)
        self._host.buffered += len(data)
        if self.body_size > self._body_limit:
            assert self.incoming is not None
            raise self._app.too_large(self.incoming, self._body_limit)
        if self._host.buffered > MAX_BUFFERED_BYTES:
            raise Unavailable("the server holds too many unfinished requests; try again as Retry-After says")

    def on_message_complete(self) -> None:
        if self._skipped:
            return
        self.raw = 0
        head = self.incoming
        assert head is not None
        self.incoming = None
        self._last_head = head
        request = Request(self, head)
        if self._body:
            request.body = b"".join(self._body)
            self._release_body()
        if request.close:
            self._deaf = True
        if self.current is None and not self.pending and not self.write_paused:
            self._handle(request)
        else:
            self.pending.append(request)

    def _release_body(self) -> None:
        self._host.buffered -= self.body_size
        self._body = []
        self.body_size = 0

    # Requests and responses --------------------------------------------------------------------------
    def _handle(self, request: Request) -> None:
        self.current = request
        handle(self._app, request)

    def spawn(self, request: Request, work: Coroutine[None, None, None]) -> None:
        """Runs ``work``, which responds to ``request``."""
        self._host.spawn(guarded(request, work))

    def respond(self, request: Request, response: Response) -> None:
        """Sends the whole response to ``request``."""
        if request is not self.current:
            return
        body = response.body
        start = response_head(response.status, response.fields, self._last(request), request.head.http10)
        self.transport.write(
            b"%bcontent-length: %d\r\n\r\n%b"
            % (start, len(body), b"" if request.head.method == b"HEAD" else body)
        )
        self._complete(request)

    def start(self, request: Request, fields: Fields) -> None:
        """Sends the head of a 200 to ``request``; its body follows."""
        if request is not self.current:
            return
        if request.head.http10:  # no chunks there: the body ends with the connection
            request.close = True
        framing = b"" if request.head.http10 else b"transfer-encoding: chunked\r\n"
        self.transport.write(response_head(200, fields, self._last(request)) + framing + b"\r\n")

    def send(self, request: Request, data: bytes) -> None:
        """Sends a piece of the body that `start` announced."""
        if request is self.current and data:
            self.transport.write(data if request.head.http10 else b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, request: Request) -> None:
        """Ends the body that `start` announced."""
        if request is self.current:
            if not request.head.http10:
                self.transport.write(b"0\r\n\r\n")
            self._complete(request)

    def _last(self, request: Request) -> bool:
        if self._host.draining:
            request.close = True
        return request.close

    def _complete(self, request: Request) -> None:
        self.current = None
        if request.close:
            self._close()
            return
        if self.pending or self._backlog:
            # Not from within this call: a pipeline of thousands would recurse as deep.
            asyncio.get_running_loop().call_soon(self._advance)
        else:
            self.since = monotonic()

    def _advance(self) -> None:
        while self.current is None and not self.closing and not self.write_paused:
            if self.pending:
                item = self.pending.pop(0)
                if isinstance(item, ServerError):
                    self._refuse(item)
                else:
                    self._handle(item)
            elif self._backlog and not self._deaf:
                data, self._backlog = self._backlog, b""
                self._parse(data)
            else:
                break
        if (
            self._reading_paused
            and len(self._backlog) <= MAX_BACKLOG_BYTES
            and not self.transport.is_closing()
        ):
            self._reading_paused = False
            self.transport.resume_reading()

    # Faults and ends ---------------------------------------------------------------------------------
    def fault(self, error: ServerError) -> None:
        """The incoming bytes can't be understood: an error response behind those owed, then the end."""
        self._deaf = True
        self._backlog = b""
        self._release_body()
        if self.current is None and not self.pending:
            self._refuse(error)
        else:
            self.pending.append(error)

    def _refuse(self, error: ServerError) -> None:
        response = error_response(error)
        head = self.incoming or RequestHead()
        body = b"" if head.method == b"HEAD" else response.body
        start = response_head(response.status, response.fields, True)
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (start, len(response.body), body))
        self.incoming = head  # so that unread bytes are expected
        self._close()

    def _close(self) -> None:
        """Ends the connection after its last response; unread bytes are read for a moment first."""
        unread = self.incoming is not None or self.raw or self._backlog or self.pending
        self.closing = self._deaf = True
        self._backlog = b""
        self.pending.clear()
        self.since = monotonic()
        if unread and self.transport.can_write_eof():
            if self._reading_paused:
                self._reading_paused = False
                self.transport.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def drain(self) -> None:
        """Closes the connection if it is idle; others end after their response, because the server drains."""
        if self.current is None and self._between_requests and not self.pending:
            self.transport.close()

    def check(self, now: float) -> None:
        """Ends the connection if a deadline has passed; called about once a second."""
        deadlines.check(self, now)
