"""Heads between HTTP/1.1, in which the data plane writes and reads them, and HTTP/2."""

from __future__ import annotations

from typing import Final

from gateway.http.fields import PASS, REQUEST_ID, RESPONSE_ACTIONS, Actions
from gateway.http2.fields import Field
from gateway.http2.hpack import REPEATED_LINES, encode_field, encode_fields, split_lines

_NOT_SENT: Final = frozenset((b"host", b"transfer-encoding", b"connection", b"upgrade", b"te"))
"""Lines of an HTTP/1.1 head that HTTP/2 says otherwise."""
_TRAILERS: Final = encode_field(b"te", b"trailers")
_ACTIONS: Final = Actions(RESPONSE_ACTIONS)


def encode_head(parts: list[bytes], scheme: bytes) -> bytes:
    """The header block for a request whose head is written in HTTP/1.1.

    Args:
        parts: The first begins with the request line and the host; the last is of this request alone. Those between
            are whole lines without framing, most of which other requests have too.
        scheme: Of the request.
    """
    start, _, lines = parts[0].partition(b"\r\n")
    method, target, _ = start.split(b" ")
    if len(parts) > 1:
        lines += parts[-1]
    fields = split_lines(lines)
    block = [
        encode_field(b":method", method),
        encode_field(b":scheme", scheme),
        encode_field(b":path", target),
        *[encode_field(b":authority", value) for name, value in fields if name == b"host"],
        _TRAILERS,
        *[REPEATED_LINES[part] for part in parts[1:-1]],
        encode_fields([field for field in fields if field[0] not in _NOT_SENT]),
    ]
    return b"".join(block)


def response_lines(fields: list[Field]) -> list[bytes]:
    """The lines that go on to the client."""
    lines = []
    for field in fields:
        try:
            action = _ACTIONS.known[field.name]
        except KeyError:
            action = _ACTIONS.find(field.name)
        if action == PASS:
            lines.append(field.line)
        elif action == REQUEST_ID:  # the client gets the gateway's
            lines.append(b"x-backend-request-id: %b\r\n" % field.value)
    return lines
