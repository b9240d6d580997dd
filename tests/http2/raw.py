"""Frames and header blocks written by hand, and a reader of what comes back; independent of the product."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hpack import Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
NAMES = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
)  # fmt: skip

Pair = tuple[bytes, bytes]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def integer(value: int, bits: int, flags: int = 0) -> bytes:
    top = (1 << bits) - 1
    if value < top:
        return bytes((flags | value,))
    out = [flags | top]
    value -= top
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def literal(name: bytes, value: bytes, flags: int = 0) -> bytes:
    """A literal field with a literal name, without Huffman code; ``flags``: 0x40 adds it to the table."""
    return bytes((flags,)) + integer(len(name), 7) + name + integer(len(value), 7) + value


def block(pairs: Iterable[Pair]) -> bytes:
    return b"".join(literal(*pair) for pair in pairs)


METHOD, SCHEME, AUTHORITY, PATH = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":authority", b"gateway.test"),
    (b":path", b"/echo"),
)
GOOD: list[Pair] = [METHOD, SCHEME, AUTHORITY, PATH]
ECHO = """\
  echo:
    match: {path: /echo}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""
"""The route of `GOOD`."""


def headers(pairs: Iterable[Pair], stream: int = 1, *, end: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(pairs))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(n.to_bytes(2, "big") + v.to_bytes(4, "big") for n, v in pairs))


def data(payload: bytes, stream: int = 1, *, end: bool = True) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def word(value: int) -> bytes:
    """Four bytes."""
    return value.to_bytes(4, "big")


def split(whole: bytes, stream: int = 1) -> bytes:
    """HEADERS and CONTINUATION frames for a large block."""
    pieces = [whole[start : start + 16_384] for start in range(0, len(whole), 16_384)]
    sent = frame(HEADERS, END_STREAM, stream, pieces[0])
    for piece in pieces[1:-1]:
        sent += frame(CONTINUATION, 0, stream, piece)
    return sent + frame(CONTINUATION, END_HEADERS, stream, pieces[-1])


HELLO = PREFACE + frame(SETTINGS)


@dataclass
class Reply:
    """What came back on one stream."""

    heads: list[list[Pair]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: str = ""

    @property
    def status(self) -> int:
        return int(dict(self.heads[-1 if len(self.heads) < 2 else 0])[b":status"]) if self.heads else 0


class Reader:
    """Reads a server's bytes."""

    def __init__(self) -> None:
        self.buffer = b""
        self.decoder = Decoder()
        self.replies: dict[int, Reply] = {}
        self.goaway = ""
        self.goaways: list[tuple[int, str]] = []
        self.pings = 0
        self.settings_acks = 0
        self.frames: list[tuple[int, int, int, bytes]] = []
        self._block = b""

    def feed(self, data: bytes) -> None:
        data = self.buffer + data
        place = 0
        while len(data) - place >= 9:
            end = place + 9 + int.from_bytes(data[place : place + 3], "big")
            if len(data) < end:
                break
            kind, flags = data[place + 3], data[place + 4]
            stream = int.from_bytes(data[place + 5 : place + 9], "big")
            payload, place = data[place + 9 : end], end
            self.frames.append((kind, flags, stream, payload))
            self._frame(kind, flags, stream, payload)
        self.buffer = data[place:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        reply = self.replies.setdefault(stream, Reply()) if stream else Reply()
        if kind in (HEADERS, CONTINUATION):
            self._block += payload
            if flags & END_HEADERS:
                reply.heads.append(list(self.decoder.decode(self._block, raw=True)))
                self._block = b""
        elif kind == DATA:
            reply.body += payload
        elif kind == RST_STREAM:
            reply.reset = NAMES[int.from_bytes(payload, "big")]
        elif kind == GOAWAY:
            self.goaway = NAMES[int.from_bytes(payload[4:8], "big")]
            self.goaways.append((int.from_bytes(payload[:4], "big"), self.goaway))
        elif kind == PING and flags & ACK:
            self.pings += 1
        elif kind == SETTINGS and flags & ACK:
            self.settings_acks += 1
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            reply.ended = True
