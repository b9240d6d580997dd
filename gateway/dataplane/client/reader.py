"""Strict HTTP/1.1 parsing of one client's requests, and the limits on what a client may send."""

from __future__ import annotations

from typing import Final

import httptools

from gateway.dataplane.base import PipelinedRequest
from gateway.dataplane.client.classify import classify
from gateway.dataplane.client.refusal import parse_error
from gateway.dataplane.client.timeouts import BodyProgress
from gateway.dataplane.client.writer import ResponseWriter
from gateway.dataplane.request.head import Head
from gateway.errors import TurnoutError
from gateway.http.fields import PASS, valid_host
from gateway.http2.frames import PREFACE

MAX_PIECE_BYTES: Final = 4096
"""Bytes parsed at a time where heads may be among them, so that limits hold to within a piece."""
MAX_CHUNKED_PIECE_BYTES: Final = 16_384
"""The same within a chunked body, whose end can't be foreseen,"""
DEAR_PIECE_BYTES: Final = 2048
"""and once that of the same request took long: its chunks are tiny."""
MAX_UNCLAIMED_BODY_BYTES: Final = 65_536
"""Bytes of a body that are read before the turn of its request has come."""
END_OF_LINE: Final = b" HTTP/1.1\r\n"
"""Of a request."""
SPACE: Final = ord(" ")
NO_REQUEST: Final = Head(0.0)
"""The head of a connection that has no request; never changed."""
PREFACE_SEEN: Final = "Pause on PRI/Upgrade"
"""What the parser says behind the preface of HTTP/2."""


class RequestQueue(ResponseWriter):
    """A client connection as its parser sees it."""

    __slots__ = ("current",)

    current: PipelinedRequest | None
    """The request whose response is next."""

    def enqueue(self, request: PipelinedRequest) -> None:
        """Takes a request whose head is complete."""
        raise NotImplementedError

    def refuse(self, error: TurnoutError) -> None:
        """Ends reading, with an error response behind those that are owed."""
        raise NotImplementedError

    def switch_to_http2(self, data: bytes) -> None:
        """Hands the connection over to HTTP/2; ``data`` follows the preface."""
        raise NotImplementedError

    def hold_body(self) -> None:
        """Reads no further body: the turn of its request has not come, and nothing takes it."""
        raise NotImplementedError


