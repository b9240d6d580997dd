"""Header fields: one object per table entry, validated once (RFC 9113 8.2)."""

from __future__ import annotations

from typing import Final

REGULAR: Final = 0
LENGTH: Final = 1
TYPE: Final = 2
TIMEOUT: Final = 3
"""Regular fields that mean something here;"""
METHOD: Final = 4
SCHEME: Final = 5
AUTHORITY: Final = 6
PATH: Final = 7
STATUS: Final = 8
"""pseudo-header fields;"""
MALFORMED: Final = 9
"""a name or value that no message may have, see `Field.fault`."""
_KINDS: Final = {
    b"content-length": LENGTH,
    b"content-type": TYPE,
    b"grpc-timeout": TIMEOUT,
    b":method": METHOD,
    b":scheme": SCHEME,
    b":authority": AUTHORITY,
    b":path": PATH,
    b":status": STATUS,
}

FIELD_OVERHEAD: Final = 32
"""Bytes that a field counts for besides its name and value (RFC 7541 4.1)."""

_NAME_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_PSEUDO_BYTES: Final = {
    b":method": b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b":path": bytes(range(0x21, 0x7F)),
}
_VALUE_BYTES: Final = bytes(b for b in range(256) if b == 9 or (b >= 0x20 and b != 0x7F))
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings")
)


class Field:
    """A field of a header list; ``line`` is the same as a line of HTTP/1.1."""

    __slots__ = ("fault", "kind", "line", "name", "size", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name = name
        self.value = value
        self.size = len(name) + len(value) + FIELD_OVERHEAD
        self.fault = field_fault(name, value)
        self.kind = MALFORMED if self.fault else _KINDS.get(name, REGULAR)
        self.line = b"%b: %b\r\n" % (name, value)
        """Only of use if the field is regular."""

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.value!r})"


def field_fault(name: bytes, value: bytes) -> str:
    """What is wrong with a field of any message; "" if nothing is."""
    if name.startswith(b":"):
        if name not in _KINDS:
            return "an unknown pseudo-header field"
        if value.translate(None, _PSEUDO_BYTES.get(name, _VALUE_BYTES)):
            return f"an invalid '{name.decode()}'"
    elif not name or name.translate(None, _NAME_BYTES):
        return "a field name with an invalid or upper-case character"
    # RFC 9113 8.2.2: translated to HTTP/1.1 they would frame another message (request smuggling).
    elif name in _CONNECTION_FIELDS:
        return f"the connection-specific field '{name.decode()}'"
    elif name == b"te" and value.lower() != b"trailers":
        return "a 'te' other than 'trailers'"
    if value.translate(None, _VALUE_BYTES):
        return "a control character in a field value"
    # RFC 9113 8.2.1: an HTTP/1.1 parser behind us would strip it, and see another value.
    if value and (value[0] in b" \t" or value[-1] in b" \t"):
        return "white space around a field value"
    return ""


def _misplaced(field: Field, *, late: bool) -> str:
    """What is wrong with a known pseudo-header field of a request."""
    name = field.name.decode()
    if late:
        return "a pseudo-header field after a regular one"
    if field.kind == STATUS:
        return f"'{name}' in a request"
    return f"a repeated '{name}'" if field.value else f"an empty '{name}'"


