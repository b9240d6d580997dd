"""Frames out of order, of bad sizes, and against flow control; see `tests.http2.corpus`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.http2.case import Case
from tests.http2.raw import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GOOD,
    HEADERS,
    HELLO,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    block,
    data,
    frame,
    headers,
    settings,
    word,
)


def cases() -> Iterator[Case]:
    yield from _prefaces()
    yield from _sizes()
    yield from _stream_numbers()
    yield from _header_blocks()
    yield from _settings()
    yield from _windows()
    yield from _bodies()


def _prefaces() -> Iterator[Case]:
    protocol = "goaway PROTOCOL_ERROR"
    yield Case("preface: wrong middle", PREFACE[:-8] + b"XX\r\n\r\n" + b"\0" * 9, protocol, "http1 400")
    yield Case("preface: bare LF", PREFACE.replace(b"\r\n", b"\n") + frame(SETTINGS), protocol, "http1 400")
    yield Case("preface: then nothing but zeros", PREFACE + b"\0" * 90, protocol)
    yield Case("preface: twice", PREFACE + PREFACE + frame(SETTINGS), "goaway FRAME_SIZE_ERROR")
    yield Case(
        "preface: then HTTP/1.1", PREFACE + b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "goaway FRAME_SIZE_ERROR"
    )
    for name, first in (
        ("HEADERS", headers(GOOD)),
        ("DATA", data(b"x")),
        ("PING", frame(PING, 0, 0, b"\0" * 8)),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, word(1))),
        ("SETTINGS ACK", frame(SETTINGS, ACK)),
        ("GOAWAY", frame(GOAWAY, 0, 0, b"\0" * 8)),
        ("RST_STREAM", frame(RST_STREAM, 0, 1, word(8))),
        ("an unknown type", frame(0xBE, 0, 0, b"grease")),
    ):
        yield Case(f"first frame: {name}", PREFACE + first, protocol)


def _sizes() -> Iterator[Case]:
    size = "goaway FRAME_SIZE_ERROR"
    for name, kind, stream in (
        ("DATA", DATA, 1),
        ("HEADERS", HEADERS, 1),
        ("SETTINGS", SETTINGS, 0),
        ("an unknown type", 0x42, 0),
    ):
        opened = headers(GOOD, end=False) if kind == DATA else b""
        yield Case(f"size: {name} of 16385", HELLO + opened + frame(kind, 0, stream, b"\0" * 16_385), size)
        yield Case(
            f"size: {name} of 16 MiB, only its header",
            HELLO + opened + b"\xff\xff\xff" + bytes((kind, 0, 0, 0, 0, stream)),
            size,
        )
    for length in (0, 7, 9, 16):
        yield Case(f"size: PING of {length}", HELLO + frame(PING, 0, 0, b"\0" * length), size)
    for length in (1, 5, 7):
        yield Case(f"size: SETTINGS of {length}", HELLO + frame(SETTINGS, 0, 0, b"\0" * length), size)
    yield Case("size: SETTINGS ACK with an entry", HELLO + frame(SETTINGS, ACK, 0, b"\0" * 6), size)
    for length in (0, 3, 5):
        yield Case(
            f"size: RST_STREAM of {length}",
            HELLO + headers(GOOD, end=False) + frame(RST_STREAM, 0, 1, b"\0" * length),
            size,
        )
        yield Case(
            f"size: WINDOW_UPDATE of {length}", HELLO + frame(WINDOW_UPDATE, 0, 0, b"\0" * length), size
        )
    for length in (0, 4, 6):
        yield Case(f"size: PRIORITY of {length}", HELLO + frame(PRIORITY, 0, 1, b"\0" * length), size)
    yield Case("size: GOAWAY of 7", HELLO + frame(GOAWAY, 0, 0, b"\0" * 7), size)
    yield Case("size: PADDED DATA of 0", HELLO + headers(GOOD, end=False) + frame(DATA, PADDED, 1), size)
    yield Case("size: PADDED HEADERS of 0", HELLO + frame(HEADERS, PADDED | END_HEADERS, 1), size)
    yield Case(
        "size: HEADERS too short for its priority",
        HELLO + frame(HEADERS, WITH_PRIORITY | END_HEADERS, 1, b"\0" * 4),
        size,
    )
    yield Case(
        "size: HEADERS whose padding takes its priority",
        HELLO + frame(HEADERS, PADDED | WITH_PRIORITY | END_HEADERS, 1, b"\x03" + b"\0" * 5),
        size,
    )
    protocol = "goaway PROTOCOL_ERROR"
    yield Case(
        "padding: as long as DATA",
        HELLO + headers(GOOD, end=False) + frame(DATA, PADDED, 1, b"\x05abcd"),
        protocol,
    )
    yield Case(
        "padding: longer than DATA",
        HELLO + headers(GOOD, end=False) + frame(DATA, PADDED, 1, b"\xffabcd"),
        protocol,
    )
    yield Case(
        "padding: longer than HEADERS",
        HELLO + frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff" + block(GOOD)),
        protocol,
    )


def _stream_numbers() -> Iterator[Case]:
    protocol = "goaway PROTOCOL_ERROR"
    for name, sent in (
        ("DATA on 0", data(b"x", 0)),
        ("HEADERS on 0", headers(GOOD, 0)),
        ("HEADERS on 2", headers(GOOD, 2)),
        ("PRIORITY on 0", frame(PRIORITY, 0, 0, b"\0" * 5)),
        ("RST_STREAM on 0", frame(RST_STREAM, 0, 0, word(8))),
        ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 5, word(8))),
        ("RST_STREAM on an idle even stream", frame(RST_STREAM, 0, 4, word(8))),
        ("WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 5, word(8))),
        ("DATA on an idle stream", data(b"x", 5)),
        ("DATA on an idle even stream", data(b"x", 2)),
        ("SETTINGS on 1", frame(SETTINGS, 0, 1)),
        ("PING on 1", frame(PING, 0, 1, b"\0" * 8)),
        ("GOAWAY on 1", frame(GOAWAY, 0, 1, b"\0" * 8)),
        ("CONTINUATION on 0", frame(CONTINUATION, END_HEADERS, 0, block(GOOD))),
        ("CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, block(GOOD))),
        (
            "CONTINUATION after a whole block",
            headers(GOOD, end=False) + frame(CONTINUATION, END_HEADERS, 1, b""),
        ),
        (
            "PUSH_PROMISE of a client",
            headers(GOOD, end=False) + frame(PUSH_PROMISE, END_HEADERS, 1, word(2) + block(GOOD)),
        ),
    ):
        yield Case(f"stream: {name}", HELLO + sent, protocol)
    closed = "goaway STREAM_CLOSED"
    yield Case("stream: a number below the last", HELLO + headers(GOOD, 5) + headers(GOOD, 3), closed)
    yield Case("stream: DATA on a skipped number", HELLO + headers(GOOD, 5) + data(b"x", 3), closed)
    yield Case(
        "stream: any number after the highest", HELLO + headers(GOOD, 2**31 - 1) + headers(GOOD), closed
    )
    yield Case("stream: the reserved bit is ignored", HELLO + headers(GOOD, 1 | 1 << 31), "200")


def _header_blocks() -> Iterator[Case]:
    protocol = "goaway PROTOCOL_ERROR"
    begun = HELLO + frame(HEADERS, END_STREAM, 1, block(GOOD)[:20])
    rest = block(GOOD)[20:]
    for name, between in (
        ("DATA", data(b"x", 1)),
        ("HEADERS of another stream", headers(GOOD, 3)),
        ("HEADERS of the same", headers(GOOD, 1)),
        ("PRIORITY", frame(PRIORITY, 0, 1, b"\0" * 5)),
        ("RST_STREAM", frame(RST_STREAM, 0, 1, word(8))),
        ("SETTINGS", frame(SETTINGS)),
        ("PING", frame(PING, 0, 0, b"\0" * 8)),
        ("GOAWAY", frame(GOAWAY, 0, 0, b"\0" * 8)),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, word(1))),
        ("an unknown type", frame(0x99, 0, 1, b"x")),
        ("CONTINUATION of another stream", frame(CONTINUATION, END_HEADERS, 3, rest)),
    ):
        yield Case(
            f"block: {name} inside", begun + between + frame(CONTINUATION, END_HEADERS, 1, rest), protocol
        )
    calm = "goaway ENHANCE_YOUR_CALM"
    yield Case("block: 17 CONTINUATION frames", begun + frame(CONTINUATION, 0, 1) * 17, calm)
    yield Case(
        "block: 4 KiB in each of many CONTINUATION frames",
        begun + frame(CONTINUATION, 0, 1, b"\0" * 4096) * 17,
        calm,
    )
    yield Case(
        "block: in three pieces",
        begun + frame(CONTINUATION, 0, 1, rest[:3]) + frame(CONTINUATION, END_HEADERS, 1, rest[3:]),
        "200",
    )
    yield Case(
        "block: empty HEADERS, all in CONTINUATION",
        HELLO + frame(HEADERS, END_STREAM, 1) + frame(CONTINUATION, END_HEADERS, 1, block(GOOD)),
        "200",
    )


def _settings() -> Iterator[Case]:
    for name, pair, code in (
        ("ENABLE_PUSH 2", (2, 2), "PROTOCOL_ERROR"),
        ("ENABLE_PUSH 2^32-1", (2, 2**32 - 1), "PROTOCOL_ERROR"),
        ("INITIAL_WINDOW_SIZE 2^31", (4, 2**31), "FLOW_CONTROL_ERROR"),
        ("INITIAL_WINDOW_SIZE 2^32-1", (4, 2**32 - 1), "FLOW_CONTROL_ERROR"),
        ("MAX_FRAME_SIZE 16383", (5, 16_383), "PROTOCOL_ERROR"),
        ("MAX_FRAME_SIZE 0", (5, 0), "PROTOCOL_ERROR"),
        ("MAX_FRAME_SIZE 2^24", (5, 2**24), "PROTOCOL_ERROR"),
    ):
        yield Case(f"settings: {name}", HELLO + settings(pair), f"goaway {code}")
    yield Case(
        "settings: 33 entries", HELLO + settings(*[(4, n) for n in range(33)]), "goaway ENHANCE_YOUR_CALM"
    )
    yield Case("settings: confirmed twice", HELLO + frame(SETTINGS, ACK) * 2, "goaway PROTOCOL_ERROR")
    for name, pairs in (
        ("unknown", ((0xFEED, 7),)),
        ("no table", ((1, 0),)),
        ("a huge table", ((1, 2**32 - 1),)),
        ("the same twice", ((4, 5), (4, 70_000))),
        ("a tiny header list", ((6, 1),)),
        ("no streams of ours", ((3, 0),)),
        ("the largest frame", ((5, 2**24 - 1),)),
    ):
        yield Case(f"settings: {name}", HELLO + settings(*pairs) + headers(GOOD), "200")


def _windows() -> Iterator[Case]:
    opened = HELLO + headers(GOOD, end=False)
    grow = frame(WINDOW_UPDATE, 0, 0, word(2**31 - 1))
    yield Case(
        "window: zero on the connection", HELLO + frame(WINDOW_UPDATE, 0, 0, word(0)), "goaway PROTOCOL_ERROR"
    )
    yield Case(
        "window: zero with the reserved bit",
        HELLO + frame(WINDOW_UPDATE, 0, 0, word(2**31)),
        "goaway PROTOCOL_ERROR",
    )
    yield Case(
        "window: zero on a stream", opened + frame(WINDOW_UPDATE, 0, 1, word(0)), "reset PROTOCOL_ERROR"
    )
    yield Case("window: too large on the connection", HELLO + grow, "goaway FLOW_CONTROL_ERROR")
    yield Case(
        "window: too large on a stream",
        opened + frame(WINDOW_UPDATE, 0, 1, word(2**31 - 1)),
        "reset FLOW_CONTROL_ERROR",
    )
    yield Case(
        "window: too large by SETTINGS",
        opened + frame(WINDOW_UPDATE, 0, 1, word(2**31 - 1 - 65_535)) + settings((4, 65_536)),
        "goaway FLOW_CONTROL_ERROR",
    )
    yield Case(
        "window: too large by the largest SETTINGS",
        opened + frame(WINDOW_UPDATE, 0, 1, word(1)) + settings((4, 2**31 - 1)),
        "goaway FLOW_CONTROL_ERROR",
    )
    yield Case(
        "window: shrinks below zero", opened + settings((4, 0)) + settings((4, 65_535)) + data(b""), "200"
    )


def _bodies() -> Iterator[Case]:
    def length(value: bytes) -> bytes:
        return HELLO + headers([*GOOD, (b"content-length", value)], end=False)

    yield Case("body: more than content-length", length(b"3") + data(b"four"), "reset PROTOCOL_ERROR")
    yield Case(
        "body: more in a later frame",
        length(b"3") + data(b"thr", end=False) + data(b"e"),
        "reset PROTOCOL_ERROR",
    )
    yield Case("body: less than content-length", length(b"5") + data(b"four"), "reset PROTOCOL_ERROR")
    yield Case(
        "body: none despite content-length",
        HELLO + headers([*GOOD, (b"content-length", b"5")]),
        "reset PROTOCOL_ERROR",
    )
    yield Case(
        "body: less, ended by trailers",
        length(b"5") + data(b"four", end=False) + headers([(b"x", b"y")]),
        "reset PROTOCOL_ERROR",
    )
    yield Case("body: any for content-length 0", length(b"0") + data(b"x"), "reset PROTOCOL_ERROR")
    yield Case(
        "body: DATA after the end",
        HELLO + headers(GOOD, end=False) + data(b"x") + data(b"y"),
        "reset STREAM_CLOSED",
    )
    yield Case(
        "body: DATA after END_STREAM of HEADERS", HELLO + headers(GOOD) + data(b"y"), "reset STREAM_CLOSED"
    )
    yield Case("body: HEADERS after the end", HELLO + headers(GOOD) + headers(GOOD), "reset STREAM_CLOSED")
    yield Case("body: as content-length says", length(b"4") + data(b"four"), "200")
    yield Case(
        "body: padded",
        HELLO + headers(GOOD, end=False) + frame(DATA, PADDED | END_STREAM, 1, b"\x02ab\0\0"),
        "200",
    )
    yield Case(
        "body: padding that is not zero",
        HELLO + headers(GOOD, end=False) + frame(DATA, PADDED | END_STREAM, 1, b"\x04bodyGET "),
        "200",
    )
    yield Case(
        "body: only padding",
        HELLO + headers(GOOD, end=False) + frame(DATA, PADDED | END_STREAM, 1, b"\x02\0\0"),
        "200",
    )
    yield Case("body: empty frames between", length(b"4") + data(b"", end=False) * 5 + data(b"four"), "200")
