"""What goes onward of a good request: its body and its target, every byte accounted for."""

from __future__ import annotations

import pytest

from gateway.dataplane.client.forwarding import MAX_REMEMBERED_HOSTS
from tests.wire.messages import PROBE, H
from tests.wire.messages import framed as post
from tests.wire.messages import with_lines as get
from tests.wire.rig import Rig

TE = b"transfer-encoding: chunked"

Seen = list[tuple[bytes, bytes, bytes]]
"""(method, target, body) of each request that the backend must have understood."""


def got(target: bytes) -> tuple[bytes, bytes, bytes]:
    return b"GET", target, b""


def posted(body: bytes) -> Seen:
    return [(b"POST", b"/p/x", body)]


ONE_GET: Seen = [got(b"/p/x")]
H2C = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ")

GOOD: dict[str, tuple[bytes, Seen, bool]] = {
    # name: (bytes, what the backend sees, whether the connection is kept)
    "get": (get(), ONE_GET, True),
    "get-close": (get(b"connection: close"), ONE_GET, False),
    "get-close-upper": (get(b"Connection: CLOSE"), ONE_GET, False),
    "get-close-listed": (get(b"connection: foo, close"), ONE_GET, False),
    "get-proxy-connection-close": (get(b"proxy-connection: close"), ONE_GET, False),
    "get-1.0": (get(version=b"HTTP/1.0"), ONE_GET, False),
    "get-1.0-no-host": (get(version=b"HTTP/1.0", host=b""), ONE_GET, False),
    "get-1.0-keep-alive": (get(b"connection: keep-alive", version=b"HTTP/1.0"), ONE_GET, True),
    "leading-crlf": (b"\r\n\r\n" + get(), ONE_GET, True),
    "spaces-in-line": (b"GET  /p/x  HTTP/1.1\r\n" + H + b"\r\n", ONE_GET, True),
    "delete": (post(method=b"DELETE"), [(b"DELETE", b"/p/x", b"")], True),
    "options": (post(method=b"OPTIONS"), [(b"OPTIONS", b"/p/x", b"")], True),
    "patch": (post(b"content-length: 3", body=b"abc", method=b"PATCH"), [(b"PATCH", b"/p/x", b"abc")], True),
    "put": (post(b"content-length: 3", body=b"abc", method=b"PUT"), [(b"PUT", b"/p/x", b"abc")], True),
    "get-with-body": (post(b"content-length: 3", body=b"abc", method=b"GET"), [(b"GET", b"/p/x", b"abc")], True),
    "post-empty": (post(), posted(b""), True),
    "post-length-0": (post(b"content-length: 0"), posted(b""), True),
    "post-length": (post(b"content-length: 5", body=b"hello"), posted(b"hello"), True),
    "post-length-zeros": (post(b"content-length: 0005", body=b"hello"), posted(b"hello"), True),
    "post-length-spaces": (post(b"content-length:  \t5 \t", body=b"hello"), posted(b"hello"), True),
    "post-length-case": (post(b"CONTENT-length: 5", body=b"hello"), posted(b"hello"), True),
    "post-1.0": (post(b"content-length: 5", body=b"hello", version=b"HTTP/1.0"), posted(b"hello"), False),
    "post-binary": (
        post(b"content-length: 256", body=bytes(range(256))),
        [(b"POST", b"/p/x", bytes(range(256)))],
        True,
    ),
    "post-request-in-body": (post(b"content-length: %d" % len(get()), body=get()), posted(get()), True),
    "chunked": (post(TE, body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), posted(b"abcde"), True),
    "chunked-empty": (post(TE, body=b"0\r\n\r\n"), posted(b""), True),
    "chunked-case": (post(b"Transfer-Encoding: CHUNKED", body=b"3\r\nabc\r\n0\r\n\r\n"), posted(b"abc"), True),
    "chunked-ows": (post(b"transfer-encoding: \t chunked", body=b"3\r\nabc\r\n0\r\n\r\n"), posted(b"abc"), True),
    "chunked-hex-upper": (post(TE, body=b"A\r\n0123456789\r\n0\r\n\r\n"), posted(b"0123456789"), True),
    "chunked-hex-lower": (post(TE, body=b"a\r\n0123456789\r\n0\r\n\r\n"), posted(b"0123456789"), True),
    "chunked-leading-zeros": (post(TE, body=b"0003\r\nabc\r\n000\r\n\r\n"), posted(b"abc"), True),
    "chunked-extension": (post(TE, body=b"3;a=b\r\nabc\r\n0;c\r\n\r\n"), posted(b"abc"), True),
    "chunked-extension-quoted": (post(TE, body=b'3;a="b;c"\r\nabc\r\n0\r\n\r\n'), posted(b"abc"), True),
    "chunked-trailer": (post(TE, body=b"3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"), posted(b"abc"), True),
    "chunked-trailer-identity": (
        post(TE, body=b"3\r\nabc\r\n0\r\nx-variant: v9\r\nhost: evil\r\nauthorization: x\r\n\r\n"),
        posted(b"abc"),
        True,
    ),
    "chunked-crlf-in-data": (post(TE, body=b"8\r\n\r\n0\r\n\r\n\r\r\n0\r\n\r\n"), posted(b"\r\n0\r\n\r\n\r"), True),
    # Upgrades that are no WebSockets are plain requests, and what follows is the next one
    "upgrade-h2c": (get(b"connection: upgrade", b"upgrade: h2c"), ONE_GET, True),
    "upgrade-h2c-settings": (
        get(b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ"),
        ONE_GET,
        True,
    ),
    "upgrade-post": (post(b"connection: upgrade", b"upgrade: websocket"), posted(b""), True),
    "upgrade-length-0": (post(b"connection: upgrade", b"upgrade: websocket", b"content-length: 0"), posted(b""), True),
    # With a body, as Java's HttpClient and `curl --http2` send them
    "upgrade-h2c-length": (post(*H2C, b"content-length: 3", body=b"abc"), posted(b"abc"), True),
    "upgrade-h2c-request-as-body": (
        get(*H2C, b"content-length: 48") + b"GET /p/smuggled HTTP/1.1\r\nhost: gateway.test\r\n\r\n",
        [(b"GET", b"/p/x", b"GET /p/smuggled HTTP/1.1\r\nhost: gateway.test\r\n\r\n")],
        True,
    ),
    "upgrade-h2c-chunked": (
        post(*H2C, TE, body=b"3;a=b\r\nabc\r\n1\r\nd\r\n0\r\nhost: evil\r\n\r\n"),
        posted(b"abcd"),
        True,
    ),
    "upgrade-websocket-post-length": (
        post(b"connection: upgrade", b"upgrade: websocket", b"content-length: 3", body=b"abc"),
        posted(b"abc"),
        True,
    ),
    "upgrade-1.0-length": (
        post(b"connection: upgrade", b"upgrade: h2c", b"content-length: 3", body=b"abc", version=b"HTTP/1.0")
        + get(target=b"/p/2"),
        posted(b"abc"),
        False,
    ),
    "upgrade-h2c-length-last": (
        post(b"connection: upgrade, close", b"upgrade: h2c", b"content-length: 3", body=b"abc")
        + get(target=b"/p/2"),
        posted(b"abc"),
        False,
    ),
    "upgrade-proxy-connection-length": (
        post(b"proxy-connection: upgrade", b"upgrade: x", b"content-length: 3", body=b"abc"),
        posted(b"abc"),
        True,
    ),
    "upgrade-h2c-thrice": (
        post(*H2C, b"content-length: 3", body=b"abc")
        + post(*H2C, TE, body=b"3\r\nabc\r\n0\r\n\r\n")
        + get(target=b"/p/2"),
        [*posted(b"abc"), *posted(b"abc"), got(b"/p/2")],
        True,
    ),
    "upgrade-two-words": (get(b"connection: upgrade", b"upgrade: websocket, h2c"), ONE_GET, True),
    "upgrade-twice": (get(b"connection: upgrade", b"upgrade: websocket", b"upgrade: h2c"), ONE_GET, True),
    "upgrade-1.0": (
        get(b"connection: upgrade, keep-alive", b"upgrade: websocket", version=b"HTTP/1.0"),
        ONE_GET,
        True,
    ),
    "upgrade-unlisted": (get(b"upgrade: websocket"), ONE_GET, True),
    "upgrade-proxy-connection": (get(b"proxy-connection: upgrade", b"upgrade: websocket"), ONE_GET, True),
    "connection-upgrade-alone": (get(b"connection: upgrade"), ONE_GET, True),
    # Absolute targets: the authority counts, the path goes on in origin form
    "absolute": (get(target=b"http://gateway.test/p/x?y=1"), [got(b"/p/x?y=1")], True),
    "absolute-https": (get(target=b"https://gateway.test/p/x"), ONE_GET, True),
    "absolute-upper": (get(target=b"HTTP://GATEWAY.test/p/x"), ONE_GET, True),
    "absolute-port": (get(target=b"http://gateway.test:8080/p/x"), ONE_GET, True),
    "absolute-ipv6": (get(target=b"http://[::1]:80/p/x"), ONE_GET, True),
    "absolute-1.0": (get(target=b"http://gateway.test/p/x", version=b"HTTP/1.0", host=b""), ONE_GET, False),
    # Whatever the segments hold, one request at a time
    "two": (get(target=b"/p/1") + get(target=b"/p/2"), [got(b"/p/1"), got(b"/p/2")], True),
    "post-then-get": (
        post(b"content-length: 3", body=b"abc") + get(target=b"/p/2"),
        [(b"POST", b"/p/x", b"abc"), got(b"/p/2")],
        True,
    ),
    "chunked-then-get": (
        post(TE, body=b"3\r\nabc\r\n0\r\n\r\n") + get(target=b"/p/2"),
        [(b"POST", b"/p/x", b"abc"), got(b"/p/2")],
        True,
    ),
    "upgrade-then-get": (
        get(b"connection: upgrade", b"upgrade: h2c") + get(target=b"/p/2"),
        [got(b"/p/x"), got(b"/p/2")],
        True,
    ),
    "crlf-between": (get(target=b"/p/1") + b"\r\n\r\n\r\n" + get(target=b"/p/2"), [got(b"/p/1"), got(b"/p/2")], True),
    "behind-a-last": (get(b"connection: close") + get(target=b"/p/2"), ONE_GET, False),
    "garbage-behind-a-last": (get(b"connection: close") + b"\x00\x01garbage", ONE_GET, False),
}  # fmt: skip


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[place : place + size] for place in range(0, len(data), size)] if size else [data]


