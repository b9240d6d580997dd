"""What is ambiguous or malformed is refused, never guessed: nothing of it reaches a backend."""

from __future__ import annotations

import pytest

from tests.support.client import Cut
from tests.wire.messages import H
from tests.wire.messages import framed as post
from tests.wire.messages import with_lines as get
from tests.wire.rig import Rig

NEXT = b"GET /p/smuggled HTTP/1.1\r\nhost: gateway.test\r\n\r\n"
TE = b"transfer-encoding: chunked"
CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"
UPGRADE = (b"connection: upgrade", b"upgrade: websocket")
H2C = (b"connection: upgrade", b"upgrade: h2c")

FRAMING: dict[str, tuple[bytes, int, str]] = {
    # Content-Length with Transfer-Encoding, in either order, and under every disguise
    "length-then-chunked": (post(b"content-length: 3", TE, body=CHUNKS), 400, "bad_request"),
    "chunked-then-length": (post(TE, b"content-length: 3", body=CHUNKS), 400, "bad_request"),
    "chunked-and-length-0": (post(TE, b"content-length: 0", body=CHUNKS), 400, "bad_request"),
    "length-0-and-chunked": (post(b"content-length: 0", TE, body=CHUNKS), 400, "bad_request"),
    "length-and-identity": (
        post(b"content-length: 3", b"transfer-encoding: identity", body=b"abc"),
        400,
        "bad_request",
    ),
    # Content-Length alone
    "two-lengths-differ": (
        post(b"content-length: 3", b"content-length: 4", body=b"abcd"),
        400,
        "bad_request",
    ),
    "two-lengths-agree": (post(b"content-length: 3", b"content-length: 3", body=b"abc"), 400, "bad_request"),
    "length-list": (post(b"content-length: 3, 3", body=b"abc"), 400, "bad_request"),
    "length-list-differs": (post(b"content-length: 3, 4", body=b"abc"), 400, "bad_request"),
    "length-plus": (post(b"content-length: +3", body=b"abc"), 400, "bad_request"),
    "length-minus": (post(b"content-length: -3", body=b"abc"), 400, "bad_request"),
    "length-hex": (post(b"content-length: 0x3", body=b"abc"), 400, "bad_request"),
    "length-point": (post(b"content-length: 3.0", body=b"abc"), 400, "bad_request"),
    "length-exponent": (post(b"content-length: 3e0", body=b"abc"), 400, "bad_request"),
    "length-underscore": (post(b"content-length: 1_0", body=b"abcdefghij"), 400, "bad_request"),
    "length-inner-space": (post(b"content-length: 1 0", body=b"abcdefghij"), 400, "bad_request"),
    "length-empty": (post(b"content-length:", body=b"abc"), 400, "bad_request"),
    "length-blank": (post(b"content-length:  ", body=b"abc"), 400, "bad_request"),
    "length-word": (post(b"content-length: three", body=b"abc"), 400, "bad_request"),
    "length-quoted": (post(b'content-length: "3"', body=b"abc"), 400, "bad_request"),
    "length-overflow": (post(b"content-length: 18446744073709551616", body=b"abc"), 400, "bad_request"),
    "length-overflow-by-3": (post(b"content-length: 18446744073709551619", body=b"abc"), 400, "bad_request"),
    "length-arabic-digits": (post("content-length: ٣".encode(), body=b"abc"), 400, "bad_request"),
    "length-nul": (post(b"content-length: 3\x00", body=b"abc"), 400, "bad_request"),
    "length-vertical-tab": (post(b"content-length: \x0b3", body=b"abc"), 400, "bad_request"),
    "length-semicolon": (post(b"content-length: 3;", body=b"abc"), 400, "bad_request"),
    # Transfer-Encoding
    "te-identity": (post(b"transfer-encoding: identity", body=b"abc"), 501, "not_implemented"),
    "te-gzip": (post(b"transfer-encoding: gzip", body=b"abc"), 501, "not_implemented"),
    "te-gzip-chunked": (post(b"transfer-encoding: gzip, chunked", body=CHUNKS), 501, "not_implemented"),
    "te-chunked-gzip": (post(b"transfer-encoding: chunked, gzip", body=CHUNKS), 400, "bad_request"),
    "te-chunked-chunked": (post(b"transfer-encoding: chunked, chunked", body=CHUNKS), 400, "bad_request"),
    "te-twice": (post(TE, TE, body=CHUNKS), 400, "bad_request"),
    "te-chunked-identity": (post(TE, b"transfer-encoding: identity", body=CHUNKS), 400, ""),
    "te-identity-chunked": (post(b"transfer-encoding: identity", TE, body=CHUNKS), 400, ""),
    "te-xchunked": (post(b"transfer-encoding: xchunked", body=CHUNKS), 501, "not_implemented"),
    "te-chunkedx": (post(b"transfer-encoding: chunkedx", body=CHUNKS), 501, "not_implemented"),
    "te-chunke": (post(b"transfer-encoding: chunke", body=CHUNKS), 501, "not_implemented"),
    "te-quoted": (post(b'transfer-encoding: "chunked"', body=CHUNKS), 501, "not_implemented"),
    "te-empty": (post(b"transfer-encoding:", body=CHUNKS), 400, "bad_request"),
    "te-semicolon": (post(b"transfer-encoding: chunked;q=1", body=CHUNKS), 501, "not_implemented"),
    "te-comma": (post(b"transfer-encoding: ,chunked", body=CHUNKS), 501, "not_implemented"),
    "te-comma-behind": (post(b"transfer-encoding: chunked,", body=CHUNKS), 400, ""),
    "te-vertical-tab": (post(b"transfer-encoding: \x0bchunked", body=CHUNKS), 400, "bad_request"),
    "te-tab-behind": (post(b"transfer-encoding: chunked\t", body=CHUNKS), 400, ""),
    "te-nul": (post(b"transfer-encoding: chunked\x00", body=CHUNKS), 400, "bad_request"),
    "te-http-1.0": (post(TE, body=CHUNKS, version=b"HTTP/1.0"), 400, "bad_framing"),
    "te-space-before-colon": (post(b"transfer-encoding : chunked", body=CHUNKS), 400, "bad_request"),
    "te-tab-before-colon": (post(b"transfer-encoding\t: chunked", body=CHUNKS), 400, "bad_request"),
    "te-folded": (post(b"transfer-encoding:\r\n chunked", body=CHUNKS), 400, "bad_request"),
    "length-space-before-colon": (post(b"content-length : 3", body=b"abc"), 400, "bad_request"),
    "length-folded": (post(b"content-length:\r\n 3", body=b"abc"), 400, "bad_request"),
    # A WebSocket with a body: the parser skips such bodies, so they would become a second request
    "upgrade-length": (get(*UPGRADE, b"content-length: 48") + NEXT, 400, "bad_framing"),
    "upgrade-chunked": (get(*UPGRADE, TE) + CHUNKS, 400, "bad_framing"),
    "upgrade-1.0-chunked": (get(*UPGRADE, TE, version=b"HTTP/1.0") + CHUNKS, 400, "bad_framing"),
    "upgrade-h2c-length-and-chunked": (
        post(*H2C, b"content-length: 3", TE, body=CHUNKS),
        400,
        "bad_request",
    ),
}

