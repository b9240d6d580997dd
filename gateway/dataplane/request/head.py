"""A request's head: its fields as they arrive, and the checks before anything is done with it.

Whatever is ambiguous is refused. Every method raises `TurnoutError`; the connection then ends, because what
follows such a head can't be separated from its body.
"""

from __future__ import annotations

from typing import Final

from gateway.auth.principal import Principal
from gateway.dataplane.request.credentials import Credentials
from gateway.errors import TurnoutError
from gateway.http.fields import (
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
    KEEP_OF_PROXY,
    LENGTH,
    METHODS,
    PASSED_BY_PROXY,
    PROXY,
    REQUEST_ID,
    SUBPROTOCOLS,
    UPGRADE,
    VARIANT,
    split_absolute,
    split_subprotocols,
    tokens,
    valid_host,
    valid_request_id,
    without_sessions,
)
from gateway.telemetry.tracing.sampling import Tracing
from gateway.telemetry.tracing.trace import Trace

EMPTY: Final[dict[bytes, bytes]] = {}
SLASH: Final = ord("/")
FRAGMENT: Final = ord("#")
QUERY: Final = ord("?")
KEPT_WITH_CONNECTION: Final = (b"close", b"keep-alive", b"upgrade")
"""Members of Connection that name no field to remove."""


