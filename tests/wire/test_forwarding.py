"""What goes onward of a good request, and comes back of its answer: every byte accounted for."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from tests.support.backend import chunked, ok
from tests.wire.rig import Rig

H = b"host: gateway.test\r\n"


def get(*lines: bytes, target: bytes = b"/p/x", version: bytes = b"HTTP/1.1", host: bytes = H) -> bytes:
    return b"GET %b %b\r\n%b%b\r\n" % (target, version, host, b"".join(line + b"\r\n" for line in lines))


def post(*lines: bytes, body: bytes = b"", method: bytes = b"POST", version: bytes = b"HTTP/1.1") -> bytes:
    head = b"%b /p/x %b\r\n%b%b\r\n" % (method, version, H, b"".join(line + b"\r\n" for line in lines))
    return head + body


TE = b"transfer-encoding: chunked"
PROBE = get(target=b"/p/probe")

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
    "get-with-body": (
        post(b"content-length: 3", body=b"abc", method=b"GET"),
        [(b"GET", b"/p/x", b"abc")],
        True,
    ),
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
    "chunked-case": (
        post(b"Transfer-Encoding: CHUNKED", body=b"3\r\nabc\r\n0\r\n\r\n"),
        posted(b"abc"),
        True,
    ),
    "chunked-ows": (
        post(b"transfer-encoding: \t chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
        posted(b"abc"),
        True,
    ),
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
    "chunked-crlf-in-data": (
        post(TE, body=b"8\r\n\r\n0\r\n\r\n\r\r\n0\r\n\r\n"),
        posted(b"\r\n0\r\n\r\n\r"),
        True,
    ),
    # Upgrades that are no WebSockets are plain requests, and what follows is the next one
    "upgrade-h2c": (get(b"connection: upgrade", b"upgrade: h2c"), ONE_GET, True),
    "upgrade-h2c-settings": (
        get(b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ"),
        ONE_GET,
        True,
    ),
    "upgrade-post": (post(b"connection: upgrade", b"upgrade: websocket"), posted(b""), True),
    "upgrade-length-0": (
        post(b"connection: upgrade", b"upgrade: websocket", b"content-length: 0"),
        posted(b""),
        True,
    ),
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
    "crlf-between": (
        get(target=b"/p/1") + b"\r\n\r\n\r\n" + get(target=b"/p/2"),
        [got(b"/p/1"), got(b"/p/2")],
        True,
    ),
    "behind-a-last": (get(b"connection: close") + get(target=b"/p/2"), ONE_GET, False),
    "garbage-behind-a-last": (get(b"connection: close") + b"\x00\x01garbage", ONE_GET, False),
}


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


HELD = (b"GET", b"/p/x", b"")

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


# Fields -------------------------------------------------------------------------------------------------
def fields_sent(rig: Rig, *lines: bytes, target: bytes = b"/p/x", **options: bytes) -> dict[str, list[bytes]]:
    """The fields that the backend sees, by lower-cased name, of a request with ``lines``."""
    with rig.client() as client:
        client.send(get(*lines, target=target, **options))
        assert client.answer().status == 200
    (request,) = rig.requests
    found: dict[str, list[bytes]] = {}
    for name, value in request.fields:
        found.setdefault(name.lower().decode(), []).append(value)
    return found


DROPPED = [
    b"connection: keep-alive", b"keep-alive: timeout=5", b"proxy-connection: keep-alive", b"te: trailers",
    b"trailer: x-t", b"upgrade: h2c", b"proxy-authorization: Basic eA==", b"proxy-authenticate: Basic",
    b"x-decision-id: forged", b"X-Decision-Id: forged", b"x_decision_id: forged", b"x-decision_id: forged",
    b"X_DECISION_ID: forged", b"x_variant: forged", b"server-timing: forged;dur=1", b"server_timing: forged",
    b"x_request_id: forged", b"x_forwarded_for: forged", b"x_forwarded-for: forged",
    b"x_forwarded_proto: forged", b"x-real-ip: forged", b"x_real_ip: forged", b"x-forwarded-port: forged",
    b"x-forwarded-prefix: forged", b"x-forwarded-server: forged", b"x-original-url: forged",
    b"x-rewrite-url: forged", b"x_api_key: forged", b"transfer_encoding: chunked", b"content_length: 5",
    b"proxy_authorization: forged",
]  # fmt: skip


@pytest.mark.parametrize("line", DROPPED, ids=[line.decode() for line in DROPPED])
def test_a_field_that_goes_no_further(rig: Rig, line: bytes) -> None:
    name, _, value = line.partition(b": ")
    found = fields_sent(rig, b"x-before: 1", line, b"x-after: 2")
    assert name.lower().decode() not in found
    assert not any(value in values for values in found.values() if value == b"forged")
    assert found["x-before"] == [b"1"]
    assert found["x-after"] == [b"2"]


PASSED = [
    b"accept: */*",
    b"Accept-Encoding: gzip, br",
    b"X-Custom: value",
    b"x-empty:",
    b"cookie: a=b; c=d",
    b"content-type: application/json",
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"user-agent: curl/8",
    b"X-Utf8: \xc3\xa9",
    b"x-high: \xff\xfe",
    b"x-tab: a\tb",
    b"x_underscore: kept",
    b"authorization: Bearer of-the-backend",
    b"x-api-key: of-the-backend",
    b'if-none-match: "x"',
    b"range: bytes=0-1",
    b"prefer: wait=1",
    b"!#$%&'*+-.^_`|~: odd",
]


@pytest.mark.parametrize("line", PASSED, ids=[line.decode("latin-1") for line in PASSED])
def test_a_field_that_goes_on_as_it_came(rig: Rig, line: bytes) -> None:
    name, _, value = line.partition(b":")
    found = fields_sent(rig, line)
    assert found[name.lower().decode()] == [value.strip()]
    assert name.lower() + b":" in rig.requests[0].head.lower()


def test_names_keep_their_case_and_fields_their_order(rig: Rig) -> None:
    lines = [b"X-One: 1", b"x-TWO: 2", b"x-one: 3", b"Set-Cookie: a", b"X-ONE: 1"]
    with rig.client() as client:
        client.send(get(*lines))
        assert client.answer().status == 200
    head = rig.requests[0].head
    places = [head.index(line) for line in lines]
    assert places == sorted(places)
    assert rig.requests[0].all("x-one") == [b"1", b"3", b"1"]


@pytest.mark.parametrize("pad", [b" ", b"\t", b" \t \t"])
def test_white_space_around_a_value_is_no_part_of_it(rig: Rig, pad: bytes) -> None:
    with rig.client() as client:
        client.send(get(b"x-padded:" + pad + b"a b" + pad))
        assert client.answer().status == 200
    assert b"\r\nx-padded: a b\r\n" in rig.requests[0].head + b"\r\n"


LISTED = {
    "one": ([b"connection: x-hop", b"x-hop: 1"], ["x-hop"]),
    "case": ([b"Connection: X-HOP", b"x-Hop: 1"], ["x-hop"]),
    "several": ([b"connection: x-hop, x-other", b"x-hop: 1", b"x-other: 2"], ["x-hop", "x-other"]),
    "two-lines": (
        [b"connection: x-hop", b"connection: x-other", b"x-hop: 1", b"x-other: 2"],
        ["x-hop", "x-other"],
    ),
    "before-and-after": ([b"x-hop: 1", b"connection: x-hop", b"x-hop: 2"], ["x-hop"]),
    "with-keep-alive": ([b"connection: keep-alive, x-hop", b"x-hop: 1"], ["x-hop"]),
    "empty-members": ([b"connection: , ,x-hop,,", b"x-hop: 1"], ["x-hop"]),
    "cookie": ([b"connection: cookie", b"cookie: a=b"], ["cookie"]),
    "authorization": ([b"connection: authorization", b"authorization: Bearer x"], ["authorization"]),
    "api-key": ([b"connection: x-api-key", b"x-api-key: x"], ["x-api-key"]),
}


@pytest.mark.parametrize("name", LISTED)
def test_fields_that_connection_lists_go_no_further(rig: Rig, name: str) -> None:
    lines, gone = LISTED[name]
    found = fields_sent(rig, b"x-kept: 1", *lines)
    assert not set(gone) & set(found)
    assert found["x-kept"] == [b"1"]
    assert "connection" not in found


def test_a_unit_that_connection_lists_is_none(rig: Rig) -> None:
    """What concerns the connection alone says nothing of whose request it is."""

    def variants(*lines: bytes) -> set[bytes]:
        with rig.client() as client:
            client.send(get(*lines, target=b"/units/x") * 40)
            return {client.answer().all("x-variant")[0] for _ in range(40)}

    assert len(variants(b"x-user-id: 7")) == 1
    assert len(variants(b"x-user-id: 7", b"connection: x-user-id")) == 2


@pytest.mark.parametrize(
    "name",
    [
        b"host",
        b"content-length",
        b"x-forwarded-for",
        b"forwarded",
        b"via",
        b"x-request-id",
        b"x-forwarded-host",
    ],
)
def test_connection_can_not_take_away_what_is_ours(rig: Rig, name: bytes) -> None:
    with rig.client() as client:
        client.send(post(b"connection: " + name, b"content-length: 3", body=b"abc"))
        assert client.answer().status == 200
    (request,) = rig.requests
    assert request.body == b"abc"
    assert request.all("content-length") == [b"3"]
    for ours in ("host", "x-forwarded-for", "forwarded", "via", "x-request-id", "x-forwarded-host"):
        assert len(request.all(ours)) == 1, ours


def test_what_a_backend_is_told_of_the_client(rig: Rig) -> None:
    found = fields_sent(rig)
    assert found["host"] == [b"127.0.0.1:%d" % rig.a.port]
    assert found["x-forwarded-for"] == [b"127.0.0.1"]
    assert found["x-forwarded-proto"] == [b"http"]
    assert found["x-forwarded-host"] == [b"gateway.test"]
    assert found["forwarded"] == [b'for=127.0.0.1;proto=http;host="gateway.test"']
    assert found["via"] == [b"1.1 turnout"]
    assert re.fullmatch(rb"[0-9a-f]{32}", found["x-request-id"][0])
    assert "content-length" not in found
    assert "transfer-encoding" not in found


def test_what_a_stranger_says_of_whom_it_forwards_for_is_dropped(rig: Rig) -> None:
    found = fields_sent(
        rig,
        b"x-forwarded-for: 10.0.0.1",
        b"x-forwarded-proto: https",
        b"x-forwarded-host: evil",
        b"forwarded: for=10.0.0.1",
    )
    assert found["x-forwarded-for"] == [b"127.0.0.1"]
    assert found["x-forwarded-proto"] == [b"http"]
    assert found["x-forwarded-host"] == [b"gateway.test"]
    assert found["forwarded"] == [b'for=127.0.0.1;proto=http;host="gateway.test"']


def test_via_is_added_to(rig: Rig) -> None:
    found = fields_sent(rig, b"via: 1.0 fred")
    assert found["via"] == [b"1.0 fred", b"1.1 turnout"]


def test_via_and_host_of_an_http_1_0_client(rig: Rig) -> None:
    found = fields_sent(rig, version=b"HTTP/1.0", host=b"")
    assert found["via"] == [b"1.0 turnout"]
    assert "x-forwarded-host" not in found
    assert found["forwarded"] == [b"for=127.0.0.1;proto=http"]
    assert found["host"] == [b"127.0.0.1:%d" % rig.a.port]


def test_the_authority_of_an_absolute_target_replaces_host(rig: Rig) -> None:
    found = fields_sent(rig, target=b"http://other.test:81/kept/x", host=H)
    assert found["host"] == [b"other.test:81"]
    assert found["x-forwarded-host"] == [b"other.test:81"]


def test_a_backend_that_keeps_the_host_and_adds_a_field(rig: Rig) -> None:
    found = fields_sent(rig, b"x-added: the client's", target=b"/kept/x")
    assert found["host"] == [b"gateway.test"]
    assert found["x-added"] == [b"1"]


@pytest.mark.parametrize("given", [b"abc-123", b"a" * 200, b"!~"])
def test_a_request_id_is_kept(rig: Rig, given: bytes) -> None:
    with rig.client() as client:
        client.send(get(b"x-request-id: " + given))
        assert client.answer().all("x-request-id") == [given]
    assert rig.requests[0].all("x-request-id") == [given]


@pytest.mark.parametrize("given", [b"", b"a b", b"a" * 201, "é".encode()])
def test_a_request_id_that_is_none_is_replaced(rig: Rig, given: bytes) -> None:
    with rig.client() as client:
        client.send(get(b"x-request-id: " + given))
        (found,) = client.answer().all("x-request-id")
    assert found != given
    assert rig.requests[0].all("x-request-id") == [found]


def test_expect_is_ours_to_answer(rig: Rig) -> None:
    found = fields_sent(rig, b"expect: 100-continue")
    assert "expect" not in found


@pytest.mark.parametrize(
    ("host", "ok"),
    [
        (b"gateway.test", True), (b"GATEWAY.TEST", True), (b"gateway.test:8080", True),
        (b"gateway.test:0", True), (b"gateway.test:65535", True), (b"gateway-1_x.test", True),
        (b"127.0.0.1", True), (b"127.0.0.1:80", True), (b"[::1]", True), (b"[2001:db8::1]:443", True),
        (b"[::ffff:127.0.0.1]", True), (b"xn--bcher-kva.internal", True), (b"a%20b", True),
        (b"localhost.", True),
    ],
)  # fmt: skip
def test_hosts_that_are_good(rig: Rig, host: bytes, ok: bool) -> None:
    found = fields_sent(rig, host=b"Host: " + host + b"\r\n", target=b"/kept/x")
    assert found["host"] == [host]


# Answers: the fields that come back ---------------------------------------------------------------------
def test_every_answer_carries_ours_and_only_ours(rig: Rig) -> None:
    rig.a.plans.append(
        [
            ok(
                b"body",
                b"x-decision-id: forged",
                b"X-Variant: forged",
                b"server-timing: forged",
                b"x-request-id: theirs",
                b"x_decision_id: forged",
                b"x_variant: forged",
                b"server_timing: forged",
            )
        ]
    )
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
    assert answer.all("x-variant") == [b"v1"]
    assert len(answer.all("x-decision-id")) == 1
    assert re.fullmatch(rb"gateway;dur=\d+\.\d{3}, backend;dur=\d+\.\d{3}", answer.all("server-timing")[0])
    assert len(answer.all("server-timing")) == 1
    assert len(answer.all("x-request-id")) == 1
    assert answer.all("x-request-id") != [b"theirs"]
    assert answer.all("x-backend-request-id") == [b"theirs"]
    assert not any(b"forged" in value for _, value in answer.fields)
    assert not any(b"_" in name for name, _ in answer.fields)


@pytest.mark.parametrize(
    "lines",
    [
        [b"connection: keep-alive"],
        [b"keep-alive: timeout=5, max=100"],
        [b"proxy-connection: keep-alive"],
        [b"te: trailers"],
        [b"trailer: x-t"],
        [b"upgrade: h2c"],
        [b"connection: upgrade", b"upgrade: h2,h2c"],
        [b"connection: x-hop", b"x-hop: 1"],
        [b"x-hop: 1", b"Connection: keep-alive, X-Hop"],
        [b"connection: x-hop", b"connection: x-more", b"x-hop: 1", b"x-more: 2"],
        [b"transfer_encoding: chunked"],
        [b"content_length: 5"],
    ],
)
def test_hop_by_hop_fields_of_an_answer_stay_behind(rig: Rig, lines: list[bytes]) -> None:
    rig.a.plans.append([ok(b"body", b"x-kept: 1", *lines)])
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
        assert answer.body == b"body"
        client.send(PROBE)
        assert client.answer().status == 200
    assert answer.all("x-kept") == [b"1"]
    for line in lines:
        assert answer.all(line.partition(b":")[0].decode()) == []


def test_answer_fields_keep_case_order_and_repetition(rig: Rig) -> None:
    lines = [
        b"Set-Cookie: a=1",
        b"X-B: \xc3\xa9",
        b"set-cookie: b=2",
        b"x-empty: ",
        b"WWW-Authenticate: Basic",
    ]
    rig.a.plans.append([ok(b"", *lines)])
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
    found = [b"%b: %b" % field for field in answer.fields]
    places = [found.index(line) for line in lines]
    assert places == sorted(places)
    assert answer.all("set-cookie") == [b"a=1", b"b=2"]


def test_trailers_of_an_answer_are_dropped(rig: Rig) -> None:
    rig.a.plans.append(
        [chunked(b"abc", lines=b"trailer: x-t\r\n", end=b"0\r\nx-t: 1\r\nx-variant: v9\r\n\r\n")]
    )
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
        assert (answer.body, answer.trailer) == (b"abc", b"")
        client.send(PROBE)
        assert client.answer().status == 200


def test_the_record_keeps_the_backends_request_id(rig: Rig) -> None:
    """If it is one: a backend may send any bytes."""
    steps = [ok(b"x", b"x-request-id: %b" % sent) for sent in (b"theirs", b"not one")]
    rig.a.plans.extend([step] for step in steps)
    with rig.client() as client:
        for name in (b"kept-1", b"kept-2"):
            client.send(get(b"x-request-id: %b" % name))
            client.answer()
    for given, kept in (("kept-1", "theirs"), ("kept-2", "")):
        end = time.monotonic() + 60
        found: list[Any] = []
        while not found and time.monotonic() < end:
            url = f"http://127.0.0.1:{rig.port}/-/outcomes?request_id={given}"
            found = httpx.get(url).json()["outcomes"]
        assert [row["backend_request_id"] for row in found] == [kept]
