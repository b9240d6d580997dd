"""One client connection: strict HTTP/1.1 parsing, pipelining, deadlines, and the choice of lane.

What matches a route becomes an `Exchange` (the fast lane: callbacks only); what begins with ``/-/`` becomes an
ASGI call of the control application. Answers leave in the order of their requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import httptools

from gateway.dataplane.asgi import ControlCall
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.headers import (
    API_KEY,
    AUTHORIZATION,
    CODING,
    CONNECTION,
    DROP,
    EXPECT,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HOST,
    KEEP,
    LENGTH,
    METHODS,
    REQUEST_ID,
    STATUS_LINES,
    UPGRADE,
    VARIANT,
    split_absolute,
    tokens,
    valid_host,
    valid_request_id,
)
from gateway.dataplane.refusal import Refusal
from gateway.dataplane.routing import find_route
from gateway.dataplane.snapshot import Snapshot
from gateway.errors import TurnoutError, render

if TYPE_CHECKING:
    from gateway.dataplane.auth import Principal
    from gateway.dataplane.worker import Worker

LINGER: Final = 1.0
"""Seconds that a connection with unread request bytes is read on after its last answer, so that the answer is
not eaten by a reset (RFC 9112 9.6)."""
LINGER_BYTES: Final = 1 << 20
HIGH_WATER: Final = 65_536

READ_PIPELINE, READ_BODY, READ_HELD = 1, 2, 4

EMPTY: Final[dict[bytes, bytes]] = {}


class Head:
    """A request head. Defaults live on the class: most requests set few of these."""

    method = b""
    target = b""
    path = b""
    host = b""
    hosts = 0
    length = -1
    chunked = False
    old = False
    """HTTP/1.0"""
    close = False
    """Whether the connection ends with this request's answer."""
    upgrade = b""
    wants_upgrade: tuple[bytes, ...] = ()
    expect = False
    authorization: bytes | None = None
    api_key: bytes | None = None
    credential_lines: list[bytes] = []  # noqa: RUF012 - replaced, never changed
    variant: bytes | None = None
    request_id = b""
    kept: dict[bytes, bytes] = EMPTY
    codings: tuple[bytes, ...] = ()
    connection: tuple[bytes, ...] = ()
    forwarded: tuple[tuple[int, bytes], ...] = ()
    principal: Principal

    def __init__(self, started: float) -> None:
        self.started = started
        """`perf_counter` when its first byte was read."""
        self.lines: list[bytes] = []
        """Whole field lines as they go onward; hop-by-hop, identity and forwarding fields are not among them."""


class Item(Protocol):
    """What stands in the queue of answers owed."""

    head: Head
    complete: bool

    def on_request_data(self, data: bytes) -> None: ...
    def on_request_end(self) -> None: ...
    def advance(self) -> None:
        """It is the front of the queue and something came, or it has just become the front."""
        ...

    def refuse(self, error: TurnoutError) -> None:
        """Its body can't be understood, is too large or too slow."""
        ...

    def client_lost(self) -> None: ...
    def pause_answer(self) -> None: ...
    def resume_answer(self) -> None: ...


