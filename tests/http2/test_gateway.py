"""HTTP/2 to a real gateway: the same requests, policies and errors as over HTTP/1.1."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from gateway.dataplane.client.http2.protocol import Http2Protocol
from tests.http2.client import Client
from tests.http2.raw import (
    AUTHORITY,
    HELLO,
    PREFACE,
    RST_STREAM,
    SCHEME,
    WINDOW_UPDATE,
    Pair,
    data,
    frame,
    headers,
    settings,
    word,
)
from tests.support.backend import CLOSE, EARLY, HOLD, Flood, chunked, ok
from tests.wire.rig import Rig


def to(path: bytes, *extra: Pair, method: bytes = b"POST") -> list[Pair]:
    return [(b":method", method), SCHEME, AUTHORITY, (b":path", path), *extra]


def test_a_request_reaches_the_backend_and_its_response_comes_back(rig: Rig) -> None:
    rig.a.plans.append([ok(b"hello", b"X-Custom: Yes", b"Connection: keep-alive")])
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/p?q=1", (b"x-user-id", b"u1")), end=False) + data(b"body"))
    fields = dict(reply.heads[0])
    assert (reply.status, reply.body, fields[b"x-custom"]) == (200, b"hello", b"Yes")
    assert {b"x-decision-id", b"x-variant", b"x-request-id", b"server-timing"} <= fields.keys()
    assert not {b"connection", b"transfer-encoding", b"keep-alive"} & fields.keys()
    (request,) = rig.a.requests
    assert request.line == b"POST /p?q=1 HTTP/1.1"
    assert (request.body, request.all("content-length")) == (b"body", [b"4"])
    assert request.all("x-user-id") == [b"u1"]
    assert request.all("x-forwarded-host") == [b"gateway.test"]
    assert request.all("via") == [b"2.0 turnout"]


def test_a_repeated_head_is_served_like_the_first(rig: Rig) -> None:
    """The gateway remembers what it made of the header block."""
    credentials = (b"authorization", b"Bearer t"), (b"cookie", b"a=1; __Host-turnout-session-0a1b=x")
    pairs = to(b"/p?q=1", *credentials, (b"x-user-id", b"u1"), (b"x-request-id", b"r1"))
    with Client(rig.port) as client:
        for stream in range(1, 8, 2):
            body = data(b"body", stream) if stream == 3 else b""
            assert client.request(headers(pairs, stream, end=not body) + body, stream).status == 200
    assert [request.body for request in rig.a.requests] == [b"", b"body", b"", b""]
    assert {request.line for request in rig.a.requests} == {b"POST /p?q=1 HTTP/1.1"}
    for name, value in {"cookie": b"a=1", "x-user-id": b"u1", "authorization": b"Bearer t"}.items():
        assert [request.all(name) for request in rig.a.requests] == [[value]] * 4


def test_a_repeated_head_is_read_again_for_another_configuration(rig: Rig) -> None:
    """Which of its fields are credentials is the configuration's to say."""
    before, pairs = rig.path.read_text(), to(b"/p", (b"api-key", b"app"))
    key = f"{{id: app, hash: 'sha256:{sha256(b'app').hexdigest()}', scopes: [infer]}}"

    def configure(text: str) -> None:
        rig.path.write_text(text)
        rig.run(rig.gateway.configuration.reload())

    with Client(rig.port) as client:
        for stream in (1, 3):
            assert client.request(headers(pairs, stream), stream).status == 200
        configure(f"{before}auth: {{accept: [api-key], keys: [{key}]}}\n")
        try:
            for stream in (5, 7):
                assert client.request(headers(pairs, stream), stream).status == 200
        finally:
            configure(before)
    assert [request.all("api-key") for request in rig.a.requests] == [[b"app"], [b"app"], [], []]


@pytest.mark.parametrize("step", [1, 7, 24, 25])
def test_a_preface_in_pieces(rig: Rig, step: int) -> None:
    sent = HELLO + headers(to(b"/p"))
    with Client(rig.port, hello=b"") as client:
        for start in range(0, len(sent), step):
            client.send(sent[start : start + step])
        assert client.reply().status == 200


def test_a_preface_with_much_behind_it(rig: Rig) -> None:
    body = b"x" * 60_000
    sent = HELLO + headers(to(b"/p"), end=False)
    sent += b"".join(data(body[n : n + 10_000], end=False) for n in range(0, 60_000, 10_000)) + data(b"")
    with Client(rig.port, hello=b"") as client:
        assert client.request(sent).status == 200
    assert rig.a.requests[0].body == body


