"""Strict parsing of HTTP/1.1 responses: what is ambiguous is refused, never guessed."""

from __future__ import annotations

from typing import Final

import httptools

from gateway.http.fields import (
    CODING,
    CONNECTION,
    DROP,
    KEEP,
    LENGTH,
    PASS,
    REQUEST_ID,
    RESPONSE_ACTIONS,
    UPGRADE,
    Actions,
    tokens,
)
from gateway.transport.base import Connection, ResponseHead

MAX_HEAD_BYTES: Final = 65_536
MAX_FIELDS: Final = 128
MAX_INTERIM_RESPONSES: Final = 8
"""1xx responses before the final one."""
MAX_KEEP_ALIVE_S: Final = 3600
FIRST_BYTE: Final = ord("H")
"""First byte of a response; the parser would take RTSP for HTTP."""
SPACE: Final = ord(" ")
HTTP11: Final = b"HTTP/1.1 "
_ACTIONS: Final = Actions(RESPONSE_ACTIONS)


class BadResponseError(Exception):
    """The backend's bytes are not a valid response."""


class ResponseParser:
    """Parses the responses on one connection, one after another, and calls the connection's handler."""

    __slots__ = (
        "_coding",
        "_connection",
        "_fields",
        "_http11",
        "_interim",
        "_interims",
        "_is_head",
        "_length",
        "_lines",
        "_parser",
        "_request_id",
        "_upgrade",
        "connection",
        "done",
        "excess",
        "head_done",
        "idle_timeout",
        "reusable",
        "stale",
        "started",
        "unbounded_bytes",
        "until_close",
    )

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._parser = httptools.HttpResponseParser(self)
        self.idle_timeout = 0.0
        """Seconds for which the backend keeps an idle connection (``keep-alive: timeout=``); 0.0 if unknown."""

    def begin(self, head_only: bool) -> None:
        """Prepares for one response; ``head_only``: the request's method is HEAD, so no body follows."""
        self._is_head = head_only
        self.started = False
        """Whether any byte of the response came."""
        self.done = False
        """Whether the response is complete."""
        self.excess = False
        """Whether bytes came behind the response, so that the connection cannot serve again."""
        self._interims = 0
        self.unbounded_bytes = 0
        """Bytes read since the last byte of a body: of a head, chunk lines or trailers."""
        self._lines: list[bytes] = []
        self._fields = 0
        self._length = -1
        self._coding: tuple[bytes, ...] = ()
        self._connection: tuple[bytes, ...] = ()
        self._upgrade: tuple[bytes, ...] = ()
        self._request_id = b""
        self.head_done = False
        self._interim = False
        self._http11 = False
        """Known without asking the parser, which makes a text of the version each time."""
        self.until_close = False
        self.stale = False
        """Whether the parser waits for a body that does not come: it has no such call."""

    def feed(self, data: bytes) -> None:
        """Parses ``data``, which is not empty, and calls the handler.

        Raises BadResponseError, `httptools.HttpParserUpgrade` and `httptools.HttpParserError`.
        """
        if not self.started:
            self.started = True
            if data[0] != FIRST_BYTE:
                raise BadResponseError("its status line is not HTTP")
            self._http11 = data[:9] == HTTP11  # a third of the cost of startswith
        self.unbounded_bytes += len(data)
        self._parser.feed_data(data)

    @property
    def chunked(self) -> bool:
        """Whether the body of the response, whose head is complete, comes in chunks."""
        return bool(self._coding)

    def restart(self) -> None:
        """Replaces a parser that is `stale`."""
        self._parser = httptools.HttpResponseParser(self)

    def switched(self) -> ResponseHead:
        """The head of the 101 response that was accepted."""
        self._lines.append(b"upgrade: %b\r\n" % self._upgrade[0])
        return ResponseHead(101, self._lines, -1, False, True, False)

    # Called by httptools, which wraps what they raise: `Connection._on_error` unwraps it -------------
    def on_message_begin(self) -> None:
        if self.done:
            self.excess = True
            raise BadResponseError("it sent bytes behind the end of its response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self.head_done or self._fields > MAX_FIELDS:
            if self._fields > MAX_FIELDS:
                raise BadResponseError(f"its response has more than {MAX_FIELDS} fields")
            return  # a trailer
        try:
            action = _ACTIONS.known[name]
        except KeyError:
            action = _ACTIONS.find(name)
        if action == PASS:
            # The parser has refused every other control character than the tab.
            if value and value[-1] <= SPACE:
                value = value.rstrip()
            self._lines.append(b"%b: %b\r\n" % (name, value))
        elif action == LENGTH:
            self._length = int(value)  # llhttp has refused what is not a number, and a second one
        elif action == CODING:
            self._coding += (value,)
        elif action == CONNECTION:
            self._connection += (value,)
        elif action == UPGRADE:
            self._upgrade += (value.rstrip(b" \t").lower(),)
        elif action == KEEP:
            self._note_keep_alive(value)
        elif action == REQUEST_ID:  # the client gets the gateway's
            self._request_id = value.rstrip(b" \t")
            self._lines.append(b"x-backend-request-id: %b\r\n" % self._request_id)
        else:
            assert action == DROP

    def _note_keep_alive(self, value: bytes) -> None:
        for part in value.split(b","):
            name, _, seconds = part.strip().partition(b"=")
            if name.lower() == b"timeout" and seconds.isdigit():
                # Cut first: Python refuses to convert a number of more than 4,300 digits.
                self.idle_timeout = float(min(int(seconds[:6]), MAX_KEEP_ALIVE_S))

    def on_headers_complete(self) -> None:
        if self.done:
            return
        # `unbounded_bytes` includes what follows the head in the same read, so it only says when to count.
        if self.unbounded_bytes > MAX_HEAD_BYTES and sum(map(len, self._lines)) > MAX_HEAD_BYTES:
            raise BadResponseError(f"its head is larger than {MAX_HEAD_BYTES} bytes")
        status = self._parser.get_status_code()
        if not self._http11 or not 100 <= status <= 599:
            self._check_status_line(status)
        chunked = False
        if self._coding:
            self._check_coding()
            chunked = True
        if self._connection:
            self._strip_listed()
        if status < 200:
            self._on_interim_head(status, chunked)
            return
        self.head_done = True
        self.reusable = self._parser.should_keep_alive()
        # RFC 9112 6.3: whatever their fields announce.
        bodiless = self._is_head or status == 204 or status == 304
        if bodiless:
            self.stale = True
            if status == 204 and (chunked or self._length > 0):
                self.reusable = False  # a 204 must not announce a body; whether one follows is unknown
        elif self._length < 0 and not chunked:
            self.until_close = True
            self.reusable = False
        handler = self.connection.handler
        assert handler is not None
        head = ResponseHead(status, self._lines, self._length, chunked, bodiless, self.until_close)
        head.request_id = self._request_id
        handler.on_head(head)
        if bodiless:
            self.done = True

    def _check_status_line(self, status: int) -> None:
        version = self._parser.get_http_version()
        if not 100 <= status <= 599 or version not in ("1.0", "1.1"):
            raise BadResponseError("its status line is not HTTP/1.0 or HTTP/1.1")
        self._http11 = version == "1.1"

    def _check_coding(self) -> None:
        if (
            len(self._coding) != 1
            or self._coding[0].strip(b" \t").lower() != b"chunked"
            or not self._http11
            or self._length >= 0
        ):
            raise BadResponseError("its transfer-encoding is not plain 'chunked'")

    def _strip_listed(self) -> None:
        """Removes the fields that Connection names (RFC 9110 7.6.1)."""
        listed = [
            token for token in tokens(self._connection) if token not in (b"close", b"keep-alive", b"upgrade")
        ]
        if listed:
            prefixes = tuple(token + b":" for token in listed)
            self._lines = [line for line in self._lines if not line.lower().startswith(prefixes)]

    def _on_interim_head(self, status: int, chunked: bool) -> None:
        self._interims += 1
        if self._interims > MAX_INTERIM_RESPONSES:
            raise BadResponseError(f"it sent more than {MAX_INTERIM_RESPONSES} interim responses")
        handler = self.connection.handler
        assert handler is not None
        # A 1xx has no body (RFC 9110 15.2); one that announces it hides where the final head begins.
        if self._length >= 0 or chunked:
            raise BadResponseError("its interim response announces a body")
        if status == 101:
            if not handler.upgrade:
                raise BadResponseError("it switched protocols without being asked to")
            if self._upgrade != (handler.upgrade,) or b"upgrade" not in tokens(self._connection):
                raise BadResponseError("it switched to another protocol than was asked for")
            return
        self._interim = True
        handler.on_interim(status, self._lines)

    def on_body(self, data: bytes) -> None:
        if self.done:
            self.excess = True
            return
        self.unbounded_bytes = 0
        handler = self.connection.handler
        if handler is not None:
            handler.on_data(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._await_next_head()
        else:
            self.done = True

    def _await_next_head(self) -> None:
        """Goes on after an interim response."""
        # Both count on, or a backend could send interim responses without end.
        interims, unbounded_bytes = self._interims, self.unbounded_bytes
        self.begin(self._is_head)
        self.started = True
        self._interims, self.unbounded_bytes = interims, unbounded_bytes