class ClientProtocol(asyncio.Protocol):
    """See the module."""

    def __init__(
        self, worker: Worker, registered: set[Any] | None = None, control_port: int | None = None
    ) -> None:
        """``registered``: uvicorn's set of connections, which it asks to end on shutdown.

        ``control_port``: the port of the control API where it has one of its own.
        """
        self.registered = registered if registered is not None else set()
        self.control_port = control_port
        self.worker = worker
        self.snapshot: Snapshot = worker.snapshot
        self.transport = cast("asyncio.Transport", None)
        self.parser = httptools.HttpRequestParser(self)
        # Bytes behind a last request vanish instead of raising: they are nobody's request.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.current: Item | None = None
        self.incoming: Item | None = None
        self.queue: deque[Item] = deque()
        self.head = Head(0.0)
        self.in_head = False
        self.deaf = False
        """What comes in is no longer parsed; answers owed still go out."""
        self.closing = False
        """The last answer is out; the connection is about to end."""
        self.lost = False
        self.deadline = 0.0
        self.write_paused = False
        self.write_left = 0
        self.write_since = 0.0
        self.pauses = 0
        self.held: bytes | None = None
        self.tunnel: asyncio.Protocol | None = None
        self.now = 0.0
        self._raw = 0
        self._fields = 0
        self._body = 0
        self._body_since = 0.0
        self._url = b""
        self._pumping = False
        self._lingered = 0
        self._forwarded: dict[bytes, bytes] = {}
        self.peer = ""
        self.scheme = b"http"
        self.requests = 0
        self.control_only = False
        self.data_only = False

    # asyncio's side ---------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = b"https"
        self.deadline = perf_counter() + self.worker.snapshot.limits.header_timeout
        if self.control_port is not None:
            own = transport.get_extra_info("sockname")
            self.control_only = isinstance(own, tuple) and own[1] == self.control_port
            self.data_only = not self.control_only
        self.registered.add(self)
        self.worker.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.registered.discard(self)
        self.worker.closed(self)
        if self.tunnel is not None:
            self.tunnel.connection_lost(exc)
        for item in (self.current, *self.queue):
            if item is not None:
                item.client_lost()
        self.current = None
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
        if self.held is not None:
            self._hold(data)
            return
        self._raw += len(data)
        self._feed(data)
        if self._raw > self.snapshot.limits.head and not self.deaf:
            self._refuse(TurnoutError("head_too_large"))
        item = self.current
        if item is not None:
            item.advance()
        if self.queue:
            self._pump()
            if len(self.queue) > self.snapshot.limits.pipeline:
                self._pause(READ_PIPELINE)

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser has skipped the body and stands behind the head: what follows is ours to judge.
                data = data[upgrade.args[0] :]
                incoming = self.incoming
                if incoming is not None and incoming.head.upgrade:
                    self.held = data
                    return
                if data and not self.deaf:
                    continue
            except httptools.HttpParserError as error:
                cause = error.__context__
                self._refuse(cause if isinstance(cause, TurnoutError) else _complaint(error, self.in_head))
            return

    def _hold(self, data: bytes) -> None:
        """Bytes behind an upgrade request wait, unparsed, for the backend's word."""
        assert self.held is not None
        self.held += data
        if len(self.held) > HIGH_WATER:
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
        self.snapshot = self.worker.snapshot
        self.head = Head(self.now)

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self.snapshot.limits.target:
            raise TurnoutError("target_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > self.snapshot.limits.fields:
            raise TurnoutError(
                "head_too_large",
                f"The request has more than {self.snapshot.limits.fields} fields; send fewer.",
            )
        if not self.in_head:
            return  # a trailer
        action = self.snapshot.actions.get(name.lower())
        if action is None:
            self.head.lines.append(b"%b: %b\r\n" % (name, value.rstrip(b" \t")))
        else:
            self._special(action, name, value.rstrip(b" \t"))

    def _special(self, action: int, name: bytes, value: bytes) -> None:  # noqa: C901 - one dispatch
        head = self.head
        if action == HOST:
            head.hosts += 1
            head.host = value
        elif action == LENGTH:
            head.length = int(value)
        elif action == KEEP:
            if head.kept is EMPTY:
                head.kept = {}
            key = name.lower()
            known = head.kept.get(key)
            head.kept[key] = value if known is None else known + b", " + value
            head.lines.append(b"%b: %b\r\n" % (name, value))
        elif action == AUTHORIZATION:
            if head.authorization is not None:
                raise TurnoutError("bad_request", "More than one Authorization field; send one.")
            head.authorization = value
        elif action == API_KEY:
            if head.api_key is not None:
                raise TurnoutError("bad_request", "More than one x-api-key field; send one.")
            head.api_key = value
        elif action == REQUEST_ID:
            if valid_request_id(value):
                head.request_id = value
        elif action == CONNECTION:
            head.connection += (value,)
        elif action == VARIANT:
            head.variant = value
        elif action == CODING:
            head.codings += (value,)
        elif action == UPGRADE:
            head.wants_upgrade += (value,)
        elif action == EXPECT:
            if value.lower() != b"100-continue":
                raise TurnoutError("expectation_failed")
            head.expect = True
        elif action in (FORWARDED_FOR, FORWARDED, FORWARDED_PROTO, FORWARDED_HOST):
            head.forwarded += ((action, value),)
        else:
            assert action == DROP

    def on_headers_complete(self) -> None:
        self.in_head = False
        head = self.head
        parser = self.parser
        self._check_version(head)
        head.method = parser.get_method()
        if head.method not in METHODS:
            raise TurnoutError("method_not_allowed")
        limits = self.snapshot.limits
        if self._raw > limits.head and sum(map(len, head.lines)) + len(self._url) > limits.head:
            raise TurnoutError("head_too_large")
        self._check_framing(head)
        self._check_target(head)
        if head.connection:
            self._strip_listed(head)
        if not parser.should_keep_alive():
            head.close = True
        self.requests += 1
        self._body = 0
        self._body_since = self.now
        item = self._lane(head)
        self.incoming = item
        if self.current is None and not self.queue:
            self.current = item
        else:
            self.queue.append(item)
        wanted = head.expect and not head.old and (head.length > 0 or head.chunked)
        if wanted and item is self.current and not isinstance(item, Refusal):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _check_version(self, head: Head) -> None:
        version = self.parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise TurnoutError("http_version")
            head.old = True

    def _check_framing(self, head: Head) -> None:
        if head.codings:
            if head.old or len(head.codings) != 1 or head.codings[0].lower() != b"chunked":
                unknown = not head.old and len(head.codings) == 1
                raise TurnoutError("not_implemented" if unknown else "bad_framing")
            if head.length >= 0:
                raise TurnoutError("bad_framing")
            head.chunked = True
        if self.parser.should_upgrade():
            if head.length > 0 or head.chunked:
                raise TurnoutError("bad_framing", "A request to upgrade may have no body.")
            named = tokens(head.connection)
            if (
                head.method == b"GET"
                and not head.old
                and b"upgrade" in named
                and [value.lower() for value in head.wants_upgrade] == [b"websocket"]
            ):
                head.upgrade = b"websocket"
        if head.hosts > 1 or (head.hosts == 0 and not head.old):
            raise TurnoutError("bad_host")
        if head.hosts and not valid_host(head.host):
            raise TurnoutError("bad_host")

    def _check_target(self, head: Head) -> None:
        target = self._url
        if not target.startswith(b"/"):
            if target == b"*" and head.method == b"OPTIONS":
                raise TurnoutError("not_found", "'OPTIONS *' is not served here; ask for a path.")
            absolute = split_absolute(target)
            if absolute is None:
                raise TurnoutError("bad_target")
            head.host, target = absolute
        if b"#" in target:
            raise TurnoutError("bad_target", "The request target holds a fragment; send it without '#'.")
        head.target = target
        head.path = target.partition(b"?")[0] if b"?" in target else target

    def _strip_listed(self, head: Head) -> None:
        """Removes the fields that Connection names, which concern this connection alone."""
        listed = [t for t in tokens(head.connection) if t not in (b"close", b"keep-alive", b"upgrade")]
        if listed:
            prefixes = tuple(token + b":" for token in listed)
            head.lines = [line for line in head.lines if not line.lower().startswith(prefixes)]
            if head.kept:
                head.kept = {name: value for name, value in head.kept.items() if name not in listed}

    def _lane(self, head: Head) -> Item:
        worker = self.worker
        if head.path.startswith(b"/-/"):
            return ControlCall(self, worker, head)
        if self.control_only:
            return Refusal(
                self,
                head,
                TurnoutError("unknown_route", "This port serves the control API; see /-/openapi.json."),
            )
        try:
            if worker.overloaded:
                raise TurnoutError("too_many_connections", retry_after=1.0)
            route = find_route(self.snapshot, head)
            self._admit(head, route.name)
            if head.length > route.body_limit:
                raise TurnoutError(
                    "body_too_large",
                    f"The body has more than the {route.body_limit} bytes that this route takes.",
                )
        except TurnoutError as error:
            return Refusal(self, head, error)
        return Exchange(self, worker, head, route)

    def _admit(self, head: Head, route: str) -> None:
        """Who asks, and whether they may."""
        authenticator = self.snapshot.authenticator
        credential = head.api_key if head.api_key is not None else head.authorization
        head.principal = principal = authenticator.principal(credential, self.worker.wall())
        if head.authorization is not None or head.api_key is not None:
            if authenticator.open:
                head.credential_lines = _credential_lines(head)
                head.lines = head.lines + head.credential_lines
                head.credential_lines = []
            elif head.api_key is not None and head.authorization is not None:
                # The key was the gateway's, so the Authorization is the backend's.
                head.lines.append(b"authorization: %b\r\n" % head.authorization)
            else:
                head.credential_lines = _credential_lines(head)
        if not principal.infer:
            raise TurnoutError("forbidden", "The key may not infer; use one with the scope 'infer'.")
        self.admit_route(head, route)
        if principal.bucket is not None:
            wait = principal.bucket.take(self.now)
            if wait:
                raise TurnoutError("rate_limited", retry_after=wait)

    def admit_route(self, head: Head, route: str) -> None:
        """Raises TurnoutError("forbidden") unless the key names the route (or none)."""
        if not head.principal.serves(route):
            raise TurnoutError(
                "forbidden", f"The key may not use the route {route!r}; use one that names it."
            )

    def on_body(self, data: bytes) -> None:
        self._raw = 0
        self._body += len(data)
        item = self.incoming
        if item is None:
            return
        if self._body > self._body_limit(item):
            raise TurnoutError("body_too_large")
        item.on_request_data(data)

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
            self.transport.write(data)

    def connection_line(self, head: Head) -> bytes:
        if head.close or self.worker.draining:
            head.close = True
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if head.old else b""

    def answer_error(self, item: Item, error: TurnoutError) -> None:
        """An error answer before there was a decision."""
        head = item.head
        if not item.complete:
            head.close = True
        body = render(error.code, error.message)
        extra = b""
        if error.retry_after is not None:
            extra = b"retry-after: %d\r\n" % max(1, round(error.retry_after))
        if error.status == 401:
            extra += b"www-authenticate: Bearer\r\n"
        if error.status == 405:
            extra += b"allow: %b\r\n" % b", ".join(sorted(METHODS))
        request_id = head.request_id or self.worker.new_decision(self.worker.wall()).hex().encode()
        self.worker.refused(error.code)
        self.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n%b"
            % (
                STATUS_LINES[error.status],
                len(body),
                request_id,
                extra,
                self.connection_line(head),
                b"" if head.method == b"HEAD" else body,
            )
        )
        self.answered(item)

    def answered(self, item: Item) -> None:
        """The answer of ``item`` is out; the next in line gets its turn."""
        if item is not self.current:
            return
        self.current = None
        if self.lost:
            return
        if self.pauses:
            self._resume(READ_BODY)
        if item.head.close:
            self._close(item)
            return
        if item.head.upgrade and self.held is not None:
            self.release_held()
        self.deadline = self.now + self.snapshot.limits.idle_timeout
        if self.queue and not self._pumping:
            self._pump()

    def _pump(self) -> None:
        """A loop, not a recursion: a segment can hold thousands of pipelined requests."""
        self._pumping = True
        try:
            while self.current is None and self.queue and not self.closing:
                self.current = self.queue.popleft()
                self.current.advance()
        finally:
            self._pumping = False
        if len(self.queue) < self.snapshot.limits.pipeline:
            self._resume(READ_PIPELINE)

    def _refuse(self, error: TurnoutError) -> None:
        """What is being read can't be understood: an error answer behind those still owed, then the end."""
        incoming, self.incoming = self.incoming, None
        self.deaf = True
        self.in_head = False
        if incoming is not None and not incoming.complete:
            # Its attempt must never look complete to the backend.
            incoming.head.close = True
            incoming.refuse(error)
        else:
            self.head.close = True
            self.queue.append(Refusal(self, self.head, error, last=True))
        if not self._pumping:
            self._pump()

    def _close(self, item: Item) -> None:
        """Ends the connection after its last answer; unread bytes are read for a moment first."""
        self.closing = self.deaf = True
        self.queue.clear()
        if item.complete and self.incoming is None and not self._raw:
            self.transport.close()
            return
        self._resume(READ_PIPELINE | READ_BODY | READ_HELD)
        self.deadline = perf_counter() + LINGER
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def abort(self) -> None:
        """Ends the connection such that the client can't take the answer for whole."""
        self.closing = self.deaf = self.lost = True
        self.current = None
        self.transport.abort()

    # Flow control -----------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        self.write_paused = True
        self.write_since = perf_counter()
        self.write_left = self.transport.get_write_buffer_size()
        if self.current is not None:
            self.current.pause_answer()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.current is not None:
            self.current.resume_answer()

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

    # Upgrades ---------------------------------------------------------------------------------------
    def release_held(self) -> None:
        """The upgrade was refused: what was held is the next request."""
        held, self.held = self.held, None
        self.incoming = None
        self._resume(READ_HELD)
        if held:
            self.data_received(held)

    def open_tunnel(self, tunnel: asyncio.Protocol) -> bytes:
        """From here on bytes go to ``tunnel``; what was held comes back to be sent first."""
        self.tunnel = tunnel
        held, self.held = self.held or b"", None
        self._resume(READ_HELD | READ_PIPELINE)
        return held

    # Time -------------------------------------------------------------------------------------------
    def check(self, now: float) -> None:
        """Called about once a second: every state a client can dawdle in has an end."""
        limits = self.snapshot.limits
        if self.write_paused:
            left = self.transport.get_write_buffer_size()
            if left < self.write_left:
                self.write_left, self.write_since = left, now
            elif now - self.write_since > limits.write_timeout:
                self.transport.abort()
                return
        if self.tunnel is not None:
            return
        if self.closing:
            if self.current is None and now > self.deadline:
                self.transport.abort()
        elif self.in_head:
            if now - self.head.started > limits.header_timeout:
                self._refuse(TurnoutError("request_timeout"))
        elif self.incoming is not None and not self.incoming.complete:
            self._check_body(now)
        elif self.current is None and not self.queue and now > self.deadline:
            self.transport.close()

    def _check_body(self, now: float) -> None:
        limits = self.snapshot.limits
        if self.pauses:
            self._body_since += 1.0  # we are not reading, so the client is not slow
            return
        spent = now - self._body_since
        earned = limits.body_min_rate * (spent - limits.body_grace)
        if self._body < earned or now - self.now > limits.body_timeout:
            self._refuse(TurnoutError("request_timeout"))

    def shutdown(self) -> None:
        """The server is ending: no further request after those under way."""
        if self.current is None and not self.queue and not self.in_head:
            self.deadline = min(self.deadline, perf_counter() + 1.0)
        if self.tunnel is not None:
            self.transport.close()

    # Forwarding fields ------------------------------------------------------------------------------
    def forwarded(self, head: Head) -> bytes:
        """Forwarded (RFC 7239), X-Forwarded-* and Via for the backend."""
        if head.forwarded:
            return self._forwarded_through(head)
        known = self._forwarded.get(head.host)
        if known is None:
            known = self._forwarded[head.host] = _forwarding(self.peer, self.scheme, head.host, (), ())
            if len(self._forwarded) > 8:
                self._forwarded = {head.host: known}
        return known

    def _forwarded_through(self, head: Head) -> bytes:
        """What a trusted proxy said is kept and added to; what anybody else said is dropped."""
        if not self.snapshot.trusted(self.peer):
            return _forwarding(self.peer, self.scheme, head.host, (), ())
        given = {kind: value for kind, value in head.forwarded if kind in (FORWARDED_PROTO, FORWARDED_HOST)}
        chain = tuple(value for kind, value in head.forwarded if kind == FORWARDED_FOR)
        elements = tuple(value for kind, value in head.forwarded if kind == FORWARDED)
        return _forwarding(
            self.peer,
            given.get(FORWARDED_PROTO, self.scheme),
            given.get(FORWARDED_HOST, head.host),
            chain,
            elements,
        )