class RequestFields:
    """A request's header list, taken apart and checked (RFC 9113 8.3.1)."""

    __slots__ = (
        "authority", "content_type", "fault", "head", "head_for", "length", "method", "path", "regular", "scheme",
        "timeout",
    )  # fmt: skip

    def __init__(self, fields: list[Field]) -> None:
        """``fault`` says what makes the list malformed; "" if nothing does."""
        self.regular: list[Field] = []
        values: list[bytes | None] = [None] * MALFORMED
        fault = self._take(fields, values)
        self.method = values[METHOD] or b""
        self.scheme = values[SCHEME] or b""
        self.authority = values[AUTHORITY] or b""
        self.path = values[PATH] or b""
        self.content_type = values[TYPE] or b""
        self.timeout = values[TIMEOUT]
        """Of gRPC; b"" if it is repeated."""
        length = values[LENGTH]
        self.length = -1 if length is None else parse_length(length)
        """Content-Length; -1 if absent."""
        if self.length < 0 and length is not None:
            fault = fault or "an invalid or repeated content-length"
        self.fault = fault or self._missing()
        self.head: object | None = None
        """What a proxy has made of the list; see `gateway.dataplane.client.http2.session`."""
        self.head_for: object | None = None
        """What it depends on besides: the configuration's table of fields."""

    def _take(self, fields: list[Field], values: list[bytes | None]) -> str:
        """Fills ``values`` by kind; of regular fields that are repeated, but for the type, with b""."""
        regular = self.regular
        for field in fields:
            kind = field.kind
            if kind == REGULAR:
                regular.append(field)
            elif kind <= TIMEOUT:
                regular.append(field)
                values[kind] = field.value if kind == TYPE or values[kind] is None else b""
            elif kind == MALFORMED:
                return field.fault
            elif kind == STATUS or regular or not field.value or values[kind] is not None:
                return _misplaced(field, late=bool(regular))
            else:
                values[kind] = field.value
        return ""

    def _missing(self) -> str:
        if self.method == b"CONNECT":
            return "" if self.authority and not (self.scheme or self.path) else "an invalid CONNECT"
        if not (self.method and self.scheme and self.path):
            return "no ':method', ':scheme' or ':path'"
        if self.scheme not in (b"http", b"https"):
            return "a ':scheme' other than 'http' and 'https'"
        if not (self.path.startswith(b"/") or self._asterisk()):
            return "an invalid ':path'"
        return ""

    def _asterisk(self) -> bool:
        return self.path == b"*" and self.method == b"OPTIONS"


# Below 2^63, so that any next hop reads the same number.
_MAX_LENGTH_DIGITS: Final = 18


class ResponseFields:
    """A response's header list, taken apart and checked (RFC 9113 8.3.2)."""

    __slots__ = ("fault", "length", "lines", "regular", "request_id", "status")

    def __init__(self, fields: list[Field]) -> None:
        """``fault`` says what makes the list malformed; "" if nothing does."""
        self.status = 0
        self.request_id = b""
        self.length = -1
        """Content-Length; -1 if absent."""
        self.regular: list[Field] = []
        self.lines: list[bytes] | None = None
        """The lines of HTTP/1.1 that a proxy has made of it; see `gateway.transport.http2_head`."""
        self.fault = self._take(fields)

    def _take(self, fields: list[Field]) -> str:
        if not fields or fields[0].kind != STATUS:
            return "no ':status' at the beginning"
        value = fields[0].value
        if len(value) != 3 or not value.isdigit() or not b"100" <= value <= b"599":
            return "an invalid ':status'"
        self.status = int(value)
        self.regular = regular = fields[1:]
        for field in regular:
            kind = field.kind
            if kind > TIMEOUT:
                return field.fault or "a misplaced pseudo-header field"
            if kind == LENGTH:
                length = parse_length(field.value)
                if length < 0 or self.length >= 0:
                    return "an invalid or repeated content-length"
                self.length = length
            elif field.name == b"x-request-id":
                self.request_id = field.value
        return ""


def parse_length(value: bytes) -> int:
    """The number of bytes that a Content-Length says; -1 if it is not a plain number."""
    return int(value) if value.isdigit() and len(value) <= _MAX_LENGTH_DIGITS else -1


def trailer_fault(fields: list[Field]) -> str:
    """What makes a trailer section malformed; "" if nothing does."""
    for field in fields:
        if field.kind > TIMEOUT:
            return field.fault or "a pseudo-header field in a trailer section"
        if field.name in _NO_TRAILERS:
            return f"'{field.name.decode()}' in a trailer section"
    return ""


_NO_TRAILERS: Final = frozenset(
    (b"content-length", b"host", b"authorization", b"cookie", b"set-cookie", b"te")
)
"""Framing, routing and credentials, which mean nothing there (RFC 9110 6.5.1)."""