@pytest.mark.parametrize("size", [0, 1, 5], ids=["whole", "bytes", "fives"])
@pytest.mark.parametrize("name", GOOD)
def test_good_requests_arrive_as_they_were_sent(rig: Rig, name: str, size: int) -> None:
    data, seen, kept = GOOD[name]
    with rig.client() as client:
        client.send(*in_pieces(data, size))
        for method, target, body in seen:
            answer = client.answer(method)
            assert answer.status == 200
            assert answer.body == b"A|%b|%b|%d" % (method, target, len(body))
        if kept:
            assert client.quiet(0.002)
            client.send(PROBE)
            assert client.answer().body == b"A|GET|/p/probe|0"
        else:
            assert client.at_end()
            rig.settle()
    found = [(r.method, r.target, r.body) for r in rig.requests]
    assert found == (seen if not kept else [*seen, (b"GET", b"/p/probe", b"")])
    assert all(request.complete and not request.trailer for request in rig.requests)


TARGETS = [
    b"/p", b"/p/", b"/p/x?", b"/p/x??", b"/p/x?a=b&a=b", b"/p/x?q=%20%2F%00", b"/p/%41%5a%7A", b"/p/%2f%2F",
    b"/p/%zz%", b"/p/a%2e%2eb", b"/p/a..%2fb", b"/p/..a%2fb..\\c", b"/p/v1.2%2Fx;y=1.5", b"/p/x/./y",
    b"/p/x/../y", b"/p/x/%2e%2E/y", b"/p/x/%2e", b"/p//double///slashes", b"/p/;a=b;c", b"/p/x'()*!$&+,:@=",
    b"/p/x[]{}|^`<>", b"/p/back\\slash", b'/p/x?back\\slash[]{}|^`"<>', b"/p/x?http://elsewhere/?",
    b"/p/~user/_-.", b"/p/" + b"a" * 8000,
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=[t[:24].decode() for t in TARGETS])
def test_a_target_goes_on_byte_for_byte(rig: Rig, target: bytes) -> None:
    with rig.client() as client:
        client.send(get(target=target))
        assert client.answer().status == 200
    assert [r.target for r in rig.requests] == [target]