def test_http1_on_the_same_port(rig: Rig) -> None:
    with Client(rig.port, hello=b"GET /p HTTP/1.1\r\nhost: gateway.test\r\n\r\n") as client:
        received = b""
        while not received.endswith(b"A|GET|/p|0"):
            received += client.socket.recv(1000)
        assert received.startswith(b"HTTP/1.1 200")
        client.send(PREFACE)
        assert client.socket.recv(1000).startswith(b"HTTP/1.1 400")


def test_many_streams_at_the_same_time(rig: Rig) -> None:
    for _ in range(50):
        rig.a.plans.append([HOLD, ok(b"held")])
    with Client(rig.port) as client:
        client.send(b"".join(headers(to(b"/p/%d" % n, method=b"GET"), n) for n in range(1, 101, 2)))
        rig.until(lambda: len(rig.a.requests) == 50)
        rig.call(rig.a.released.set)
        for stream in range(1, 101, 2):
            assert client.reply(stream).body == b"held"


def test_a_chunked_response_and_a_head_without_body(rig: Rig) -> None:
    rig.a.plans += [[chunked(b"one", b"two")], [ok(b"", status=b"204 No Content")]]
    with Client(rig.port) as client:
        assert client.request(headers(to(b"/p"))).body == b"onetwo"
        assert client.request(headers(to(b"/p"), 3), 3).status == 204
        reply = client.request(headers(to(b"/p", method=b"HEAD"), 5), 5)
    assert (reply.status, reply.body, reply.ended) == (200, b"", True)
    assert int(dict(reply.heads[0])[b"content-length"]) > 0


def test_fallback_and_errors(rig: Rig) -> None:
    rig.a.plans.append([CLOSE])
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/fall")))
        assert (reply.status, reply.body[:1]) == (200, b"B")
        reply = client.request(headers(to(b"/dead"), 3), 3)
        assert (reply.status, code(reply.body)) == (502, "backend_connect")
        reply = client.request(headers(to(b"/nowhere"), 5), 5)
        assert (reply.status, code(reply.body)) == (404, "unknown_route")
        assert client.request(headers(to(b"/fall"), 7), 7).status == 200


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


def test_a_body_over_the_limit(rig: Rig) -> None:
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/small"), end=False) + data(b"x" * 2000, end=False))
        assert (reply.status, code(reply.body)) == (413, "body_too_large")
        client.read_until(lambda reader: reader.replies[1].reset == "NO_ERROR")
        declared = to(b"/small", (b"content-length", b"5000"))
        assert client.request(headers(declared, 3, end=False), 3).status == 413
        assert client.request(headers(to(b"/small"), 5), 5).status == 200


