"""What must not reach an HTTP/1.1 backend as something else; see `tests.http2.corpus`."""

from __future__ import annotations

from collections.abc import Iterator

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tests.http2.case import Case
from tests.http2.raw import (
    AUTHORITY,
    END_HEADERS,
    END_STREAM,
    GOOD,
    HEADERS,
    HELLO,
    METHOD,
    PATH,
    PREFACE,
    SCHEME,
    Pair,
    block,
    data,
    frame,
    headers,
    integer,
    literal,
    settings,
)

MALFORMED = "reset PROTOCOL_ERROR"
_HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def cases() -> Iterator[Case]:
    yield from _encodings()
    yield from _hosts()
    yield from _framing()
    yield from _trailers()
    yield from _tunnels()


def _raw(payload: bytes, stream: int = 1) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, payload)


def _coded(text: bytes) -> bytes:
    encoded: bytes = _HUFFMAN.encode(text)
    return integer(len(encoded), 7, 0x80) + encoded


def _with(pair: Pair) -> bytes:
    return headers([*GOOD, pair], end=False)


def _encodings() -> Iterator[Case]:
    """A string means the same whichever way it is written."""
    good, injected = block(GOOD), b"a\r\nx-injected: 1"
    for name, sent in (
        ("an upper-case name in Huffman code", _raw(good + b"\x00" + _coded(b"X-Up") + b"\x01v")),
        ("a line break in Huffman code", _raw(good + b"\x00\x01x" + _coded(injected))),
        ("a line break with an indexed name", _raw(good + integer(58, 4) + _coded(injected))),
        ("a line break in the path, by index", _raw(block(GOOD[:3]) + b"\x04" + _coded(b"/echo" + injected))),
        (
            "a pseudo-header field of the table again",
            _raw(literal(*METHOD, 0x40) + block(GOOD[1:]) + b"\xbe"),
        ),
        (":status of the static table", _raw(b"\x88" + good)),
        ("an empty name, never indexed", _raw(good + b"\x10\x00\x01v")),
    ):
        yield Case(f"downgrade: {name}", HELLO + sent, MALFORMED)


def _hosts() -> Iterator[Case]:
    for value in (b"a\r\nx-injected: 1", b"a\0b", b"a\tb\x7f"):
        yield Case(
            f"downgrade: authority {value!r}",
            HELLO + headers([METHOD, SCHEME, (b":authority", value), PATH]),
            MALFORMED,
        )
    for name, authority, host in (
        ("a dot more", b"gateway.test.", b"gateway.test"),
        ("a port more", b"gateway.test:80", b"gateway.test"),
        ("an empty one", b"gateway.test", b""),
        ("a list", b"gateway.test", b"gateway.test, evil"),
    ):
        pairs = [METHOD, SCHEME, (b":authority", authority), PATH, (b"host", host)]
        yield Case(f"downgrade: host and authority, {name}", HELLO + headers(pairs), "200", "400")
    pairs = [METHOD, SCHEME, (b":authority", b"GATEWAY.test"), PATH, (b"host", b"gateway.TEST")]
    yield Case("downgrade: host and authority in other cases", HELLO + headers(pairs), "200")
    for path in (b"//evil/echo", b"/http://evil/echo", b"/echo/%2e%2e/admin", b"/echo/..;/admin"):
        yield Case(
            f"downgrade: path {path!r}",
            HELLO + headers([METHOD, SCHEME, AUTHORITY, (b":path", path)]),
            "200",
            "404",
        )
    yield Case(
        "downgrade: characters that only targets of HTTP/1.1 must not have",
        HELLO + headers([METHOD, SCHEME, AUTHORITY, (b":path", b'/echo?a="<>\\^`{|}')]),
        "200",
    )


def _framing() -> Iterator[Case]:
    smuggled = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    for name, value in (
        (b"transfer_encoding", b"chunked"),
        (b"content_length", b"0"),
        (b"trailer", b"content-length"),
        (b"x-http-method-override", b"TRACE"),
    ):
        yield Case(f"downgrade: {name.decode()}", HELLO + _with((name, value)) + data(smuggled), "200")
    yield Case(
        "downgrade: zeros before a length", HELLO + _with((b"content-length", b"0004")) + data(b"body"), "200"
    )
    yield Case(
        "downgrade: length 0, ended by an empty frame",
        HELLO + _with((b"content-length", b"0")) + data(b""),
        "200",
    )
    yield Case(
        "downgrade: no length, and chunks in DATA", HELLO + headers(GOOD, end=False) + data(smuggled), "200"
    )
    yield Case(
        "downgrade: a request behind a body's length",
        HELLO + _with((b"content-length", b"5")) + data(smuggled),
        MALFORMED,
    )
    yield Case("downgrade: another expectation", HELLO + _with((b"expect", b"x")) + data(b""), "200", "417")
    two = [*GOOD, (b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]
    yield Case("downgrade: two credentials", HELLO + headers(two), "200", "400")


def _trailers() -> Iterator[Case]:
    opened = HELLO + headers(GOOD, end=False) + data(b"body", end=False)
    many = [(b"f%d" % n, b"") for n in range(140)]
    yield Case("downgrade: 140 trailers", opened + headers(many), MALFORMED)
    yield Case("downgrade: te in trailers", opened + headers([(b"te", b"trailers")]), MALFORMED)
    for name, more in (("DATA", data(b"smuggled")), ("trailers", headers([(b"smuggled", b"1")]))):
        yield Case(
            f"downgrade: {name} after trailers",
            opened + headers([(b"a", b"b")]) + more,
            "reset STREAM_CLOSED",
        )
    ours = [(b"x-variant", b"evil"), (b"x-decision-id", b"evil"), (b"x-forwarded-for", b"evil")]
    yield Case("downgrade: trailers with fields of the gateway", opened + headers(ours), "200")


def _tunnels() -> Iterator[Case]:
    extended = [(b":method", b"CONNECT"), SCHEME, AUTHORITY, PATH, (b":protocol", b"websocket")]
    yield Case(
        "downgrade: extended CONNECT, with its setting",
        PREFACE + settings((8, 1)) + headers(extended, end=False),
        MALFORMED,
    )
    tunnel = headers([(b":method", b"CONNECT"), (b":authority", b"evil:25")], end=False)
    yield Case(
        "downgrade: CONNECT and bytes for the tunnel", HELLO + tunnel + data(b"EHLO evil"), "200", "405"
    )