OUTSIDE = [
    *rb"""
    / /px /other /p/../other /p/%2e%2e/other /p/%2E./other /p/.%2e/other /p/x/../../other /p/..
    /p/../ /p/../.. /p/../../../../etc/passwd //p/x /./p/x /other/../p/x /%70/x /P/x /-
    /rewritten/../p/x /rewritten/a/../../p/x
    """.split(),
    # Where some servers see a dot segment and others don't
    *rb"""
    /p/..%2fother /p/..%2Fother /p/%2e%2e%2fother /p/x%2f..%2f..%2fother /p/..\other /p/..%5cother
    /p/..%5Cother /p/..;/other /p/..;a=b/other /p/%2e%2e;/other /p/.%2fother /rewritten/..%2fother
    /p//../other /p//x/../../other /p/x//../../other /p///../../other /p//%2e%2e/other
    /p/../other%2fx/../p/x /p/../other%2Fx/%2e%2e/p/x /p/../other%5cx/../p/x /p/../other\x/../p/x
    """.split(),
    # Where the path is rewritten, dot segments would climb out of the variant
    *rb"""
    /rewritten/../rewritten/x /rewritten/a/../b /rewritten/%2e%2e/x
    """.split(),
]


@pytest.mark.parametrize("target", OUTSIDE, ids=[t.decode() for t in OUTSIDE])
def test_a_target_outside_every_route_is_refused_and_the_connection_kept(rig: Rig, target: bytes) -> None:
    with rig.client() as client:
        client.send(get(target=target))
        answer = client.answer()
        assert answer.status == 404
        assert answer.code == "unknown_route"
        client.send(PROBE)
        assert client.answer().body == b"A|GET|/p/probe|0"
    assert [r.target for r in rig.requests] == [b"/p/probe"]