class Head:
    """A request head."""

    __slots__ = (
        "chunked", "close", "codings", "connection", "credentials", "expect", "grpc", "grpc_timeout", "host", "hosts",
        "http10", "kept", "length", "lines", "method", "path", "principal", "proxy_fields", "request_id", "started",
        "target", "trace", "upgrade", "variant", "wants_upgrade",
    )  # fmt: skip

    method: bytes
    target: bytes
    """In origin form, byte for byte as the client wrote it."""
    path: bytes
    """The target without its query."""
    host: bytes
    hosts: int
    length: int
    """Content-Length; -1 where there is none."""
    chunked: bool
    http10: bool
    """HTTP/1.0"""
    close: bool
    """Whether the connection ends with this request's response."""
    upgrade: bytes
    """The lower-cased protocol of an upgrade that we would tunnel; b"" for none."""
    wants_upgrade: tuple[bytes, ...]
    expect: bool
    credentials: Credentials | None
    variant: bytes | None
    request_id: bytes
    kept: dict[bytes, bytes]
    """Values, by lower-cased name, of the fields that some route looks at."""
    codings: tuple[bytes, ...]
    connection: tuple[bytes, ...]
    grpc: bool
    """Whether it is a call of gRPC over HTTP/2."""
    grpc_timeout: float
    """Seconds that the client waits, from the beginning; 0.0: no limit."""
    proxy_fields: tuple[tuple[int, bytes], ...]
    """The fields that tell of a proxy between the client and us: what each is to us, and its value."""
    trace: tuple[Tracing, Trace] | None
    """Of a request that is traced."""
    principal: Principal

    def __init__(self, started: float) -> None:
        self.started = started
        """`perf_counter` when its first byte was read."""
        self.lines: list[bytes] = []
        """Whole field lines as they go onward; hop-by-hop, identity and forwarding fields are not among them."""
        self.method = self.target = self.path = self.host = self.upgrade = self.request_id = b""
        self.chunked = self.http10 = self.close = self.expect = self.grpc = False
        self.hosts = 0
        self.length = -1
        self.grpc_timeout = 0.0
        self.kept = EMPTY
        self.codings = self.connection = self.wants_upgrade = ()
        self.proxy_fields = ()
        self.credentials = self.variant = self.trace = None

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for ``100 Continue`` before it sends the body (RFC 9110 10.1.1)."""
        return self.expect and not self.http10 and (self.length > 0 or self.chunked)

    def take(self, action: int, name: bytes, value: bytes) -> None:  # noqa: C901 - one dispatch
        """A field that is not simply passed on; ``action`` says what it is to us.

        Raises:
            TurnoutError: The field is repeated or malformed (`bad_request`).
        """
        if action == HOST:
            self.hosts += 1
            self.host = value
        elif action == LENGTH:
            self.length = int(value)  # the parser has refused what is not a number, and a second one
        elif action == KEEP:
            self._keep(name, value)
        elif action == AUTHORIZATION:
            credentials = self.credentials
            if credentials is None:
                credentials = self.credentials = Credentials()
            elif credentials.authorization is not None:
                raise TurnoutError("bad_request", "More than one Authorization field; send one.")
            credentials.authorization = value
        elif action == REQUEST_ID:
            if valid_request_id(value):
                self.request_id = value
        elif action == API_KEY:
            self._take_key(name.lower(), value)
        elif action == SUBPROTOCOLS:
            left, keys = split_subprotocols(value)
            for key in keys:
                self._take_key(b"x-api-key", key)
            if left:
                self.lines.append(b"%b: %b\r\n" % (name, left))
        elif action == CONNECTION:
            self.connection += (value,)
        elif action == VARIANT:
            if self.variant is not None:
                raise TurnoutError("bad_request", "More than one x-variant field; send one.")
            self.variant = value
        elif action == CODING:
            self.codings += (value,)
        elif action == UPGRADE:
            self.wants_upgrade += (value,)
        elif action == EXPECT:
            if value.lower() != b"100-continue":
                raise TurnoutError("expectation_failed")
            self.expect = True
        elif action == KEEP_OF_PROXY:
            self.proxy_fields += ((PASSED_BY_PROXY, value),)
            self._keep(name, value)
        elif action == PASSED_BY_PROXY:
            self.proxy_fields += ((action, value),)
            self.lines.append(b"%b: %b\r\n" % (name, value))
        elif action != DROP:
            assert action in (FORWARDED_FOR, FORWARDED, FORWARDED_PROTO, FORWARDED_HOST, PROXY)
            self.proxy_fields += ((action, value),)

    def _take_key(self, field: bytes, value: bytes) -> None:
        credentials = self.credentials
        if credentials is None:
            credentials = self.credentials = Credentials()
        elif credentials.key is not None:
            raise TurnoutError("bad_request", "More than one API key; send one.")
        credentials.key, credentials.key_field = value, field

    def _keep(self, name: bytes, value: bytes) -> None:
        kept = self.kept
        if kept is EMPTY:
            kept = self.kept = {}
        key = name.lower()
        kept[key] = kept[key] + b", " + value if key in kept else value
        self.lines.append(b"%b: %b\r\n" % (name, value))

    # When the head is complete ------------------------------------------------------------------------
    def settle(self, version: str, method: bytes, target: bytes, upgrades: bool, keep_alive: bool) -> None:
        """Checks version, method, framing and target, and removes what Connection lists; not yet the host.

        Args:
            version: "1.0" or "1.1".
            method: In upper case.
            target: As the client wrote it, not empty.
            upgrades: Whether the request asks for another protocol.
            keep_alive: Whether the client leaves the connection open.

        Raises:
            TurnoutError: The head is not one that may be served.
        """
        if version != "1.1":
            if version != "1.0":
                raise TurnoutError("http_version")
            self.http10 = True
        self.method = method
        if method not in METHODS:
            raise TurnoutError("method_not_allowed")
        if self.codings:
            self._settle_coding()
        if upgrades:
            self._settle_upgrade()
        if self.hosts != 1 and (self.hosts or not self.http10):
            raise TurnoutError("bad_host")
        if target[0] != SLASH and (target != b"*" or method != b"OPTIONS"):
            target = self._origin_form(target)
        if FRAGMENT in target:  # numbers are found four times as fast as bytes
            raise TurnoutError("bad_target", "The request target holds a fragment; send it without '#'.")
        self.target = target
        self.path = target.partition(b"?")[0] if QUERY in target else target
        if self.connection:
            self._strip_listed()
        if not keep_alive:
            self.close = True

    def _settle_coding(self) -> None:
        """Exactly one plain "chunked", of a client that may use it: the parser raises too late for the others."""
        if self.http10 or len(self.codings) != 1:
            raise TurnoutError("bad_framing")
        if self.codings[0].lower() != b"chunked":
            raise TurnoutError("not_implemented")
        if self.length >= 0:
            raise TurnoutError("bad_framing")
        self.chunked = True

    def _settle_upgrade(self) -> None:
        """Only a WebSocket is tunnelled; any other request to upgrade is a plain one."""
        if (
            self.method == b"GET"
            and not self.http10
            and b"upgrade" in tokens(self.connection)
            and [value.lower() for value in self.wants_upgrade] == [b"websocket"]
        ):
            if self.length > 0 or self.chunked:
                raise TurnoutError("bad_framing", "A WebSocket's handshake may have no body.")
            self.upgrade = b"websocket"

    def _origin_form(self, target: bytes) -> bytes:
        """The path and query of an absolute target, whose authority becomes the host."""
        absolute = split_absolute(target)
        if absolute is None:
            raise TurnoutError("bad_target")
        if self.hosts and not valid_host(self.host):
            raise TurnoutError("bad_host")
        self.host, target = absolute  # RFC 9112 3.2.2: the target's authority, not Host, counts
        return target

    def _strip_listed(self) -> None:
        """Removes the fields that Connection names, which concern this connection alone (RFC 9110 7.6.1)."""
        listed = tuple(t for t in tokens(self.connection) if t not in KEPT_WITH_CONNECTION)
        if listed:
            if self.credentials is not None:
                self.credentials.listed = listed
            prefixes = tuple(token + b":" for token in listed)
            self.lines = [line for line in self.lines if not line.lower().startswith(prefixes)]
            if self.kept:
                self.kept = {name: value for name, value in self.kept.items() if name not in listed}

    def drop_sessions(self) -> None:
        """Removes the dashboard's cookies, which a backend could use as its reader."""
        cookies, lines = [], []
        for line in self.lines:
            name, _, value = line[:-2].partition(b": ")
            if name.lower() != b"cookie":
                lines.append(line)
            elif left := without_sessions(value):
                cookies.append(left)
                lines.append(b"cookie: %b\r\n" % left)
        self.lines = lines
        self.kept = {**self.kept, b"cookie": b", ".join(cookies)}  # other requests of HTTP/2 may share it

    def admit(self, route: str) -> None:
        """Raises TurnoutError("forbidden") unless the principal may use the route."""
        if not self.principal.serves(route):
            raise TurnoutError("forbidden", "The key may not use this route; use one that names it.")