class RequestReader:
    """Feeds the parser and takes its callbacks."""

    __slots__ = (
        "_connection", "_fields_left", "_host", "_known", "_limits", "_lines", "_parser", "_skipped", "_start",
        "_url", "body", "dear", "head", "in_head", "incoming", "unclaimed",
    )  # fmt: skip

    def __init__(self, connection: RequestQueue) -> None:
        self._connection = connection
        self._parser = self._new_parser()
        self._skipped = False
        """Whether the parser passed the head of a request to upgrade and would skip its body."""
        self._known = connection.snapshot.actions.known
        self._limits = connection.snapshot.limits
        self._fields_left = 0
        self._url = b""
        self._start = b""
        """Bytes that may begin with the head of the request that comes."""
        self._host: bytes | None = None
        """The last request's; None: no request was read yet."""
        self._lines: list[bytes] = []
        self.head = NO_REQUEST
        self.in_head = False
        self.incoming: PipelinedRequest | None = None
        """The request whose body is being read."""
        self.unclaimed = 0
        """Bytes since the last byte of a body or the end of a message: of a head, chunk lines or trailers."""
        self.body = BodyProgress()
        self.dear = False
        """Whether a piece of this request took long to parse."""

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Bytes behind a last request vanish instead of raising: they belong to no request.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def forget(self) -> None:
        """Lets go of what the last request left in memory."""
        self.head = NO_REQUEST
        self._lines = []
        self._url = self._start = b""

    def step(self) -> int:
        """Bytes to feed next."""
        incoming = self.incoming
        if incoming is None or self.in_head:
            return MAX_PIECE_BYTES
        if incoming.head.chunked:
            return DEAR_PIECE_BYTES if self.dear else MAX_CHUNKED_PIECE_BYTES
        # Not beyond the body: what follows is a head, on which limits must hold to within a piece.
        return max(MAX_PIECE_BYTES, incoming.head.length - self.body.read)

    def feed(self, data: bytes) -> bytes | None:
        """Parses ``data``; returns None, or what follows a request to upgrade: a tunnel's bytes or a request."""
        self.unclaimed += len(data)
        # While a body is read, a piece begins no request line.
        if self.incoming is None:
            self._start = data
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser stands behind the head, even if a body follows: what follows is ours to judge.
                data = data[upgrade.args[0] :]
                incoming = self.incoming
                if incoming is not None and incoming.head.upgrade:
                    return data
                if self._skipped:
                    self._read_body()
                if data:
                    continue
            except httptools.HttpParserError as error:
                if self._is_preface(error):
                    self._connection.switch_to_http2(data[len(data) - (self.unclaimed - len(PREFACE)) :])
                    return None
                self._connection.refuse(parse_error(error, self.in_head))
                return None
            break
        if self.unclaimed > self._limits.head:
            self._connection.refuse(TurnoutError("head_too_large"))
        return None

    def _read_body(self) -> None:
        """Lets a new parser read the body that this one would skip: it gets the same framing without the upgrade."""
        self._parser = self._new_parser()
        connection = b"close" if self.head.close else b"keep-alive"
        framing = (
            b"transfer-encoding: chunked" if self.head.chunked else b"content-length: %d" % self.head.length
        )
        self._parser.feed_data(b"POST / HTTP/1.1\r\nconnection: %b\r\n%b\r\n\r\n" % (connection, framing))

    def _is_preface(self, error: httptools.HttpParserError) -> bool:
        """Whether the parser stopped behind the preface of HTTP/2, at the beginning of the connection."""
        # RFC 9113 3.4: the preface is the first thing that a client sends.
        return error.args == (PREFACE_SEEN,) and self._host is None and self.unclaimed >= len(PREFACE)

    def refused_head(self) -> Head:
        """Ends reading; returns the head for the error response to a request that can't be read."""
        if self.head is NO_REQUEST:
            self.head = Head(self._connection.now)
        elif self.in_head and self._url:
            self.head.method = self._parser.get_method()  # a HEAD's error has no body either
        self.head.close = True
        return self.head

    # The parser's side; what it raises is a TurnoutError, which `feed` makes a response -------------
    def on_message_begin(self) -> None:
        if self._skipped:
            self._fields_left += 2  # those of `_read_body`
            return
        connection = self._connection
        self.in_head, self.dear = True, False
        self._url = b""
        connection.snapshot = snapshot = connection.runtime.snapshot
        self.head = head = Head(connection.now)
        self._known = snapshot.actions.known
        self._limits = limits = snapshot.limits
        # It counts down to 0, which is the first field too many.
        self._fields_left = limits.fields + 1
        self._lines = head.lines

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._limits.target and not self._skipped:
            raise TurnoutError("target_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields_left -= 1
        if not self._fields_left:
            most = self._limits.fields
            raise TurnoutError("head_too_large", f"The request has more than {most} fields; send fewer.")
        if value and value[-1] <= SPACE:  # the parser has refused every other control character than the tab
            value = value.rstrip()
        try:
            action = self._known[name]
        except KeyError:
            action = self._connection.snapshot.actions.find(name)
        if action == PASS:
            self._lines.append(b"%b: %b\r\n" % (name, value))
        elif self.in_head:
            self.head.take(action, name, value)

    def on_headers_complete(self) -> None:
        if self._skipped:
            self._skipped = False
            return
        head, connection, parser = self.head, self._connection, self._parser
        limit = self._limits.head
        # `unclaimed` includes what follows the head in the same piece, so it only says when to count.
        if self.unclaimed > limit and sum(map(len, head.lines)) + len(self._url) > limit:
            raise TurnoutError("head_too_large")
        method, url, start = parser.get_method(), self._url, self._start
        self._start = b""
        # The parser makes a text of the version each time, so the usual request line is compared first. Neither method
        # nor target holds a space: if this stands where it should, it is the end of the first line.
        end = len(method) + 1 + len(url)
        usual = self.unclaimed == len(start) and start[end : end + 11] == END_OF_LINE
        version = "1.1" if usual else parser.get_http_version()
        upgrades = head.wants_upgrade != () and parser.should_upgrade()
        head.settle(version, method, url, upgrades, parser.should_keep_alive())
        if head.host != self._host:
            self._check_host(head)
        elif self._host is not None:
            head.host = self._host  # what it leads to is found faster: its hash is known
        self.in_head = False
        self._lines = []  # of trailers, which go nowhere
        progress = self.body
        progress.read = 0
        progress.since = connection.now
        self.incoming = request = classify(connection, head)
        connection.enqueue(request)
        # The parser treats everything behind a request to upgrade as another protocol, a body included.
        self._skipped = upgrades and (head.chunked or head.length > 0)

    def _check_host(self, head: Head) -> None:
        """Remembers a valid host: most requests of a connection name the same one."""
        if head.hosts and not valid_host(head.host):
            raise TurnoutError("bad_host")
        self._host = head.host or None

    def on_body(self, data: bytes) -> None:
        self.unclaimed = 0
        progress = self.body
        progress.read = read = progress.read + len(data)
        request = self.incoming
        if request is None:
            return
        # A body in chunks announces no length, so it is counted as it comes.
        if read > request.body_limit:
            raise TurnoutError("body_too_large")
        request.on_request_data(data)
        # Behind another request nothing sends it on yet, so it would fill memory.
        if read > MAX_UNCLAIMED_BODY_BYTES and request is not self._connection.current:
            self._connection.hold_body()

    def on_message_complete(self) -> None:
        if self._skipped:
            return
        self.unclaimed = 0
        request, self.incoming = self.incoming, None
        if request is not None:
            if request.head.upgrade:
                self.incoming = request  # so that `feed` sees the upgrade
            request.on_request_end()
