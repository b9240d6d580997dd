"""One client connection: strict HTTP/1.1 parsing, pipelining, flow control, deadlines.

What matches a route becomes an `Exchange` (the fast lane: callbacks only); what begins with ``/-/`` becomes an
ASGI call of the control application. Answers leave in the order of their requests.

Bytes are parsed in pieces, and no further than a few requests ahead of the answers: the rest waits unparsed in
``backlog`` (up to one read), so that a segment with thousands of requests costs no more than its own size. The
same place holds what follows an upgrade until the backend has said whether it is a tunnel or the next request.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import httptools

from gateway.dataplane.client import timeouts as deadlines
from gateway.dataplane.client.classify import lane
from gateway.dataplane.client.forwarding import Forwarding
from gateway.dataplane.client.refusal import Refusal, complaint, error_answer
from gateway.dataplane.exchange import failure as failures
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.request.head import Head
from gateway.dataplane.snapshot import Snapshot
from gateway.errors import TurnoutError
from gateway.http.browsers import is_loopback
from gateway.http.fields import valid_host

if TYPE_CHECKING:
    from gateway.dataplane.client.asgi import ControlCall
    from gateway.dataplane.exchange.tunnel import Side
    from gateway.dataplane.worker import Worker

    Item = Exchange | ControlCall | Refusal
    """What stands in the queue of answers owed. All have ``head`` and ``complete`` (the request has come whole),
    hear of the body (``on_request_data``, ``on_request_end``), of what concerns the answer (``pause_answer``,
    ``resume_answer``, ``client_lost``), and two things more: ``advance``, when it is the front of the queue and
    something came, or has just become the front; ``refuse``, when its body can't be understood, is too large or
    too slow. A union of classes, since compiled code calls a class's methods directly, a protocol's by name."""

Role = Literal["all", "data", "control"]
"""What a listening socket serves."""
LINGER: Final = 1.0
"""Seconds that a connection with unread request bytes is read on after its last answer, so that the answer is
not eaten by a reset (RFC 9112 9.6)."""
LINGER_BYTES: Final = 1 << 20
HIGH_WATER: Final = 65_536
PIECE: Final = 4096
"""Bytes parsed at once where heads may be among them."""
CHUNKED_PIECE: Final = 16_384
"""The same within a chunked body, whose end can't be foreseen."""

READ_PIPELINE: Final = 1
"""Reasons not to read: answers are owed;"""
READ_BODY: Final = 2
"""nobody takes the body yet;"""
READ_HELD: Final = 4
"""the fate of an upgrade is open;"""
READ_DEAF: Final = 8
"""there is nothing more to learn."""


NOBODY: Final = Head(0.0)
"""Stands for the request of a connection that has none; never changed."""