# What a chunked body may not hold. The head is good, so a request begins; it must never look complete.
CHUNKED: dict[str, bytes] = {
    "size-word": b"xyz\r\nabc\r\n0\r\n\r\n",
    "size-empty": b"\r\nabc\r\n0\r\n\r\n",
    "size-0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size-minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "size-plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "size-space-before": b" 3\r\nabc\r\n0\r\n\r\n",
    "size-space-behind": b"3 \r\nabc\r\n0\r\n\r\n",
    "size-tab-behind": b"3\t\r\nabc\r\n0\r\n\r\n",
    "size-underscore": b"1_0\r\nabcdefghijklmnop\r\n0\r\n\r\n",
    "size-overflow": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "size-17-digits": b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n",
    "size-bare-lf": b"3\nabc\r\n0\r\n\r\n",
    "size-bare-cr": b"3\rabc\r\n0\r\n\r\n",
    "size-cr-cr-lf": b"3\r\r\nabc\r\n0\r\n\r\n",
    "size-nul": b"3\x00\r\nabc\r\n0\r\n\r\n",
    "data-too-long": b"3\r\nabcd\r\n0\r\n\r\n",
    "data-too-short": b"3\r\nab\r\n0\r\n\r\n",
    "data-no-end": b"3\r\nabc0\r\n\r\n",
    "data-bare-lf-end": b"3\r\nabc\n0\r\n\r\n",
    "data-bare-cr-end": b"3\r\nabc\r0\r\n\r\n",
    "last-chunk-junk": b"3\r\nabc\r\n0\r\nGARBAGE\r\n\r\n",
    "last-chunk-bare-lf": b"3\r\nabc\r\n0\n\n",
    "extension-nul": b"3;a=\x00\r\nabc\r\n0\r\n\r\n",
    "extension-bare-lf": b"3;a=b\nabc\r\n0\r\n\r\n",
    "extension-bare-cr": b"3;a\rb=c\r\nabc\r\n0\r\n\r\n",
    "extension-open-quote": b'3;a="b\r\nabc\r\n0\r\n\r\n',
    "trailer-length": b"3\r\nabc\r\n0\r\ncontent-length: 5\r\n\r\n",
    "trailer-chunked": b"3\r\nabc\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
    "trailer-no-colon": b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n",
    "trailer-folded": b"3\r\nabc\r\n0\r\nx: y\r\n z\r\n\r\n",
    "trailer-space-before-colon": b"3\r\nabc\r\n0\r\nx : y\r\n\r\n",
    "trailer-nul": b"3\r\nabc\r\n0\r\nx: \x00\r\n\r\n",
    "trailer-bare-lf": b"3\r\nabc\r\n0\r\nx: y\n\r\n",
}

