"""Header fields: one object per table entry, validated once (RFC 9113 8.2)."""

from __future__ import annotations

from typing import Final

REGULAR: Final = 0
PSEUDO: Final = 1
"""A known pseudo-header field."""
MALFORMED: Final = 2
"""A name or value that no message may have, see `Field.fault`."""

FIELD_OVERHEAD: Final = 32
"""Bytes that a field counts for besides its name and value (RFC 7541 4.1)."""

_NAME_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_VALUE_BYTES: Final = bytes(b for b in range(256) if b == 9 or (b >= 0x20 and b != 0x7F))
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
_RESPONSE_PSEUDO: Final = frozenset((b":status",))
_PSEUDO: Final = _REQUEST_PSEUDO | _RESPONSE_PSEUDO
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
        self.kind = MALFORMED if self.fault else PSEUDO if name.startswith(b":") else REGULAR
        self.line = b"%b: %b\r\n" % (name, value)
        """Only of use if the field is regular."""

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.value!r})"


def field_fault(name: bytes, value: bytes) -> str:
    """What is wrong with a field of any message; "" if nothing is."""
    if name.startswith(b":"):
        if name not in _PSEUDO:
            return "an unknown pseudo-header field"
    elif not name or name.translate(None, _NAME_BYTES):
        return "a field name with an invalid or upper-case character"
    elif name in _CONNECTION_FIELDS:
        return f"the connection-specific field '{name.decode()}'"
    elif name == b"te" and value.lower() != b"trailers":
        return "a 'te' other than 'trailers'"
    if value.translate(None, _VALUE_BYTES):
        return "a control character in a field value"
    if value and (value[0] in b" \t" or value[-1] in b" \t"):
        return "white space around a field value"
    return ""


class RequestFields:
    """A request's header list, taken apart and checked (RFC 9113 8.3.1)."""

    __slots__ = ("authority", "content_type", "fault", "length", "method", "path", "regular", "scheme")

    def __init__(self, fields: list[Field]) -> None:
        """``fault`` says what makes the list malformed; "" if nothing does."""
        self.method = self.scheme = self.authority = self.path = self.content_type = b""
        self.length = -1
        """Content-Length; -1 if absent."""
        self.regular: list[Field] = []
        self.fault = self._take(fields) or self._missing()

    def _take(self, fields: list[Field]) -> str:
        regular = self.regular
        for field in fields:
            if field.kind == REGULAR:
                regular.append(field)
                if field.name == b"content-length":
                    length = parse_length(field.value)
                    if length < 0 or self.length >= 0:
                        return "an invalid or repeated content-length"
                    self.length = length
                elif field.name == b"content-type":
                    self.content_type = field.value
            elif field.kind == MALFORMED:
                return field.fault
            else:
                fault = self._take_pseudo(field.name, field.value, late=bool(regular))
                if fault:
                    return fault
        return ""

    def _take_pseudo(self, name: bytes, value: bytes, *, late: bool) -> str:
        if late:
            return "a pseudo-header field after a regular one"
        if not value:
            return f"an empty '{name.decode()}'"
        if name == b":path" and not self.path:
            self.path = value
        elif name == b":method" and not self.method:
            self.method = value
        elif name == b":authority" and not self.authority:
            self.authority = value
        elif name == b":scheme" and not self.scheme:
            self.scheme = value
        elif name in _REQUEST_PSEUDO:
            return f"a repeated '{name.decode()}'"
        else:
            return f"'{name.decode()}' in a request"
        return ""

    def _missing(self) -> str:
        if self.method == b"CONNECT":
            return "" if self.authority and not (self.scheme or self.path) else "an invalid CONNECT"
        if not (self.method and self.scheme and self.path):
            return "no ':method', ':scheme' or ':path'"
        if self.method.translate(None, _METHOD_BYTES):
            return "an invalid ':method'"
        if self.scheme not in (b"http", b"https"):
            return "a ':scheme' other than 'http' and 'https'"
        if self.path.translate(None, _VISIBLE) or not (self.path.startswith(b"/") or self._asterisk()):
            return "an invalid ':path'"
        return ""

    def _asterisk(self) -> bool:
        return self.path == b"*" and self.method == b"OPTIONS"


_METHOD_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_MAX_LENGTH_DIGITS: Final = 18


class ResponseFields:
    """A response's header list, taken apart and checked (RFC 9113 8.3.2)."""

    __slots__ = ("fault", "length", "regular", "status")

    def __init__(self, fields: list[Field]) -> None:
        """``fault`` says what makes the list malformed; "" if nothing does."""
        self.status = 0
        self.length = -1
        """Content-Length; -1 if absent."""
        self.regular: list[Field] = []
        self.fault = self._take(fields)

    def _take(self, fields: list[Field]) -> str:
        if not fields or fields[0].name != b":status":
            return "no ':status' at the beginning"
        value = fields[0].value
        if len(value) != 3 or not value.isdigit() or not b"100" <= value <= b"599":
            return "an invalid ':status'"
        self.status = int(value)
        for field in fields[1:]:
            if field.kind != REGULAR:
                return field.fault or "a misplaced pseudo-header field"
            if field.name == b"content-length":
                length = parse_length(field.value)
                if length < 0 or self.length >= 0:
                    return "an invalid or repeated content-length"
                self.length = length
        self.regular = fields[1:]
        return ""


def parse_length(value: bytes) -> int:
    """The number of bytes that a Content-Length says; -1 if it is not a plain number."""
    return int(value) if value.isdigit() and len(value) <= _MAX_LENGTH_DIGITS else -1


def trailer_fault(fields: list[Field]) -> str:
    """What makes a trailer section malformed; "" if nothing does."""
    for field in fields:
        if field.kind != REGULAR:
            return field.fault or "a pseudo-header field in a trailer section"
        if field.name in _NO_TRAILERS:
            return f"'{field.name.decode()}' in a trailer section"
    return ""


_NO_TRAILERS: Final = frozenset(
    (b"content-length", b"host", b"authorization", b"cookie", b"set-cookie", b"te")
)
"""Framing, routing and credentials, which mean nothing there (RFC 9110 6.5.1)."""