@pytest.mark.parametrize(
    ("target", "onward"),
    [
        (b"/rewritten", b"/inner"),
        (b"/rewritten/", b"/inner/"),
        (b"/rewritten/x%2Fy?z", b"/inner/x%2Fy?z"),
        (b"/rewritten?q", b"/inner?q"),
        (b"/rewritten:predict", b"/inner:predict"),
        (b"/b/x", b"/base/b/x"),
        (b"/b?x=%41", b"/base/b?x=%41"),
    ],
)
def test_a_rewritten_target(rig: Rig, target: bytes, onward: bytes) -> None:
    with rig.client() as client:
        client.send(get(target=target))
        assert client.answer().status == 200
    assert [r.target for r in rig.requests] == [onward]


@pytest.mark.parametrize("version", [b"RTSP/1.0", b"RTSP/1.1"])
def test_rtsp_is_read_as_http(rig: Rig, version: bytes) -> None:
    """The parser takes the one for the other (GET, POST and OPTIONS alone), and a head's bytes are not looked at
    twice for it: the framing rules are the same, so nothing can hide, and HTTP/1.1 goes onward."""
    with rig.client() as client:
        client.send(get(version=version))
        assert client.answer().status == 200
    assert rig.requests[0].line == b"GET /p/x HTTP/1.1"


def test_options_star_is_not_served_but_harmless(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n")
        assert client.answer().code == "unknown_route"
        client.send(PROBE)
        assert client.answer().status == 200
    assert len(rig.requests) == 1


def test_a_client_of_many_hosts_fills_no_memory(rig: Rig) -> None:
    with rig.client() as client:
        for number in range(3 * MAX_REMEMBERED_HOSTS):
            client.send(get(host=b"host: h%d.test\r\n" % (number // 2)))
            assert client.answer().status == 200
            assert rig.requests[-1].all("x-forwarded-host") == [b"h%d.test" % (number // 2)]
        (connection,) = rig.connections
        assert len(connection.forwarding._remembered) <= MAX_REMEMBERED_HOSTS
