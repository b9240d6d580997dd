"""Frames of HTTP/2 (RFC 9113 4 and 6): their numbers, and the bytes of those that are sent."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from gateway.http2.errors import FRAME_SIZE_ERROR, PROTOCOL_ERROR, ConnectionFault

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of a client (RFC 9113 3.4)."""
HEADER_BYTES: Final = 9
"""The size of a frame's header."""
MAX_FRAME_BYTES: Final = 16_384
"""The largest payload that is accepted: the smallest limit that the protocol permits."""
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20
WRAPPED: Final = PADDED | WITH_PRIORITY
"""Flags of a HEADERS frame with more than its header block."""

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

_HEADER: Final = Struct(">LBL")
"""Length (24 bits) and type (8), flags, stream."""
parse_header: Final = _HEADER.unpack_from
"""The three numbers at a place in bytes; the uppermost bit of the stream is reserved."""
_WITH_WORD: Final = Struct(">LBLL")
_SETTING: Final = Struct(">HL")
_GOAWAY: Final = Struct(">LL")


class HeaderBlock:
    """A header block that comes in several frames."""

    __slots__ = ("end", "pieces", "stream_id")

    def __init__(self, stream_id: int, end: bool, first: bytes) -> None:
        """``end``: whether the stream ends with it."""
        self.stream_id = stream_id
        self.end = end
        self.pieces = [first]


def header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload of ``length`` bytes."""
    return _HEADER.pack(length << 8 | kind, flags, stream)


def rst_stream(stream: int, code: int) -> bytes:
    return _WITH_WORD.pack(4 << 8 | RST_STREAM, 0, stream, code)


def window_update(stream: int, increment: int) -> bytes:
    return _WITH_WORD.pack(4 << 8 | WINDOW_UPDATE, 0, stream, increment)


def settings(values: Sequence[tuple[int, int]]) -> bytes:
    """A SETTINGS frame of (identifier, value) pairs."""
    return header(6 * len(values), SETTINGS, 0, 0) + b"".join(_SETTING.pack(*pair) for pair in values)


SETTINGS_ACK: Final = header(0, SETTINGS, ACK, 0)


def ping(payload: bytes, *, ack: bool) -> bytes:
    """A PING of eight bytes."""
    return header(8, PING, ACK if ack else 0, 0) + payload


def goaway(last_stream: int, code: int, message: str = "") -> bytes:
    """A GOAWAY whose debug data is ``message``."""
    debug = message.encode()
    return header(8 + len(debug), GOAWAY, 0, 0) + _GOAWAY.pack(last_stream, code) + debug


def header_frames(stream: int, block: bytes, *, end_stream: bool) -> bytes:
    """A HEADERS frame with ``block``, and CONTINUATION frames for what does not fit."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= MAX_FRAME_BYTES:
        return header(len(block), HEADERS, flags | END_HEADERS, stream) + block
    parts = [header(MAX_FRAME_BYTES, HEADERS, flags, stream), block[:MAX_FRAME_BYTES]]
    for start in range(MAX_FRAME_BYTES, len(block), MAX_FRAME_BYTES):
        piece = block[start : start + MAX_FRAME_BYTES]
        last = start + MAX_FRAME_BYTES >= len(block)
        parts += (header(len(piece), CONTINUATION, END_HEADERS if last else 0, stream), piece)
    return b"".join(parts)


def unpad(payload: bytes) -> bytes:
    """A padded payload without its padding. Raises ConnectionFault if the padding is too long."""
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame has no payload")
    padding = payload[0]
    # As long as the payload is too long: its length byte is part of that (RFC 9113 6.1).
    if padding >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "the padding is longer than its frame")
    return payload[1 : len(payload) - padding]


def unwrap(flags: int, payload: bytes) -> bytes:
    """The header block in a HEADERS frame. Raises ConnectionFault if its padding or priority is not valid."""
    if flags & PADDED:
        payload = unpad(payload)
    if not flags & WITH_PRIORITY:
        return payload
    if len(payload) < 5:
        raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
    return payload[5:]  # RFC 9113 deprecates priorities