class ClientProtocol(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_actions",
        "_fields",
        "_host",
        "_lines",
        "_lingered",
        "_most_fields",
        "_pumping",
        "_raw",
        "_url",
        "backlog",
        "body_read",
        "body_since",
        "closing",
        "control_only",
        "current",
        "data_only",
        "deadline",
        "deaf",
        "forwarding",
        "head",
        "in_head",
        "incoming",
        "lost",
        "near",
        "now",
        "parser",
        "pauses",
        "peer",
        "queue",
        "registered",
        "scheme",
        "snapshot",
        "surplus",
        "taken",
        "taken_at",
        "transport",
        "tunnel",
        "upgrading",
        "worker",
        "write_paused",
        "written",
    )

    def __init__(self, worker: Worker, registered: set[Any] | None = None, role: Role = "all") -> None:
        """``registered``: uvicorn's set of connections, which it asks to end on shutdown.

        ``role``: of the socket that the connection came to.
        """
        self.registered = registered if registered is not None else set()
        self.worker = worker
        self.snapshot: Snapshot = worker.snapshot
        self.transport = cast("asyncio.Transport", None)
        self.parser = httptools.HttpRequestParser(self)
        # Bytes behind a last request vanish instead of raising: they are nobody's request.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.current: Item | None = None
        """Whose answer is next."""
        self.incoming: Item | None = None
        """Whose body is being read."""
        self.queue: list[Item] = []
        """Who comes after ``current``; short, so a list (an empty deque takes ten times its memory)."""
        self.head = NOBODY
        self.in_head = False
        self.deaf = False
        """What comes in is no longer parsed; answers owed still go out."""
        self.closing = False
        """The last answer is out; the connection is about to end."""
        self.lost = False
        self.deadline = 0.0
        """When an idle connection ends; 0.0: to be set when it is next looked at."""
        self.write_paused = False
        self.pauses = 0
        self.backlog = b""
        """Bytes read but not parsed yet."""
        self.upgrading = False
        """Nothing is parsed until the backend has answered an upgrade."""
        self.tunnel: Side | None = None
        self.now = 0.0
        """`perf_counter` at the last read."""
        self.peer = ""
        self.near = False
        """Whether the peer is on this machine."""
        self.scheme = b"http"
        self.control_only = role == "control"
        self.data_only = role == "data"
        self.surplus = False
        """It came when there were as many connections as there may be: it is told so, and ends."""
        self._raw = 0
        self._fields = 0
        self._most_fields = 0
        self._actions = self.snapshot.actions
        self._lines: list[bytes] = []
        self.body_read = 0
        """Bytes of the body that ``incoming`` has had, since ``body_since``."""
        self.body_since = 0.0
        self._url = b""
        self._host = b""
        self._pumping = False
        self._lingered = 0
        self.written = 0
        """Bytes of answers; of these the client had ``taken`` so many when it last took any, at ``taken_at``."""
        self.taken = 0
        self.taken_at = 0.0

    # asyncio's side ---------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.near = is_loopback(self.peer)
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = b"https"
        self.forwarding = Forwarding(self.peer, self.scheme)
        self.taken_at = perf_counter()
        self.deadline = self.taken_at + self.worker.snapshot.limits.header_timeout
        self.registered.add(self)
        self.surplus = self.worker.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.backlog = b""
        self.registered.discard(self)
        self.worker.closed(self)
        if self.tunnel is not None:
            self.tunnel.connection_lost(exc)
        for item in (self.current, *self.queue):
            if item is not None:
                item.client_lost()
        # The parser and the transport keep this object until the collector's turn: not the client's bytes with it.
        self.current = self.incoming = None
        self.head, self._lines, self._url = NOBODY, [], b""
        self.queue.clear()

    def eof_received(self) -> None:
        """The client has gone: a half-close can't be told from a close, and work for nobody is waste."""

    def data_received(self, data: bytes) -> None:
        self.now = perf_counter()
        if self.tunnel is not None:
            self.tunnel.data_received(data)
            return
        if self.deaf:
            self._linger(data)
            return
        if self.upgrading or self.backlog:
            self._hold(data)
            return
        if len(data) > PIECE:
            self._parse(data)
        else:
            self._feed(data)
        item = self.current
        if item is not None:
            item.advance()
        if self.queue or self.backlog:
            self._pump()

    def _parse(self, data: bytes) -> None:
        """Piece by piece, so that limits hold to within a piece; what goes too far ahead becomes the backlog."""
        place, size = 0, len(data)
        while place < size and not self.deaf:
            if self.upgrading or len(self.queue) > self.snapshot.limits.pipeline:
                self._hold(data[place:])
                return
            piece = data[place : place + self._step()]
            place += len(piece)
            self._feed(piece)

    def _step(self) -> int:
        incoming = self.incoming
        if incoming is None or self.in_head:
            return PIECE
        if incoming.head.chunked:
            return CHUNKED_PIECE
        return max(PIECE, incoming.head.length - self.body_read)

    def _feed(self, data: bytes) -> None:
        self._raw += len(data)
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser has skipped the body and stands behind the head: what follows is ours to judge.
                data = data[upgrade.args[0] :]
                incoming = self.incoming
                if incoming is not None and incoming.head.upgrade:
                    self.upgrading = True
                    self._hold(data)
                    return
                if data and not self.deaf:
                    continue
            except httptools.HttpParserError as error:
                self.refuse(complaint(error, self.in_head))
                return
            break
        if self._raw > self.snapshot.limits.head:
            self.refuse(TurnoutError("head_too_large"))

    def _hold(self, data: bytes) -> None:
        """Bytes wait unparsed: behind an upgrade for the backend's word, behind many requests for answers."""
        self.backlog += data
        if len(self.backlog) > HIGH_WATER or not self.upgrading:
            self._pause(READ_HELD)

    def _linger(self, data: bytes) -> None:
        self._lingered += len(data)
        if self._lingered > LINGER_BYTES:
            self.transport.abort()

    # The parser's side ------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        self.in_head = True
        self._fields = 0
        self._url = b""
        self.snapshot = snapshot = self.worker.snapshot
        self.head = head = Head(self.now)
        self._actions = snapshot.actions
        self._most_fields = snapshot.limits.fields
        self._lines = head.lines

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self.snapshot.limits.target:
            raise TurnoutError("target_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > self._most_fields:
            raise TurnoutError(
                "head_too_large", f"The request has more than {self._most_fields} fields; send fewer."
            )
        action = self._actions.get(name.lower())
        if action is None:
            # The parser has refused every other control character, so this strips spaces and tabs.
            self._lines.append(b"%b: %b\r\n" % (name, value.rstrip()))
        elif self.in_head:
            self.head.take(action, name, value.rstrip())

    def on_headers_complete(self) -> None:
        head = self.head
        limit = self.snapshot.limits.head
        if self._raw > limit and sum(map(len, head.lines)) + len(self._url) > limit:
            raise TurnoutError("head_too_large")
        head.settle(self.parser, self._url)
        if head.host != self._host or not head.host:
            self._check_host(head)
        self.in_head = False
        self._lines = []  # of trailers, which go nowhere
        self.body_read = 0
        self.body_since = self.now
        self.incoming = item = lane(self, head)
        if self.current is None and not self.queue and not self.write_paused:
            self._front(item)
        else:
            self.queue.append(item)

    def _check_host(self, head: Head) -> None:
        """Most requests of a connection name the same one, so a good one is remembered."""
        if head.hosts and not valid_host(head.host):
            raise TurnoutError("bad_host")
        self._host = head.host

    def _front(self, item: Item) -> None:
        self.current = item
        if item.head.expects_continue and not item.complete and not isinstance(item, Refusal):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._raw = 0
        self.body_read += len(data)
        item = self.incoming
        if item is None:
            return
        if self.body_read > self._body_limit(item):
            raise TurnoutError("body_too_large")
        item.on_request_data(data)
        if self.body_read > HIGH_WATER and item is not self.current:
            self._pause(READ_BODY)  # its turn has not come, and nobody takes it

    def _body_limit(self, item: Item) -> int:
        if isinstance(item, Exchange):
            return item.route.body_limit
        return self.snapshot.limits.control_body

    def on_message_complete(self) -> None:
        self._raw = 0
        item, self.incoming = self.incoming, None
        if item is not None:
            if item.head.upgrade:
                self.incoming = item  # so that the upgrade is seen by whom it concerns
            item.on_request_end()

    # Answers ----------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        if not self.lost:
            self.written += len(data)
            self.transport.write(data)

    def connection_line(self, head: Head) -> bytes:
        if head.close or self.worker.draining:
            head.close = True
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if head.old else b""

    def forwarded(self, head: Head) -> bytes:
        """Forwarded, X-Forwarded-* and Via for the backend."""
        if head.forwarded and self.snapshot.trusted(self.peer):
            return self.forwarding.lines_through(head)
        return self.forwarding.lines(head)

    def answer_error(self, item: Item, error: TurnoutError) -> None:
        """An error answer before there was a decision."""
        head = item.head
        if not item.complete:
            head.close = True
        self.worker.refused(error.code)
        self.write(error_answer(self, head, error))
        if head.trace is not None:
            head.trace.tracing.refused(self, head, head.trace, error)
        self.answered(item)

    def answered(self, item: Item) -> None:
        """The answer of ``item`` is out; the next in line gets its turn."""
        if item is not self.current:
            return
        self.current = None
        if self.lost:
            return
        if item.head.close:
            self._close(item)
            return
        if self.pauses:
            self._resume(READ_BODY)
        if item.head.upgrade:  # and it was refused: what was held is the next request
            self.upgrading = False
            self.incoming = None
        self.deadline = 0.0
        if self.queue or self.backlog:
            self._pump()

    def _pump(self) -> None:
        """Requests get their turn, and bytes are parsed, for as long as answers allow.

        A loop, not a recursion: a segment can hold thousands of pipelined requests.
        """
        if self._pumping:
            return
        self._pumping = True
        try:
            while not self.closing and not self.write_paused:
                if self.current is None and self.queue:
                    self._front(self.queue.pop(0))
                    self._resume(READ_BODY)
                elif self.backlog and not self.deaf and not self._ahead():
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
        """Whether the client has asked for as much as it may ahead of the answers."""
        return self.upgrading or len(self.queue) > self.snapshot.limits.pipeline

    def refuse(self, error: TurnoutError) -> None:
        """What is being read can't be understood: an error answer behind those still owed, then the end."""
        if self.deaf:
            return
        incoming, self.incoming = self.incoming, None
        self.deaf = True
        self.backlog = b""
        if incoming is not None and not incoming.complete:
            # Its attempt must never look complete to the backend.
            incoming.head.close = True
            incoming.refuse(error)
            if incoming is self.current:
                incoming.advance()
        else:
            if self.head is NOBODY:
                self.head = Head(self.now)
            elif self.in_head and self._url:
                self.head.method = self.parser.get_method()  # a HEAD's error has no body either
            self.head.close = True
            self.queue.append(Refusal(self, self.head, error, last=True))
        self.in_head = False
        self._pump()
        if not self.closing:
            self._pause(READ_DEAF)

    def _close(self, item: Item) -> None:
        """Ends the connection after its last answer; unread bytes are read for a moment first."""
        settled = item.complete and self.incoming is None and not (self._raw or self.pauses)
        self.closing = self.deaf = True
        self.queue.clear()
        self.backlog = b""
        self.deadline = perf_counter() + LINGER
        self._resume(READ_PIPELINE | READ_BODY | READ_HELD | READ_DEAF)
        if settled or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()

    def abort(self) -> None:
        """Ends the connection such that the client can't take the answer for whole."""
        item = self.current
        if item is not None and item.head.old:
            # An answer without length or chunks ends with the connection, so only a reset says that it was cut.
            found: socket.socket | None = self.transport.get_extra_info("socket")
            if found is not None:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.closing = self.deaf = self.lost = True
        self.current = None
        self.transport.abort()

    # Flow control -----------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        self.write_paused = True
        if self.tunnel is not None:
            self.tunnel.pause_writing()
        elif self.current is not None:
            self.current.pause_answer()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.tunnel is not None:
            self.tunnel.resume_writing()
            return
        if self.current is not None:
            self.current.resume_answer()
        if self.queue or self.backlog:
            self._pump()

    def pause_body(self) -> None:
        self._pause(READ_BODY)

    def resume_body(self) -> None:
        self._resume(READ_BODY)

    def _pause(self, reason: int) -> None:
        if not self.pauses and not self.lost:
            self.transport.pause_reading()
            self.worker.unread.add(self)
        self.pauses |= reason

    def _resume(self, reason: int) -> None:
        if self.pauses:
            self.pauses &= ~reason
            if not self.pauses:
                self.worker.unread.discard(self)
                if not self.lost:
                    self.transport.resume_reading()

    def open_tunnel(self, tunnel: Side) -> bytes:
        """From here on bytes go to ``tunnel``; what was held comes back to be sent first."""
        self.tunnel = tunnel
        held, self.backlog = self.backlog, b""
        self._resume(READ_HELD | READ_PIPELINE)
        return held

    # Time: see `gateway.dataplane.client.timeouts` ----------------------------------------------------------
    def check(self, now: float) -> None:
        """Called about once a second."""
        deadlines.check(self, now)

    def rest(self, now: float) -> None:
        """Between two requests: what the last one left in memory is let go."""
        self.snapshot = self.worker.snapshot
        limits = self.snapshot.limits
        # An answer that began before the process was told to end did not say that its connection will.
        self.deadline = now + (limits.last_idle if self.worker.draining else limits.idle_timeout)
        self.head = NOBODY
        self._lines = []
        self._url = b""

    def shutdown(self) -> None:
        """The server is ending: no further request after those under way."""
        if self.current is None and not self.queue and not self.in_head:
            soon = perf_counter() + self.worker.snapshot.limits.last_idle
            self.deadline = min(self.deadline, soon) if self.deadline else soon
        if self.tunnel is not None:
            self.transport.close()

    def end(self) -> None:
        """The process ends now: what is still under way hears that it was cut short, then the connection ends."""
        item = self.current
        if isinstance(item, Exchange):
            failures.cut_short(item)
        if not self.closing:
            self.transport.abort()
