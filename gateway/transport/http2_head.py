"""Heads between HTTP/1.1, in which the data plane writes and reads them, and HTTP/2."""

from __future__ import annotations

from typing import Final

from gateway.http.fields import PASS, REQUEST_ID, RESPONSE_ACTIONS, Actions
from gateway.http2.fields import Field
from gateway.http2.hpack import (
    REPEATED_LINES,
    Encodings,
    encode_field,
    encode_fields,
    encode_lines,
    split_lines,
)

_NOT_SENT: Final = frozenset((b"host", b"transfer-encoding", b"connection", b"upgrade", b"te"))
"""Lines of an HTTP/1.1 head that HTTP/2 says otherwise."""
_TRAILERS: Final = encode_field(b"te", b"trailers")
_ACTIONS: Final = Actions(RESPONSE_ACTIONS)


class HeadEncoder(Encodings):
    """Makes header blocks of heads that are written in HTTP/1.1, and remembers what their beginnings become."""

    def __init__(self, scheme: bytes) -> None:
        """``scheme``: of the requests."""
        self.scheme = scheme

    def encode(self, parts: list[bytes]) -> bytes:
        """The header block of a request.

        Args:
            parts: A whole head; or its request line and host, lines without framing that other requests have too,
                and one line of this request alone with the framing.
        """
        if len(parts) == 1:
            return self._block(parts[0])
        own = parts[-1]
        if b"\r\ncontent-length: " not in own:
            own = own.partition(b"\r\n")[0]
        return b"".join([self[parts[0]], *[REPEATED_LINES[part] for part in parts[1:-1]], encode_lines(own)])

    def __missing__(self, start: bytes) -> bytes:
        return self.remember(start, self._block(start))

    def _block(self, head: bytes) -> bytes:
        start, _, lines = head.partition(b"\r\n")
        method, target, _ = start.split(b" ")
        fields = split_lines(lines)
        block = [
            encode_field(b":method", method),
            encode_field(b":scheme", self.scheme),
            encode_field(b":path", target),
            *[encode_field(b":authority", value) for name, value in fields if name == b"host"],
            _TRAILERS,
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
