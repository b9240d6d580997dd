"""Heads between HTTP/1.1, in which the data plane writes and reads them, and HTTP/2."""

from __future__ import annotations

from typing import Final

from gateway.http.fields import REQUEST_ID, RESPONSE_ACTIONS
from gateway.http2.fields import Field
from gateway.http2.hpack import encode_field

_NOT_SENT: Final = frozenset((b"host", b"transfer-encoding", b"connection", b"upgrade", b"te"))
"""Lines of an HTTP/1.1 head that HTTP/2 says otherwise."""


def encode_head(parts: list[bytes], scheme: bytes) -> bytes:
    """The header block for a request whose head is written in HTTP/1.1."""
    first, *lines = b"".join(parts).split(b"\r\n")
    method, target, _ = first.split(b" ")
    block = [
        encode_field(b":method", method),
        encode_field(b":scheme", scheme),
        encode_field(b":path", target),
        b"",
        encode_field(b"te", b"trailers"),
    ]
    for line in lines:
        if line:
            name, _, value = line.partition(b": ")
            name = name.lower()
            if name not in _NOT_SENT:
                block.append(encode_field(name, value))
            elif name == b"host":
                block[3] = encode_field(b":authority", value)
    return b"".join(block)


def response_lines(fields: list[Field]) -> list[bytes]:
    """The lines that go on to the client."""
    lines = []
    for field in fields:
        action = RESPONSE_ACTIONS.get(field.name)
        if action is None:
            lines.append(field.line)
        elif action == REQUEST_ID:  # the client gets the gateway's
            lines.append(b"x-backend-request-id: %b\r\n" % field.value)
    return lines