def test_interim_responses(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", ok(b"done")])
    expecting = to(b"/p", (b"expect", b"100-continue"), (b"content-length", b"4"))
    with Client(rig.port) as client:
        client.send(headers(expecting, end=False))
        client.read_until(lambda reader: 1 in reader.replies and bool(reader.replies[1].heads))
        client.send(data(b"body"))
        heads = client.reply().heads
    assert [dict(head)[b":status"] for head in heads] == [b"100", b"103", b"200"]
    assert rig.a.requests[0].all("expect") == []


def test_a_reset_ends_the_work_of_the_backend(rig: Rig) -> None:
    rig.a.plans.append([HOLD])
    with Client(rig.port) as client:
        client.send(headers(to(b"/p")))
        rig.until(lambda: bool(rig.a.requests))
        client.send(frame(RST_STREAM, 0, 1, word(8)))
        rig.until(lambda: not rig.a.connections[0].open)
        assert client.request(headers(to(b"/p"), 3), 3).status == 200


def test_a_client_that_leaves_ends_all_its_streams(rig: Rig) -> None:
    rig.a.plans += [[HOLD], [HOLD]]
    with Client(rig.port) as client:
        client.send(headers(to(b"/p")) + headers(to(b"/p"), 3))
        rig.until(lambda: len(rig.a.requests) == 2)
    rig.until(lambda: not any(connection.open for connection in rig.a.connections))


def test_a_response_that_breaks_off_is_reset(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", CLOSE])
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/p")))
        assert (reply.body, reply.ended, reply.reset) == (b"half", False, "INTERNAL_ERROR")
        assert client.request(headers(to(b"/p"), 3), 3).status == 200


def test_a_slow_reader_stops_the_backend_and_gets_everything(rig: Rig) -> None:
    size = 2 << 20
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, Flood(size)])
    with Client(rig.port, hello=HELLO + settings((4, 30_000))) as client:
        client.send(headers(to(b"/large", method=b"GET")))
        rig.until(lambda: bool(rig.requests))
        client.send(headers(to(b"/p"), 3))
        assert client.reply(3).status == 200  # the connection is not blocked
        client.read_until(lambda reader: len(reader.replies[1].body) == 30_000)
        client.send(frame(WINDOW_UPDATE, 0, 0, word(2 * size)) + frame(WINDOW_UPDATE, 0, 1, word(2 * size)))
        body = client.reply(1).body
    assert len(body) == size
    assert all(body[n] == n // 65_536 % 251 for n in range(0, size, 65_536))


def test_an_upload_waits_for_the_backend(rig: Rig) -> None:
    rig.a.pause()
    with Client(rig.port) as client:
        client.send(headers(to(b"/large"), end=False))
        sent = 0
        while sent < 262_144:  # the stream's window
            client.send(data(b"x" * 16_384, end=False))
            sent += 16_384
        rig.call(rig.a.resume)
        client.read_until(lambda reader: any(kind == WINDOW_UPDATE for kind, *_ in reader.frames))
        client.send(data(b"end"))
        assert client.reply().status == 200


def test_an_early_response_ends_the_upload(rig: Rig) -> None:
    rig.a.plans.append([EARLY, ok(b"early"), HOLD])
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/large"), end=False) + data(b"x", end=False))
        assert (reply.status, reply.body) == (200, b"early")
        client.read_until(lambda reader: reader.replies[1].reset == "NO_ERROR")


def test_the_control_api_and_cookies(rig: Rig) -> None:
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/-/healthz", method=b"GET")))
        assert reply.status == 200
        client.request(headers(to(b"/p", (b"cookie", b"a=1"), (b"cookie", b"b=2")), 3), 3)
    assert rig.a.requests[0].all("cookie") == [b"a=1; b=2"]


def test_stickiness_and_record_are_the_same(rig: Rig) -> None:
    with Client(rig.port) as client:
        seen = {
            dict(client.request(headers(to(b"/units", (b"x-user-id", b"u7")), n), n).heads[0])[b"x-variant"]
            for n in (1, 3, 5)
        }
    assert len(seen) == 1


def test_shutdown_announces_and_lets_streams_end(rig: Rig) -> None:
    rig.a.plans.append([HOLD, ok(b"late")])
    with Client(rig.port) as client:
        client.send(headers(to(b"/p")))
        rig.until(lambda: bool(rig.a.requests))
        (connection,) = rig.worker.connections
        assert isinstance(connection, Http2Protocol)
        rig.call(connection.shutdown)
        client.read_until(lambda reader: bool(reader.goaways))
        assert client.reader.goaways[0] == (2**31 - 1, "NO_ERROR")
        client.read_until(lambda reader: len(reader.goaways) == 2)
        rig.call(rig.a.released.set)
        assert client.reply().body == b"late"
        client.read_to_end()


@pytest.mark.parametrize("value", [b"", b"5", b"5x", b"-1S", b"123456789S", b"1.5S", b"1S1S"])
def test_an_invalid_grpc_timeout_reaches_no_backend(rig: Rig, value: bytes) -> None:
    """Some servers fail for later calls of the connection on which they were handed one."""
    call = to(b"/p", (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", value))
    with Client(rig.port) as client:
        reply = client.request(headers(call))
    fields = dict(reply.heads[0])
    assert (reply.status, fields[b"grpc-status"], reply.ended) == (200, b"3", True)
    assert not rig.requests


def test_a_response_that_is_not_grpc_is_a_status(rig: Rig) -> None:
    rig.a.plans.append([ok(b"<html>", b"content-type: text/html", status=b"404 Not Found")])
    call = to(b"/p", (b"content-type", b"application/grpc+proto"), (b"te", b"trailers"))
    with Client(rig.port) as client:
        reply = client.request(headers(call))
    fields = dict(reply.heads[0])
    assert (fields[b"grpc-status"], fields[b"content-type"], reply.body) == (b"12", b"application/grpc", b"")
    assert b"x-decision-id" in fields