SYNTAX: dict[str, tuple[bytes, int, str]] = {
    # Lines and fields
    "bare-lf-everywhere": (b"GET /p/x HTTP/1.1\nhost: gateway.test\n\n", 400, "bad_request"),
    "bare-lf-request-line": (b"GET /p/x HTTP/1.1\n" + H + b"\r\n", 400, "bad_request"),
    "bare-lf-field": (get(b"a: b\nc: d"), 400, "bad_request"),
    "bare-lf-at-end": (b"GET /p/x HTTP/1.1\r\n" + H + b"\n", 400, "bad_request"),
    "bare-cr-field": (get(b"a: b\rc: d"), 400, "bad_request"),
    "bare-cr-end": (b"GET /p/x HTTP/1.1\r\n" + H + b"\rX\r\n\r\n", 400, "bad_request"),
    "bare-cr-request-line": (b"GET /p/x HTTP/1.1\r" + H + b"\r\n", 400, "bad_request"),
    "cr-cr-lf": (get(b"a: b\r"), 400, "bad_request"),
    "folded-space": (get(b"a: b\r\n c"), 400, "bad_request"),
    "folded-tab": (get(b"a: b\r\n\tc"), 400, "bad_request"),
    "folded-first": (b"GET /p/x HTTP/1.1\r\n a: b\r\n" + H + b"\r\n", 400, "bad_request"),
    "space-before-colon": (get(b"a : b"), 400, "bad_request"),
    "tab-before-colon": (get(b"a\t: b"), 400, "bad_request"),
    "no-colon": (get(b"nonsense"), 400, "bad_request"),
    "no-name": (get(b": value"), 400, "bad_request"),
    "space-in-name": (get(b"a b: c"), 400, "bad_request"),
    "nul-in-name": (get(b"a\x00b: c"), 400, "bad_request"),
    "control-in-name": (get(b"a\x01b: c"), 400, "bad_request"),
    "high-byte-in-name": (get("é: c".encode()), 400, "bad_request"),
    "paren-in-name": (get(b"a(b: c"), 400, "bad_request"),
    "at-in-name": (get(b"a@b: c"), 400, "bad_request"),
    "slash-in-name": (get(b"a/b: c"), 400, "bad_request"),
    "nul-in-value": (get(b"a: b\x00c"), 400, "bad_request"),
    "control-in-value": (get(b"a: b\x01c"), 400, "bad_request"),
    "escape-in-value": (get(b"a: b\x1bc"), 400, "bad_request"),
    "vertical-tab-in-value": (get(b"a: b\x0bc"), 400, "bad_request"),
    "form-feed-in-value": (get(b"a: b\x0cc"), 400, "bad_request"),
    "delete-in-value": (get(b"a: b\x7fc"), 400, "bad_request"),
    # The request line
    "no-version": (b"GET /p/x\r\n" + H + b"\r\n", 505, "http_version"),
    "http-0.9": (b"GET /p/x HTTP/0.9\r\n" + H + b"\r\n", 505, "http_version"),
    "http-1.2": (get(version=b"HTTP/1.2"), 505, "http_version"),
    "http-1.10": (get(version=b"HTTP/1.10"), 400, "bad_request"),
    "http-01.1": (get(version=b"HTTP/01.1"), 400, "bad_request"),
    "http-2.0": (get(version=b"HTTP/2.0"), 505, "http_version"),
    "http-3.0": (get(version=b"HTTP/3.0"), 505, "http_version"),
    "http-9.9": (get(version=b"HTTP/9.9"), 505, "http_version"),
    "http-lower-case": (get(version=b"http/1.1"), 400, "bad_request"),
    "http-no-minor": (get(version=b"HTTP/1"), 400, "bad_request"),
    "http-comma": (get(version=b"HTTP/1,1"), 400, "bad_request"),
    "http-space": (get(version=b"HTTP /1.1"), 400, "bad_request"),
    "http-behind": (get(version=b"HTTP/1.1 x"), 400, "bad_request"),
    "http-space-behind": (get(version=b"HTTP/1.1 "), 400, "bad_request"),
    "ice": (get(version=b"ICE/1.0"), 400, ""),
    "h2-preface-broken": (b"PRI * HTTP/2.0\r\n\r\nSM\r\nX\r\n", 400, ""),
    "tls-hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)), 400, "bad_request"),
    "tab-before-target": (b"GET\t/p/x HTTP/1.1\r\n" + H + b"\r\n", 400, "bad_request"),
    "space-before-method": (b" GET /p/x HTTP/1.1\r\n" + H + b"\r\n", 400, "bad_request"),
    "lower-case-method": (b"get /p/x HTTP/1.1\r\n" + H + b"\r\n", 400, "bad_request"),
    "unknown-method": (b"FROB /p/x HTTP/1.1\r\n" + H + b"\r\n", 400, "bad_request"),
    "empty-method": (b"/p/x HTTP/1.1\r\n" + H + b"\r\n", 400, "bad_request"),
    "method-control": (b"G\x01ET /p/x HTTP/1.1\r\n" + H + b"\r\n", 400, "bad_request"),
    "method-quoted": (b'"GET" /p/x HTTP/1.1\r\n' + H + b"\r\n", 400, "bad_request"),
    "method-connect": (b"CONNECT gateway.test:443 HTTP/1.1\r\n" + H + b"\r\n", 405, "method_not_allowed"),
    "method-connect-path": (b"CONNECT /p/x HTTP/1.1\r\n" + H + b"\r\n", 405, "method_not_allowed"),
    "method-trace": (b"TRACE /p/x HTTP/1.1\r\n" + H + b"\r\n", 405, "method_not_allowed"),
    "method-source": (b"SOURCE /p/x HTTP/1.1\r\n" + H + b"\r\n", 405, "method_not_allowed"),
    "method-query": (b"QUERY /p/x HTTP/1.1\r\n" + H + b"\r\n", 405, "method_not_allowed"),
    "method-m-search": (b"M-SEARCH /p/x HTTP/1.1\r\n" + H + b"\r\n", 405, "method_not_allowed"),
    "method-propfind": (b"PROPFIND /p/x HTTP/1.1\r\n" + H + b"\r\n", 405, "method_not_allowed"),
    # Targets
    "target-empty": (b"GET HTTP/1.1\r\n" + H + b"\r\n", 400, ""),
    "target-relative": (get(target=b"p/x"), 400, ""),
    "target-star-get": (get(target=b"*"), 400, "bad_target"),
    "target-fragment": (get(target=b"/p/x#frag"), 400, ""),
    "target-fragment-in-query": (get(target=b"/p/x?a=b#c"), 400, ""),
    "target-nul": (get(target=b"/p/\x00x"), 400, "bad_request"),
    "target-control": (get(target=b"/p/\x01x"), 400, "bad_request"),
    "target-delete": (get(target=b"/p/\x7fx"), 400, "bad_request"),
    "target-tab": (get(target=b"/p/\tx"), 400, "bad_request"),
    "target-cr": (get(target=b"/p/\rx"), 400, "bad_request"),
    "target-lf": (get(target=b"/p/\nx"), 400, "bad_request"),
    "target-authority": (get(target=b"gateway.test:80"), 400, ""),
    "target-other-scheme": (get(target=b"ftp://gateway.test/p/x"), 400, "bad_target"),
    "target-file": (get(target=b"file:///p/x"), 400, ""),
    "target-javascript": (get(target=b"javascript:alert(1)"), 400, ""),
    "target-userinfo": (get(target=b"http://user@gateway.test/p/x"), 400, "bad_target"),
    "target-userinfo-password": (get(target=b"http://user:pw@gateway.test/p/x"), 400, "bad_target"),
    "target-absolute-fragment": (get(target=b"http://gateway.test/p/x#f"), 400, ""),
    "target-absolute-no-host": (get(target=b"http:///p/x"), 400, ""),
    "target-absolute-other-bad-host": (
        get(target=b"http://gateway.test/p/x", host=b"host: a b\r\n"),
        400,
        "bad_host",
    ),
    "target-absolute-bad-port": (get(target=b"http://gateway.test:x/p/x"), 400, ""),
    "target-absolute-one-slash": (get(target=b"http:/gateway.test/p/x"), 400, ""),
    "target-absolute-host-fragment": (get(target=b"http://gateway.test#/p/x"), 400, ""),
    "target-absolute-backslash": (get(target=b"http://gateway.test\\@evil/p/x"), 400, ""),
    # Host
    "host-missing": (get(host=b""), 400, "bad_host"),
    "host-missing-absolute": (get(host=b"", target=b"http://gateway.test/p/x"), 400, "bad_host"),
    "host-twice": (get(host=H + H), 400, "bad_host"),
    "host-twice-differs": (get(host=H + b"Host: other\r\n"), 400, "bad_host"),
    "host-twice-1.0": (get(host=H + H, version=b"HTTP/1.0"), 400, "bad_host"),
    "host-twice-absolute": (get(host=H + H, target=b"http://gateway.test/p/x"), 400, "bad_host"),
    "host-too-long": (get(host=b"host: " + b"a" * 260 + b"\r\n"), 400, "bad_host"),
    "host-too-long-absolute": (get(target=b"http://" + b"a" * 260 + b"/p/x"), 400, "bad_target"),
    "host-empty": (get(host=b"host:\r\n"), 400, "bad_host"),
    "host-list": (get(host=b"host: a, b\r\n"), 400, "bad_host"),
    "host-space": (get(host=b"host: a b\r\n"), 400, "bad_host"),
    "host-path": (get(host=b"host: a/b\r\n"), 400, "bad_host"),
    "host-userinfo": (get(host=b"host: u@a\r\n"), 400, "bad_host"),
    "host-scheme": (get(host=b"host: http://a\r\n"), 400, "bad_host"),
    "host-query": (get(host=b"host: a?b\r\n"), 400, "bad_host"),
    "host-fragment": (get(host=b"host: a#b\r\n"), 400, "bad_host"),
    "host-backslash": (get(host=b"host: a\\b\r\n"), 400, "bad_host"),
    "host-quote": (get(host=b'host: a"b\r\n'), 400, "bad_host"),
    "host-port-word": (get(host=b"host: a:b\r\n"), 400, "bad_host"),
    "host-port-long": (get(host=b"host: a:123456\r\n"), 400, "bad_host"),
    "host-port-beyond": (get(host=b"host: a:65536\r\n"), 400, "bad_host"),
    "host-two-ports": (get(host=b"host: a:1:2\r\n"), 400, "bad_host"),
    "host-ipv6-open": (get(host=b"host: [::1\r\n"), 400, "bad_host"),
    "host-ipv6-bare": (get(host=b"host: ::1\r\n"), 400, "bad_host"),
    "host-ipv6-junk": (get(host=b"host: [::1]x\r\n"), 400, "bad_host"),
    "host-ipv6-words": (get(host=b"host: [zz]\r\n"), 400, "bad_host"),
    "host-percent": (get(host=b"host: a%zz\r\n"), 400, "bad_host"),
    "host-high-byte": (get(host="host: é\r\n".encode()), 400, "bad_host"),
    "host-space-before-colon": (get(host=b"host : gateway.test\r\n"), 400, "bad_request"),
    # Expectations
    "expect-unknown": (get(b"expect: 200-ok"), 417, "expectation_failed"),
    "expect-list": (get(b"expect: 100-continue, x"), 417, "expectation_failed"),
    # Credentials that could be read in two ways
    "authorization-twice": (get(b"authorization: Bearer a", b"authorization: Bearer b"), 400, "bad_request"),
    "variant-twice": (get(b"x-variant: v1", b"x-variant: v2"), 400, "bad_request"),
    "api-key-twice": (get(b"x-api-key: a", b"x-api-key: b"), 400, "bad_request"),
}


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[place : place + size] for place in range(0, len(data), size)]


