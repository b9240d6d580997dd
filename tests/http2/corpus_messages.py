"""Malformed header lists, targets, lengths and compression; see `tests.http2.corpus`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.http2.case import Case
from tests.http2.raw import (
    ACK,
    AUTHORITY,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GOOD,
    HEADERS,
    HELLO,
    METHOD,
    PADDED,
    PATH,
    PING,
    PRIORITY,
    SCHEME,
    WITH_PRIORITY,
    Pair,
    block,
    data,
    frame,
    headers,
    integer,
    literal,
    split,
)


def cases() -> Iterator[Case]:
    yield from _pseudo()
    yield from _names_and_values()
    yield from _connection_fields()
    yield from _lengths()
    yield from _targets()
    yield from _trailers()
    yield from _compression()
    yield from _harmless()


def _pseudo() -> Iterator[Case]:
    malformed = "reset PROTOCOL_ERROR"
    for missing in (METHOD, SCHEME, PATH):
        yield Case(
            f"pseudo: no {missing[0].decode()}", HELLO + headers([p for p in GOOD if p != missing]), malformed
        )
    for repeated in GOOD:
        yield Case(f"pseudo: two {repeated[0].decode()}", HELLO + headers([*GOOD, repeated]), malformed)
        yield Case(
            f"pseudo: empty {repeated[0].decode()}",
            HELLO + headers([(n, b"" if n == repeated[0] else v) for n, v in GOOD]),
            malformed,
        )
        late = [p for p in GOOD if p != repeated]
        yield Case(
            f"pseudo: {repeated[0].decode()} after a field",
            HELLO + headers([*late, (b"a", b"b"), repeated]),
            malformed,
        )
    for name, extra in (
        ("of a response", (b":status", b"200")),
        ("unknown", (b":evil", b"x")),
        ("extended CONNECT", (b":protocol", b"websocket")),
        ("upper case", (b":Method", b"GET")),
        ("a colon alone", (b":", b"x")),
        ("with a space", (b":path ", b"/x")),
    ):
        yield Case(f"pseudo: {name}", HELLO + headers([*GOOD, extra]), malformed)
    yield Case("pseudo: none at all", HELLO + headers([(b"a", b"b")]), malformed)
    yield Case("pseudo: an empty block", HELLO + headers([]), malformed)
    for value in (b"ftp", b"HTTP", b"http://a", b"https\r\n", b"javascript"):
        yield Case(
            f"pseudo: scheme {value!r}",
            HELLO + headers([METHOD, (b":scheme", value), AUTHORITY, PATH]),
            malformed,
        )
    for value in (b"GET /", b"GET\r\nx: y", b"G\0T", b"POST ", b"(GET)"):
        yield Case(
            f"pseudo: method {value!r}",
            HELLO + headers([(b":method", value), SCHEME, AUTHORITY, PATH]),
            malformed,
        )
    for value in (b"TRACE", b"PRI", b"get", b"PROPFIND", b"X-EVIL"):
        yield Case(
            f"pseudo: method {value!r}",
            HELLO + headers([(b":method", value), SCHEME, AUTHORITY, PATH]),
            "200",
            "405",
        )
    yield Case(
        "pseudo: CONNECT with a path",
        HELLO + headers([(b":method", b"CONNECT"), SCHEME, AUTHORITY, PATH]),
        malformed,
    )
    yield Case("pseudo: CONNECT without authority", HELLO + headers([(b":method", b"CONNECT")]), malformed)
    yield Case("pseudo: CONNECT", HELLO + headers([(b":method", b"CONNECT"), AUTHORITY]), "200", "405")


def _names_and_values() -> Iterator[Case]:
    malformed = "reset PROTOCOL_ERROR"
    for name in (
        b"", b" ", b"X-Upper", b"x upper", b"x\tb", b"x:y", b"x\r\ny", b"x\ny", b"x\0y", b"x\x7f", b"x(y)", b"x,y",
        b"caf\xc3\xa9", b'"x"', b"x/y", b"x ", b" x", b"host ", b"content-length:",
    ):  # fmt: skip
        yield Case(f"name: {name!r}", HELLO + headers([*GOOD, (name, b"v")]), malformed)
    for value in (
        b"a\r\nx-injected: 1", b"a\nb", b"a\rb", b"a\0b", b"a\x01b", b"a\x1fb", b"a\x7fb", b" a", b"a ", b"\ta", b"a\t",
        b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n", b" ",
    ):  # fmt: skip
        yield Case(f"value: {value!r}", HELLO + headers([*GOOD, (b"x-field", value)]), malformed)
    for value in (b"", b"a b", b"a\tb", b"caf\xe9", b"\xff", b"a: b", b"a" * 4000):
        yield Case(
            f"value: {value[:20]!r} is transparent", HELLO + headers([*GOOD, (b"x-field", value)]), "200"
        )


def _connection_fields() -> Iterator[Case]:
    malformed = "reset PROTOCOL_ERROR"
    for name, value in (
        (b"connection", b"close"),
        (b"connection", b"x-user-id"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"upgrade", b"websocket"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAMAAABkAAQCAAAAAAIAAAAA"),
        (b"te", b"gzip"),
        (b"te", b"trailers, deflate"),
        (b"te", b"chunked"),
        (b"te", b""),
    ):
        yield Case(
            f"connection: {name.decode()}: {value.decode()}",
            HELLO + headers([*GOOD, (name, value)]),
            malformed,
        )
    yield Case("connection: te: trailers", HELLO + headers([*GOOD, (b"te", b"trailers")]), "200")
    smuggled = [*GOOD, (b"transfer-encoding", b"chunked"), (b"content-length", b"5")]
    yield Case(
        "connection: a length with chunked",
        HELLO + headers(smuggled, end=False) + data(b"0\r\n\r\n"),
        malformed,
    )


def _lengths() -> Iterator[Case]:
    for value in (b"-1", b"+0", b"0x0", b"0, 0", b"", b"1e0", b"9" * 19, b"0 0", b"\xc2\xb2"):
        yield Case(
            f"length: {value!r}", HELLO + headers([*GOOD, (b"content-length", value)]), "reset PROTOCOL_ERROR"
        )
    twice: list[Pair] = [*GOOD, (b"content-length", b"0"), (b"content-length", b"0")]
    yield Case("length: twice", HELLO + headers(twice), "reset PROTOCOL_ERROR")
    huge = [*GOOD, (b"content-length", b"999999999999999999")]
    yield Case("length: huge", HELLO + headers(huge, end=False) + data(b"", end=False), "", "413")


def _targets() -> Iterator[Case]:
    malformed = "reset PROTOCOL_ERROR"
    for path in (
        b"echo", b"http://x/echo", b"*", b"/a b", b"/a\r\nx: y", b"/a\0", b"/\x7f", b"/caf\xc3\xa9", b"?x", b"#x",
        b"/\t",         b"/ HTTP/1.1\r\nhost: evil\r\n\r\n", b" /echo",
    ):  # fmt: skip
        yield Case(
            f"path: {path!r}", HELLO + headers([METHOD, SCHEME, AUTHORITY, (b":path", path)]), malformed
        )
    yield Case(
        "path: a fragment", HELLO + headers([METHOD, SCHEME, AUTHORITY, (b":path", b"/echo#x")]), "200", "400"
    )
    yield Case(
        "path: climbs out of its route",
        HELLO + headers([METHOD, SCHEME, AUTHORITY, (b":path", b"/echo/../admin")]),
        "200",
        "404",
    )
    yield Case(
        "path: longer than limits.target",
        HELLO + split(block([METHOD, SCHEME, AUTHORITY, (b":path", b"/echo?" + b"a" * 20_000)])),
        "200",
        "414",
    )
    for authority in (
        b"user@gateway.test",
        b"a b",
        b"a,b",
        b"[::1",
        b"a:99999",
        b"a/b",
        b"a?b",
        b"a\\b",
        b"-",
        b":80",
    ):
        yield Case(
            f"authority: {authority!r}",
            HELLO + headers([METHOD, SCHEME, (b":authority", authority), PATH]),
            "200",
            "400",
        )
    yield Case("authority: another Host", HELLO + headers([*GOOD, (b"host", b"other.test")]), "200", "400")
    yield Case(
        "authority: two Host",
        HELLO + headers([METHOD, SCHEME, PATH, (b"host", b"a"), (b"host", b"a")]),
        "200",
        "400",
    )
    yield Case("authority: neither", HELLO + headers([METHOD, SCHEME, PATH]), "200", "400")
    yield Case(
        "authority: Host alone", HELLO + headers([METHOD, SCHEME, PATH, (b"host", b"gateway.test")]), "200"
    )
    yield Case(
        "authority: an empty Host", HELLO + headers([METHOD, SCHEME, PATH, (b"host", b"")]), "200", "400"
    )
    yield Case("authority: the same Host", HELLO + headers([*GOOD, (b"host", b"gateway.test")]), "200")


def _trailers() -> Iterator[Case]:
    opened = HELLO + headers(GOOD, end=False) + data(b"body", end=False)
    malformed = "reset PROTOCOL_ERROR"
    for name, pairs in (
        ("a pseudo-header field", [(b":path", b"/x")]),
        ("content-length", [(b"content-length", b"4")]),
        ("transfer-encoding", [(b"transfer-encoding", b"chunked")]),
        ("host", [(b"host", b"evil")]),
        ("authorization", [(b"authorization", b"Bearer x")]),
        ("connection", [(b"connection", b"close")]),
        ("upper case", [(b"X-Sum", b"1")]),
        ("a line break", [(b"x-sum", b"1\r\nhost: evil")]),
    ):
        yield Case(f"trailers: {name}", opened + headers(pairs), malformed)
    yield Case(
        "trailers: that do not end the stream", opened + headers([(b"x-sum", b"1")], end=False), malformed
    )
    yield Case("trailers: plain", opened + headers([(b"x-sum", b"1")]), "200")
    yield Case("trailers: empty", opened + headers([]), "200")


def _compression() -> Iterator[Case]:
    lost = "goaway COMPRESSION_ERROR"

    def raw(payload: bytes) -> bytes:
        return HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, payload)

    good = block(GOOD)
    for name, payload in (
        ("index 0", b"\x80"),
        ("index beyond the static table", b"\xbe"),
        ("a huge index", integer(2**31, 7, 0x80)),
        ("an endless integer", b"\xff" + b"\x80" * 12 + b"\x01"),
        ("an integer that ends early", b"\xff\xff"),
        ("a name of index 70", integer(70, 4) + b"\x01x"),
        ("a string that ends early", b"\x00\x05ab"),
        ("a name only", b"\x00\x01a"),
        ("a string of 2^28 bytes", b"\x00" + integer(2**28, 7) + b"a"),
        ("Huffman code with EOS", b"\x00\x01a\x84\xff\xff\xff\xff"),
        ("Huffman code padded with zeros", b"\x00\x01a\x81\x18"),
        ("Huffman code padded with eight bits", b"\x00\x01a\x82\x1f\xff"),
        ("a table size over the setting", integer(4097, 5, 0x20)),
        ("a table size after a field", good + b"\x20"),
        ("only a table size over the setting", b"\x20" + integer(2**20, 5, 0x20)),
        ("three table sizes", b"\x20\x20" + integer(4096, 5, 0x20) + good),
        ("table sizes alone", b"\x20" * 16_000),
    ):
        yield Case(f"compression: {name}", raw(payload), lost)
    yield Case(
        "compression: an entry that was evicted", raw(b"\x20" + literal(b"a", b"b", 0x40) + b"\xbe"), lost
    )
    yield Case(
        "compression: an entry larger than the table", raw(good + literal(b"a", b"b" * 5000, 0x40)), "200"
    )
    yield Case("compression: two table sizes first", raw(b"\x20" + integer(4096, 5, 0x20) + good), "200")
    yield Case(
        "compression: an index to the entry before", raw(good + literal(b"a", b"b", 0x40) + b"\xbe"), "200"
    )
    yield Case("compression: never indexed", raw(good + literal(b"a", b"b", 0x10)), "200")
    bomb = literal(b"a", b"b" * 4000, 0x40) + b"\xbe" * 12_000
    yield Case(
        "compression: a bomb of 48 MB",
        HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, good + bomb),
        "431",
    )
    many = good + b"".join(literal(b"f%d" % n, b"") for n in range(130))
    yield Case("compression: 134 fields", raw(many), "431")
    large = [*GOOD, *((b"f%d" % n, b"v" * 980) for n in range(65))]  # 64.7 kB encoded, more as it is counted
    yield Case("compression: a list of 66 kB", HELLO + split(block(large)), "431")


def _harmless() -> Iterator[Case]:
    yield Case("harmless: an unknown frame", HELLO + frame(0xBE, 0xFF, 77, b"grease") + headers(GOOD), "200")
    yield Case(
        "harmless: PRIORITY of an idle stream",
        HELLO + frame(PRIORITY, 0, 7, b"\0\0\0\0\x10") + headers(GOOD),
        "200",
    )
    yield Case(
        "harmless: PRIORITY that depends on itself",
        HELLO + frame(PRIORITY, 0, 1, b"\0\0\0\x01\x10") + headers(GOOD),
        "200",
    )
    priority = frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, b"\x80\0\0\0\xff" + block(GOOD))
    yield Case("harmless: HEADERS with priority", HELLO + priority, "200")
    padded = frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\x03" + block(GOOD) + b"\0\0\0")
    yield Case("harmless: padded HEADERS", HELLO + padded, "200")
    yield Case(
        "harmless: undefined flags",
        HELLO + frame(HEADERS, 0xC7 & ~0x08 & ~0x20 | END_HEADERS | END_STREAM, 1, block(GOOD)),
        "200",
    )
    yield Case(
        "harmless: GOAWAY of the client", HELLO + frame(GOAWAY, 0, 0, b"\0" * 8) + headers(GOOD), "200"
    )
    yield Case("harmless: a PING", HELLO + frame(PING, 0, 0, b"12345678") + headers(GOOD), "200")
    yield Case(
        "harmless: an unasked confirmation of PING",
        HELLO + frame(PING, ACK, 0, b"12345678") + headers(GOOD),
        "200",
    )
    yield Case(
        "harmless: cookies in pieces",
        HELLO + headers([*GOOD, (b"cookie", b"a=1"), (b"cookie", b"b=2")]),
        "200",
    )
    yield Case(
        "harmless: OPTIONS *",
        HELLO + headers([(b":method", b"OPTIONS"), SCHEME, AUTHORITY, (b":path", b"*")]),
        "200",
        "404",
    )
