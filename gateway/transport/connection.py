"""One HTTP/1.1 connection to a backend.

The protocol parses answers strictly (what is ambiguous is refused, never guessed) and hands them to its
`User` as they come. It knows nothing of routes or variants. The order of events for one request:

    on_interim*  on_head  on_data*  on_end          a whole answer
    ...          on_failure                         anything else, exactly once

``flush`` follows each batch of events that came out of one read, so that a user can answer many small
events with one write.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from gateway.http.fields import (
    ANSWER_ACTIONS,
    CODING,
    CONNECTION,
    DROP,
    KEEP,
    LENGTH,
    REQUEST_ID,
    UPGRADE,
    tokens,
)
from gateway.internal_errors import INTERNAL_ERRORS

if TYPE_CHECKING:
    from gateway.transport.pool import Address

HEAD_LIMIT: Final = 65_536
FIELD_LIMIT: Final = 128
FIRST_BYTE: Final = ord("H")
"""Of an answer: the parser would take RTSP for HTTP."""
MODERN: Final = b"HTTP/1.1 "
"""Nearly every answer begins so; the parser makes a text of the version each time that it is asked."""
INTERIM_LIMIT: Final = 8
"""Most 1xx answers before the final one."""
HIGH_WATER: Final = 65_536
LAST_READS: Final = 16
"""Reads of up to `HIGH_WATER` bytes that are made of a connection which a failed write has ended."""
REFUSAL_WAIT: Final = 0.01
REFUSAL_LOOKS: Final = 5
"""Seconds between two looks for the refusal of a request, and how many: a round trip takes no longer."""


class User(Protocol):
    """Whoever sent the request."""

    upgrade: bytes
    """The lower-cased protocol the request asks to change to; b"" for none: a 101 is then an error."""

    def on_connected(self, connection: BackendConnection) -> None: ...
    def on_interim(self, status: int, lines: list[bytes]) -> None: ...
    def on_head(self, answer: Answer) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_failure(self, code: str, detail: str, *, fresh: bool) -> None:
        """``fresh``: no byte of an answer came and the connection had served before (the idle-close race)."""
        ...

    def on_tunnel(self, answer: Answer, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def pause_upload(self) -> None: ...
    def resume_upload(self) -> None: ...


class Pipe(Protocol):
    """Whoever takes the bytes of a connection that has switched protocols."""

    def data_received(self, data: bytes) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Answer:
    """The head of an answer, checked."""

    __slots__ = ("bodiless", "chunked", "length", "lines", "status", "until_close")

    def __init__(
        self, status: int, lines: list[bytes], length: int, chunked: bool, bodiless: bool, until_close: bool
    ) -> None:
        self.status = status
        self.lines = lines
        """Whole field lines, ready to be written; framing, hop-by-hop and our own fields are gone."""
        self.length = length
        """Content-Length; -1 where there is none."""
        self.chunked = chunked
        self.bodiless = bodiless
        self.until_close = until_close


class BadAnswerError(Exception):
    """The backend's bytes are no valid answer."""