def expect_refused(rig: Rig, data: bytes, status: int, code: str, *, size: int) -> None:
    """The answer is ``status`` and the end; whatever the segments, no backend sees a byte."""
    with rig.client() as client:
        client.send(*(in_pieces(data + NEXT, size) if size else [data + NEXT]))
        answer = client.answer()
        assert answer.status == status
        if code:
            assert answer.code == code
        assert answer.all("connection") == [b"close"]
        assert len(answer.all("x-request-id")) == 1
        assert client.at_end()
    rig.settle()
    assert rig.requests == []
    assert rig.a.connections == []


@pytest.mark.parametrize("size", [0, 7], ids=["whole", "pieces"])
@pytest.mark.parametrize("name", [*FRAMING, *SYNTAX])
def test_refused_before_a_backend_hears_of_it(rig: Rig, name: str, size: int) -> None:
    data, status, code = {**FRAMING, **SYNTAX}[name]
    expect_refused(rig, data, status, code, size=size)


@pytest.mark.parametrize("name", FRAMING)
def test_a_body_in_a_second_segment_is_no_second_request(rig: Rig, name: str) -> None:
    data, status, code = FRAMING[name]
    head, _, body = data.partition(b"\r\n\r\n")
    with rig.client() as client:
        client.send(head + b"\r\n\r\n", 0.005, body + NEXT)
        answer = client.answer()
        assert answer.status == status
        if code:
            assert answer.code == code
        assert client.at_end()
    rig.settle()
    assert rig.requests == []