def _forwarding(
    peer: str, scheme: bytes, host: bytes, chain: tuple[bytes, ...], elements: tuple[bytes, ...]
) -> bytes:
    address = peer.encode()
    node = b'"[%b]"' % address if b":" in address else address or b"unknown"
    element = b'for=%b;proto=%b;host="%b"' % (node, scheme, host)
    return (
        b"forwarded: %b\r\nx-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\nvia: 1.1 turnout\r\n"
        % (b", ".join((*elements, element)), b", ".join((*chain, address or b"unknown")), scheme, host)
    )


def _credential_lines(head: Head) -> list[bytes]:
    lines = []
    if head.authorization is not None:
        lines.append(b"authorization: %b\r\n" % head.authorization)
    if head.api_key is not None:
        lines.append(b"x-api-key: %b\r\n" % head.api_key)
    return lines


def _complaint(error: httptools.HttpParserError, in_head: bool) -> TurnoutError:
    """What the parser refused, in words; its own text names the rule that was broken."""
    text = str(error).strip() or "it can't be parsed"
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return TurnoutError(
            "bad_request", "The request does not begin with a known method; send valid HTTP/1.1."
        )
    what = "request" if in_head else "request's body"
    return TurnoutError("bad_request", f"The {what} is not valid HTTP/1.1: {text[:120]}.")