class BackendConnection(asyncio.Protocol):
    """See the module. ``user`` is None while the connection rests in the pool."""

    __slots__ = (
        "_coding",
        "_connection",
        "_done",
        "_fields",
        "_head_done",
        "_interim",
        "_interims",
        "_keep",
        "_length",
        "_lines",
        "_modern",
        "_paused",
        "_poisoned",
        "_raw",
        "_started",
        "_until_close",
        "_upgrade",
        "address",
        "closed",
        "idle_limit",
        "idle_since",
        "method_head",
        "parser",
        "sent_whole",
        "served",
        "transport",
        "tunnel",
        "unread",
        "user",
    )  # fmt: skip

    def __init__(self, address: Address, user: User | None) -> None:
        self.address = address
        self.user = user
        self.transport = cast("asyncio.Transport", None)
        self.parser = httptools.HttpResponseParser(self)
        self.served = 0
        self.closed = False
        self.idle_since = 0.0
        self.idle_limit = 0.0
        """Seconds the backend said it keeps an idle connection (keep-alive: timeout=); 0.0 if it did not."""
        self.tunnel: Pipe | None = None
        self._paused = False
        self.unread = False
        """Whether the last request is known not to have been read."""

    # The user's side --------------------------------------------------------------------------------
    def begin(self, user: User, *, head: bool) -> None:
        """Prepares for one request; ``head`` says that its method is HEAD, whose answers have no body."""
        self.user = user
        self.method_head = head
        self.sent_whole = False
        self._started = False
        self._done = False
        self._poisoned = False
        self._interims = 0
        self._raw = 0
        self._reset_head()

    def _reset_head(self) -> None:
        self._lines: list[bytes] = []
        self._fields = 0
        self._length = -1
        self._coding: list[bytes] = []
        self._connection: list[bytes] = []
        self._upgrade: list[bytes] = []
        self._head_done = False
        self._interim = False
        self._modern = False
        self._until_close = False

    def pause_reading(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if not self.closed:
                self.transport.resume_reading()

    def discard(self, sink: User) -> None:
        """Hands the rest of an unwanted answer to ``sink``, so that the connection can serve again."""
        self.user = sink

    def abandon(self) -> None:
        """Lets go of a request at once: the backend learns of it by the connection's end."""
        self.user = None
        if not self.closed:
            self.closed = True
            self.transport.abort()

    # asyncio's side ---------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        user = self.user
        if user is not None:
            user.on_connected(self)

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.data_received(data)
            return
        user = self.user
        if user is None:  # a byte on an idle connection: whatever it is, it answers nothing
            self._drop()
            return
        if not self._started:
            self._started = True
            if data[0] != FIRST_BYTE:
                self._fail("its status line is not HTTP")
                return
            self._modern = data.startswith(MODERN)
        self._raw += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._open_tunnel(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._on_error(error)
            return
        user = self.user
        if user is None:  # it was let go during the read
            return
        if self._done:
            self._finish(user)
        elif self._raw > HEAD_LIMIT:  # since the last byte of a body: a head, chunk lines or trailers
            self._fail(f"its head is larger than {HEAD_LIMIT} bytes")
        else:
            user.flush()

    def _on_error(self, error: httptools.HttpParserError) -> None:
        user = self.user
        if user is None:
            return
        if self._done:  # the answer is whole and stands; what came behind it answers nothing
            self._poisoned = True
            self._finish(user)
            return
        cause = error.__context__
        if cause is None or isinstance(cause, BadAnswerError):
            self._fail(str(cause or error))
        else:  # not the backend's fault
            INTERNAL_ERRORS.report(cause)
            self._drop()
            user.on_failure("internal", "an error inside the gateway", fresh=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.address.forget(self)
        if self.tunnel is not None:
            self.tunnel.connection_lost(exc)
            return
        if exc is not None and self.user is not None and self.address.context is None:
            self._read_last_words()
        user = self.user
        if user is None:
            return
        self.user = None
        if self._head_done and self._until_close and exc is None and self._said_goodbye():
            user.on_end()
        elif self._head_done:
            user.on_failure("backend_truncated", "the answer broke off", fresh=False)
        else:
            fresh = not self._started and self.served > 0
            user.on_failure("backend_reset", "it closed the connection before it answered", fresh=fresh)

    def _read_last_words(self) -> None:
        """Reads what the kernel still has, as when the loop would have looked there before it wrote.

        A backend that answers early and closes refuses the rest of the body: a write fails with a reset while
        the answer, which came before it, lies unread.
        """
        place = self.transport.get_extra_info("socket").fileno()
        for _ in range(LAST_READS):
            try:
                data = os.read(place, HIGH_WATER)
            except OSError:
                return
            if not data or self.user is None:
                return
            self.data_received(data)

    def _said_goodbye(self) -> bool:
        """Whether the backend meant the end of its connection.

        Over TLS only a close_notify says so (RFC 9112 9.8): anybody on the way can send a FIN.
        """
        found: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        if found is None:
            return True
        try:
            return not found.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def eof_received(self) -> bool:
        """True keeps the transport open for a moment, see `_await_refusal`."""
        waits = self.user is not None and not self._started and self.served > 0 and self.tunnel is None
        if not waits or self.address.context is not None:
            return False
        self._await_refusal(REFUSAL_LOOKS)
        return True

    def _await_refusal(self, looks: int) -> None:
        """The backend closed a connection that had rested, as a request was on its way to it.

        If its kernel refuses our bytes, the backend had closed before they came: it can't have acted on the
        request, which may then be repeated whatever it does. Refused bytes after an end set EPIPE (Linux).
        """
        if self.closed:
            return
        sock = self.transport.get_extra_info("socket")
        self.unread = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE
        if self.unread or not looks:
            self.transport.abort()
        else:
            self.address.loop.call_later(REFUSAL_WAIT, self._await_refusal, looks - 1)

    def pause_writing(self) -> None:
        if self.tunnel is not None:
            self.tunnel.pause_writing()
        elif self.user is not None:
            self.user.pause_upload()

    def resume_writing(self) -> None:
        if self.tunnel is not None:
            self.tunnel.resume_writing()
        elif self.user is not None:
            self.user.resume_upload()

    # The parser's side ------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._done:
            self._poisoned = True  # bytes behind the answer
            raise BadAnswerError("it sent bytes behind the end of its answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._head_done or self._fields > FIELD_LIMIT:
            if self._fields > FIELD_LIMIT:
                raise BadAnswerError(f"its answer has more than {FIELD_LIMIT} fields")
            return  # a trailer
        action = ANSWER_ACTIONS.get(name.lower())
        if action is None:
            self._lines.append(b"%b: %b\r\n" % (name, value.rstrip(b" \t")))
        elif action == LENGTH:
            self._length = int(value)  # llhttp has refused what is no number, and a second one
        elif action == CODING:
            self._coding.append(value)
        elif action == CONNECTION:
            self._connection.append(value)
        elif action == UPGRADE:
            self._upgrade.append(value.rstrip(b" \t").lower())
        elif action == KEEP:
            self._note_keep_alive(value)
        elif action == REQUEST_ID:  # the client gets ours
            self._lines.append(b"x-backend-request-id: %b\r\n" % value.rstrip(b" \t"))
        else:
            assert action == DROP

    def _note_keep_alive(self, value: bytes) -> None:
        for part in value.split(b","):
            name, _, seconds = part.strip().partition(b"=")
            if name.lower() == b"timeout" and seconds.isdigit():
                self.idle_limit = float(min(int(seconds[:6]), 3600))

    def on_headers_complete(self) -> None:
        if self._done:
            return
        if self._raw > HEAD_LIMIT and sum(map(len, self._lines)) > HEAD_LIMIT:
            raise BadAnswerError(f"its head is larger than {HEAD_LIMIT} bytes")
        status = self.parser.get_status_code()
        version = "1.1" if self._modern else self.parser.get_http_version()
        if not 100 <= status <= 599 or version not in ("1.0", "1.1"):
            raise BadAnswerError("its status line is not HTTP/1.0 or HTTP/1.1")
        chunked = False
        if self._coding:
            if (
                len(self._coding) != 1
                or self._coding[0].strip(b" \t").lower() != b"chunked"
                or version != "1.1"
                or self._length >= 0
            ):
                raise BadAnswerError("its transfer-encoding is not plain 'chunked'")
            chunked = True
        if self._connection:
            self._strip_listed()
        if status < 200:
            self._on_interim_head(status, chunked)
            return
        self._head_done = True
        bodiless = self.method_head or status in (204, 304)
        self._until_close = not bodiless and not chunked and self._length < 0
        self._keep = self.parser.should_keep_alive() and not self._until_close
        if status == 204 and (chunked or self._length > 0):
            self._keep = False  # it announces what must not be: whether bytes follow is anybody's guess
        assert self.user is not None
        self.user.on_head(Answer(status, self._lines, self._length, chunked, bodiless, self._until_close))
        if bodiless:
            # The parser can't be told that no body follows, so this one is thrown away.
            self._done = True

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
        if self._interims > INTERIM_LIMIT:
            raise BadAnswerError(f"it sent more than {INTERIM_LIMIT} interim answers")
        assert self.user is not None
        if self._length >= 0 or chunked:
            raise BadAnswerError("its interim answer announces a body")
        if status == 101:
            if not self.user.upgrade:
                raise BadAnswerError("it switched protocols unasked")
            if self._upgrade != [self.user.upgrade] or b"upgrade" not in tokens(self._connection):
                raise BadAnswerError("it switched to another protocol than was asked for")
            return
        self._interim = True
        self.user.on_interim(status, self._lines)

    def on_body(self, data: bytes) -> None:
        if self._done:
            self._poisoned = True
            return
        self._raw = 0
        if self.user is not None:
            self.user.on_data(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._reset_head()
        else:
            self._done = True

    # Ends -------------------------------------------------------------------------------------------
    def _finish(self, user: User) -> None:
        """The answer is whole, and the read that ended it is over."""
        self.user = None
        self.served += 1
        if self.method_head or self.parser.get_status_code() in (204, 304):
            self.parser = httptools.HttpResponseParser(self)  # the old one still waits for a body
        self.resume_reading()
        if self._keep and self.sent_whole and not self._poisoned and not self.transport.is_closing():
            self.address.release(self)
        else:
            self._drop()
        user.on_end()

    def _open_tunnel(self, data: bytes) -> None:
        """The parser stands behind a 101 that was found good; ``data`` follows it."""
        user, self.user = self.user, None
        if user is not None:
            self._lines.append(b"upgrade: %b\r\n" % self._upgrade[0])
            user.on_tunnel(Answer(101, self._lines, -1, False, True, False), data)

    def _fail(self, detail: str) -> None:
        """What it sent is no valid answer."""
        user, self.user = self.user, None
        code = "backend_truncated" if self._head_done else "backend_protocol"
        self._drop()
        if user is not None:
            user.on_failure(code, detail, fresh=False)

    def _drop(self) -> None:
        self.user = None
        if not self.closed:
            self.closed = True
            self.transport.abort()