@pytest.mark.parametrize("fields", [(), H2C], ids=["plain", "upgrade"])
@pytest.mark.parametrize("name", CHUNKED)
def test_a_bad_chunk_in_one_segment(rig: Rig, name: str, fields: tuple[bytes, ...]) -> None:
    expect_bad_chunk(rig, post(*fields, TE, body=CHUNKED[name]) + NEXT)


@pytest.mark.parametrize("fields", [(), H2C], ids=["plain", "upgrade"])
@pytest.mark.parametrize("name", CHUNKED)
def test_a_bad_chunk_after_the_head(rig: Rig, name: str, fields: tuple[bytes, ...]) -> None:
    """The head is with the backend already: it must see the end of its connection, never a last chunk."""
    expect_bad_chunk(rig, post(*fields, TE), 0.005, CHUNKED[name] + NEXT)


def expect_bad_chunk(rig: Rig, *segments: bytes | float) -> None:
    with rig.client() as client:
        client.send(*segments)
        answer = client.answer()
        assert answer.status == 400
        assert answer.code == "bad_request"
        assert answer.all("connection") == [b"close"]
        assert client.at_end()
    rig.settle()
    assert not any(request.complete for request in rig.requests)
    assert not any(connection.open for connection in rig.a.connections)
    assert not any(b"smuggled" in connection.raw for connection in rig.a.connections)


@pytest.mark.parametrize("cut", range(1, len(get()), 3))
def test_a_head_cut_anywhere_is_no_request(rig: Rig, cut: int) -> None:
    with rig.client() as client:
        client.send(get()[:cut])
        client.finish()
        try:
            answer = client.answer()
        except Cut:
            pass
        else:
            assert answer.status in (400, 408)
    rig.settle()
    assert rig.requests == []


BODIES = {
    "length": post(b"content-length: 10", body=b"abc"),
    "chunk-size": post(TE, body=b"3\r\nabc\r\n"),
    "chunk-data": post(TE, body=b"3\r\nab"),
    "last-chunk": post(TE, body=b"3\r\nabc\r\n0\r\n"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_cut_short_is_never_whole_for_the_backend(rig: Rig, name: str) -> None:
    with rig.client() as client:
        client.send(BODIES[name])
        rig.until(lambda: rig.requests)
        client.finish()
        rig.until(lambda: not any(connection.open for connection in rig.a.connections))
    assert not any(request.complete for request in rig.requests)
