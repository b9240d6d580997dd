"""Backends that speak HTTP/2: one connection for many requests, and its errors mean what they say."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from gateway.transport.endpoint import Endpoint
from gateway.transport.http2_address import Http2Address
from gateway.transport.http2_connection import MAX_UNREAD_BYTES, Http2Connection
from tests.http2.backend import Http2Backend, Request, echo
from tests.http2.client import PATIENCE, Client
from tests.http2.h2c import backend, code, shared_rig, started, to
from tests.http2.raw import PING, SETTINGS, WINDOW_UPDATE, Pair, Reader, block, data, frame, headers, word
from tests.wire.rig import Rig

__all__ = ["backend", "shared_rig", "started"]


def test_a_request_and_its_response(rig: Rig, backend: Http2Backend) -> None:
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m?x=1", (b"x-user-id", b"u")), end=False) + data(b"body"))
    assert (reply.status, reply.body) == (200, b"body")
    assert b"x-decision-id" in dict(reply.heads[0])
    (request,) = backend.requests
    sent = [request.get(name) for name in (b":method", b":path", b":scheme", b"te")]
    assert sent == [b"POST", b"/m?x=1", b"http", b"trailers"]
    assert request.get(b":authority") == f"127.0.0.1:{backend.port}".encode()
    assert (request.get(b"content-length"), request.get(b"x-user-id")) == (b"4", b"u")
    assert not {b"host", b"transfer-encoding", b"connection"} & dict(request.fields).keys()


def test_from_http1_clients(rig: Rig, backend: Http2Backend) -> None:
    sent = b"POST /m HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with Client(rig.port, hello=sent) as client:
        rig.until(lambda: bool(backend.requests) and backend.requests[0].body == b"abc")
        client.send(b"3\r\ndef\r\n0\r\n\r\n")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += client.socket.recv(1000)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"abcdef" in received


def test_many_requests_share_one_connection(rig: Rig, backend: Http2Backend) -> None:
    held: list[Request] = []
    backend.plans.extend([held.append] * 50)
    with Client(rig.port) as client:
        client.send(b"".join(headers(to(b"/m"), n) for n in range(1, 101, 2)))
        rig.until(lambda: len(held) == 50)
        assert len(backend.connections) == 1

        def release() -> None:
            for request in held:
                request.connection.respond(request, [(b":status", b"200")], b"x")
            held[0].connection.flush()

        rig.call(release)
        assert all(client.reply(n).body == b"x" for n in range(1, 101, 2))


def arrived(backend: Http2Backend, count: int) -> bool:
    return len(backend.requests) == count


def more_frames(count: int, reader: Reader) -> bool:
    return len(reader.frames) > count


def test_as_many_connections_as_the_backends_limit_asks_for(rig: Rig, backend: Http2Backend) -> None:
    held: list[Request] = []
    backend.settings = {3: 10}
    backend.plans.extend([held.append] * 30)
    with Client(rig.port) as client:
        for n in range(1, 61, 2):
            client.send(headers(to(b"/m"), n))
            rig.until(partial(arrived, backend, (n + 1) // 2))
        assert len(backend.connections) == 3
        assert all(not request.reset for request in held)


@pytest.mark.parametrize("size", [1 << 20, 4 << 20])
def test_large_bodies_both_ways(rig: Rig, backend: Http2Backend, size: int) -> None:
    with Client(rig.port) as client:
        client.send(headers(to(b"/m"), end=False))
        client.send(frame(WINDOW_UPDATE, 0, 0, word(size * 2)) + frame(WINDOW_UPDATE, 0, 1, word(size * 2)))
        sent, granted = 0, 262_144
        while sent < size:
            if sent + 16_384 > granted:
                count = len(client.reader.frames)
                client.read_until(partial(more_frames, count))
                granted = 262_144 + sum(
                    int.from_bytes(payload, "big")
                    for kind, _, stream, payload in client.reader.frames
                    if kind == WINDOW_UPDATE and stream == 1
                )
                continue
            client.send(data(b"x" * 16_384, end=False))
            sent += 16_384
        client.send(data(b""))
        assert client.reply().body == b"x" * size


def test_the_window_of_a_response_grows_while_the_client_reads(rig: Rig, backend: Http2Backend) -> None:
    """At 256 KiB, a backend 50 ms away sent 4 MB a second."""
    body = b"x" * (4 << 20)
    backend.plans.append(lambda request: request.connection.respond(request, [(b":status", b"200")], body))
    with Client(rig.port) as client:
        client.send(
            frame(SETTINGS, payload=b"\0\4" + word(len(body))) + frame(WINDOW_UPDATE, payload=word(len(body)))
        )
        assert client.request(headers(to(b"/m"))).body == body
    assert 262_144 < backend.requests[0].window <= 2 << 20


def test_a_refused_stream_is_repeated(rig: Rig, backend: Http2Backend) -> None:
    def refuse(request: Request) -> None:
        request.connection.h2.reset_stream(request.stream, 7)

    with Client(rig.port) as client:
        for stream in (1, 3, 5):
            backend.plans.append(refuse)
            again = headers(to(b"/m"), stream, end=False) + data(b"again", stream)
            assert client.request(again, stream).body == b"again"
        backend.plans.extend([refuse, refuse])
        assert client.request(headers(to(b"/m"), 7), 7).status == 502
        backend.plans.extend([refuse, refuse])  # it has acted on neither, so that any request may be retried
        assert client.request(headers(to(b"/again"), 9), 9).status == 200
        for stream in range(11, 21, 2):
            backend.plans.extend([refuse, refuse])
            assert client.request(headers(to(b"/m"), stream), stream).status == 502
    assert len(backend.connections) == 1
    live = rig.call(rig.gateway.api.route_status, "multi")
    assert live is not None
    assert [address["state"] for address in live.health["v1"]] == ["failing"]


@pytest.mark.parametrize("began", [False, True])
def test_a_reset_is_an_error_and_falls_back(rig: Rig, backend: Http2Backend, began: bool) -> None:
    """Also right behind a head, which the client has not seen."""

    def fail(request: Request) -> None:
        if began:
            request.connection.h2.send_headers(request.stream, [(b":status", b"200")])
        request.connection.h2.reset_stream(request.stream, 2)

    backend.plans.extend([fail, fail])
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m")))
        assert (reply.status, code(reply)) == (502, "backend_reset")
        assert client.request(headers(to(b"/mf"), 3), 3).body.startswith(b"B")
    assert len(backend.connections) == 1


def test_clients_that_do_not_read_hold_up_no_others(rig: Rig, backend: Http2Backend) -> None:
    """The responses of all clients share the connection to the backend."""

    def large(request: Request) -> None:
        request.connection.respond(request, [(b":status", b"200")], bytes(1 << 20))

    backend.plans.extend([large] * 6)
    with Client(rig.port) as slow, Client(rig.port) as quick:
        slow.send(b"".join(headers(to(b"/m"), number) for number in range(1, 13, 2)))
        rig.until(lambda: len(backend.requests) == 6 and len(backend.connections[0].waiting) == 6)
        assert quick.request(headers(to(b"/m"), end=False) + data(b"x" * 16_000)).body == b"x" * 16_000
        assert len(backend.connections) == 1


def test_a_response_that_is_reset_in_one_packet_is_seen_to_break_off(rig: Rig, backend: Http2Backend) -> None:
    def fail(request: Request) -> None:
        h2 = request.connection.h2
        h2.send_headers(request.stream, [(b":status", b"200"), (b"content-length", b"9")])
        h2.send_data(request.stream, b"half")
        h2.reset_stream(request.stream, 2)

    backend.plans.append(fail)
    with rig.client() as client:
        client.send(b"GET /m HTTP/1.1\r\nhost: a\r\n\r\n")
        received = client.until(b"half")
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.at_end()


def test_a_goaway_moves_requests_to_a_new_connection(rig: Rig, backend: Http2Backend) -> None:
    def leave(request: Request) -> None:
        request.connection.h2.close_connection(last_stream_id=0)

    backend.plans.append(leave)
    with Client(rig.port) as client:
        assert client.request(headers(to(b"/m"), end=False) + data(b"again")).body == b"again"
    assert len(backend.connections) == 2


def test_a_lost_connection_fails_its_requests(rig: Rig, backend: Http2Backend) -> None:
    held: list[Request] = []
    backend.plans.extend([held.append] * 3)
    with Client(rig.port) as client:
        client.send(b"".join(headers(to(b"/m"), n) for n in (1, 3, 5)))
        rig.until(lambda: len(held) == 3)
        rig.call(held[0].connection.transport.abort)
        assert {client.reply(n).status for n in (1, 3, 5)} == {502}
        assert client.request(headers(to(b"/m"), 7), 7).status == 200


def test_a_client_that_leaves_resets_the_stream_and_keeps_the_connection(
    rig: Rig, backend: Http2Backend
) -> None:
    held: list[Request] = []
    backend.plans.append(held.append)
    with Client(rig.port) as client:
        client.send(headers(to(b"/m")))
        rig.until(lambda: len(held) == 1)
    rig.until(lambda: held[0].reset)
    with Client(rig.port) as client:
        assert client.request(headers(to(b"/m"))).status == 200
    assert len(backend.connections) == 1


@pytest.mark.parametrize(
    "head",
    [
        [(b"x", b"y")],
        [(b":status", b"099")],
        [(b":status", b"20")],
        [(b":status", b"200"), (b"x", b"a\r\nset-cookie: evil")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"Upper", b"x")],
        [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"1")],
        [(b":status", b"101")],
    ],
)
def test_malformed_responses(rig: Rig, backend: Http2Backend, head: list[Pair]) -> None:
    def respond(request: Request) -> None:
        request.connection.flush()
        request.connection.transport.write(frame(1, 5, request.stream, block(head)))

    backend.plans.append(respond)
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m")))
        assert (reply.status, code(reply)) == (502, "backend_protocol")


@pytest.mark.parametrize("interim", [False, True])
@pytest.mark.parametrize("body", [b"x", b""])
def test_a_body_without_a_head(rig: Rig, backend: Http2Backend, body: bytes, interim: bool) -> None:
    def respond(request: Request) -> None:
        request.connection.flush()
        early = frame(1, 4, request.stream, block([(b":status", b"103")])) if interim else b""
        request.connection.transport.write(early + data(body, request.stream))

    backend.plans.append(respond)
    with rig.client() as client:
        client.send(b"GET /m HTTP/1.0\r\nhost: a\r\n\r\n")
        assert b'"code":"backend_protocol"' in client.until(b"}}")


def test_fields_that_belong_to_a_connection_under_another_spelling_are_dropped(
    rig: Rig, backend: Http2Backend
) -> None:
    fields = [
        (b":status", b"200"),
        (b"transfer_encoding", b"chunked"),
        (b"keep_alive", b"x"),
        (b"x-kept", b"1"),
    ]
    backend.plans.append(lambda request: request.connection.respond(request, fields))
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m")))
    names = dict(reply.heads[0]).keys()
    assert b"x-kept" in names
    assert not {b"transfer_encoding", b"keep_alive"} & names


def test_a_short_body_is_a_truncated_response(rig: Rig, backend: Http2Backend) -> None:
    def respond(request: Request) -> None:
        request.connection.flush()
        head = block([(b":status", b"200"), (b"content-length", b"9")])
        request.connection.transport.write(frame(1, 4, request.stream, head) + data(b"half", request.stream))

    backend.plans.append(respond)
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m")))
        assert (reply.ended, reply.reset) == (False, "INTERNAL_ERROR")


def test_head_and_empty_responses(rig: Rig, backend: Http2Backend) -> None:
    def head(request: Request) -> None:
        request.connection.respond(request, [(b":status", b"200"), (b"content-length", b"99")])

    def empty(request: Request) -> None:
        request.connection.respond(request, [(b":status", b"204")])

    backend.plans.extend([head, empty])
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m", method=b"HEAD")))
        assert (reply.status, dict(reply.heads[0])[b"content-length"]) == (200, b"99")
        assert client.request(headers(to(b"/m"), 3), 3).status == 204


def test_a_shadow_over_http2(rig: Rig, backend: Http2Backend) -> None:
    """Copies are dropped while the machine is busy, so it is tried until one goes out."""
    with Client(rig.port) as client:
        deadline = time.monotonic() + PATIENCE
        stream = 1
        while not any(request.body == b"copy" for request in backend.requests):
            assert time.monotonic() < deadline
            reply = client.request(headers(to(b"/ms"), stream, end=False) + data(b"copy", stream), stream)
            assert reply.status == 200
            stream += 2
            rig.settle()


# Connections ----------------------------------------------------------------------------------------
def test_a_burst_on_a_new_connection_heeds_the_backends_limit(rig: Rig, backend: Http2Backend) -> None:
    held: list[Request] = []
    backend.settings = {3: 4}
    backend.plans.extend([held.append] * 12)
    with Client(rig.port) as client:
        client.send(b"".join(headers(to(b"/m"), n) for n in range(1, 25, 2)))
        rig.until(lambda: len(held) == 12)
        assert [len(connection.requests) for connection in backend.connections] == [4, 4, 4]


def test_a_backend_that_permits_no_requests_is_an_error(rig: Rig, backend: Http2Backend) -> None:
    backend.settings = {3: 0}
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m")))
    assert (reply.status, code(reply)) == (502, "backend_connect")
    assert len(backend.connections) == 1


def test_a_backend_that_ends_every_connection_is_an_error(rig: Rig, backend: Http2Backend) -> None:
    """One request made 15,000 connections in its time to connect."""
    backend.leaves = True
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m")))
    assert (reply.status, code(reply)) == (502, "backend_connect")
    assert len(backend.connections) == 1


def test_connections_that_permit_no_further_requests_are_ended(rig: Rig, backend: Http2Backend) -> None:
    """They piled up for ``pool.idle``, one for each request."""

    def before(request: Request) -> None:
        request.connection.h2.update_settings({3: 0})
        echo(request)

    def after(request: Request) -> None:
        echo(request)
        request.connection.h2.update_settings({3: 0})

    backend.plans.extend([before, after] * 5)
    with Client(rig.port) as client:
        for stream in range(1, 21, 2):
            assert client.request(headers(to(b"/m"), stream), stream).status == 200
        assert len(backend.connections) == 10
        rig.until(lambda: sum(connection.open for connection in backend.connections) <= 1)


def test_a_backend_that_sends_but_reads_nothing_is_cut() -> None:
    class Unread(asyncio.Transport):
        aborted = False
        unread = 0

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
        def write(self, data: Any) -> None: ...
        def is_closing(self) -> bool:
            return self.aborted

        def get_write_buffer_size(self) -> int:
            return self.unread

        def abort(self) -> None:
            self.aborted = True

    async def pings(body: int) -> list[bool]:
        """Whether the connection is cut after each of three PINGs; the last one is one too many."""
        loop = asyncio.get_running_loop()
        address = Http2Address(Endpoint("h2c", "127.0.0.1", 1), loop)
        connection, transport = Http2Connection(address.sessions), Unread()
        connection.connection_made(transport)
        connection.data_received(frame(SETTINGS))
        transport.unread = body
        connection.pause_writing()
        cut = []
        for waiting in (0, MAX_UNREAD_BYTES, MAX_UNREAD_BYTES + 1):
            transport.unread = body + waiting
            connection.data_received(frame(PING, 0, 0, b"ping ..."))
            cut.append(transport.aborted)
        return cut

    assert asyncio.run(pings(70_000)) == [False, False, True]
    assert asyncio.run(pings(100 << 20)) == [False, False, True]  # one that reads a large body pings as well


@pytest.mark.parametrize("path", [b"/old", b"/closing"])
def test_a_backend_that_does_not_speak_http2_is_an_error(
    rig: Rig, backend: Http2Backend, path: bytes
) -> None:
    with Client(rig.port) as client:
        reply = client.request(headers(to(path)))
    assert (reply.status, code(reply)) == (502, "backend_connect")
    assert not rig.requests


def test_a_connection_that_has_gone_silent_gets_no_further_requests(rig: Rig, backend: Http2Backend) -> None:
    """A host that vanished answers nothing, and its connection ends only after many minutes."""
    with Client(rig.port) as client:
        assert client.request(headers(to(b"/hasty"))).status == 200
        backend.plans.append(lambda _: None)
        assert client.request(headers(to(b"/hasty"), 3), 3).status == 504
        assert client.request(headers(to(b"/hasty"), 5), 5).status == 200
    assert len(backend.connections) == 2


def test_a_connection_closed_while_idle_costs_no_request(rig: Rig, backend: Http2Backend) -> None:
    """As with HTTP/1.1: the request that meets the end is repeated on a new connection."""

    def vanish(request: Request) -> None:
        request.connection.transport.abort()

    with Client(rig.port) as client:
        assert client.request(headers(to(b"/replayed"))).status == 200
        backend.plans.append(vanish)
        assert client.request(headers(to(b"/replayed"), 3), 3).status == 200
    assert len(backend.connections) == 2


@pytest.mark.parametrize("ends", [False, True], ids=["stays", "leaves at once"])
def test_the_smallest_frames_of_a_backend_are_handled_in_several_turns(
    rig: Rig, backend: Http2Backend, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """And all of them, also those that wait while the backend closes the connection."""
    turns: list[bool] = []
    received = Http2Connection.data_received

    def counted(self: Http2Connection, data: bytes) -> None:
        received(self, data)
        turns.append(self.session is not None and self.session.behind)

    monkeypatch.setattr(Http2Connection, "data_received", counted)

    def dribble(request: Request) -> None:
        h2 = request.connection.h2
        h2.send_headers(request.stream, [(b":status", b"200")])
        for place in range(5000):
            h2.send_data(request.stream, b"%d" % (place % 10), end_stream=place == 4999)
        if ends:
            request.connection.flush()
            request.connection.transport.close()

    backend.plans.append(dribble)
    with Client(rig.port) as client:
        assert client.request(headers(to(b"/m"))).body == b"0123456789" * 500
        assert client.request(headers(to(b"/m"), 3, end=False) + data(b"next", 3), 3).body == b"next"
    assert any(turns)
    assert len(backend.connections) == (2 if ends else 1)
