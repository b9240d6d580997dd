"""Clients that are too slow over HTTP/2: each state ends in time, and one stream does not end the others."""

from __future__ import annotations

import json
import time

import pytest

from tests.http2.client import Client
from tests.http2.raw import AUTHORITY, HELLO, PREFACE, SCHEME, Pair, data, frame, headers, settings
from tests.support.backend import ok
from tests.wire.rig import Rig

RIG = {"limits": "header_timeout: 1s, body_timeout: 1s, write_timeout: 1500ms, idle_timeout: 2s"}
pytestmark = pytest.mark.slow


def to(path: bytes, *extra: Pair) -> list[Pair]:
    return [(b":method", b"POST"), SCHEME, AUTHORITY, (b":path", path), *extra]


def test_a_slow_preface(rig: Rig) -> None:
    with Client(rig.port, hello=PREFACE[:20]) as client:
        assert b" 408 " in client.socket.recv(1000)


def test_a_header_block_that_does_not_end(rig: Rig) -> None:
    with Client(rig.port) as client:
        client.send(frame(1, 0, 1, b"\x83"))
        assert client.read_to_end().goaway == "ENHANCE_YOUR_CALM"


def test_a_body_that_stops_ends_its_stream_alone(rig: Rig) -> None:
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/p"), end=False) + data(b"x", end=False))
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (408, "request_timeout")
        assert client.request(headers(to(b"/p"), 3), 3).status == 200


def test_a_client_that_gives_no_window_loses_its_stream_alone(rig: Rig) -> None:
    rig.a.plans.append([ok(b"x" * 1_000_000)])
    with Client(rig.port, hello=HELLO + settings((4, 0))) as client:
        client.send(headers(to(b"/p")))
        began = time.monotonic()
        client.read_until(lambda reader: 1 in reader.replies and reader.replies[1].reset == "CANCEL")
        assert time.monotonic() - began >= 1.0
        rig.until(lambda: not any(connection.open for connection in rig.a.connections))
        client.send(settings((4, 65_535)))
        assert client.request(headers(to(b"/p"), 3), 3).status == 200


def test_a_client_that_reads_nothing_is_cut(rig: Rig) -> None:
    """Heads are not subject to flow control, but streams beyond the limit are."""
    with Client(rig.port) as client:
        client.socket.settimeout(0.2)
        stream = 1
        try:
            while stream < 2_000_000:
                client.socket.sendall(
                    b"".join(headers(to(b"/nowhere"), n) for n in range(stream, stream + 200, 2))
                )
                stream += 200
        except OSError:
            pass
        rig.until(lambda: not rig.worker.connections)


def test_a_frame_that_does_not_end(rig: Rig) -> None:
    """A byte now and then is no reason to keep a connection."""
    with Client(rig.port) as client:
        begun = frame(6, 0, 0, b"12345678")
        for place in range(16):
            client.send(begun[place : place + 1])
            time.sleep(0.25)
            if client.closed:
                break
        assert client.read_to_end().goaway == "ENHANCE_YOUR_CALM"


def test_pings_do_not_keep_an_idle_connection(rig: Rig) -> None:
    with Client(rig.port) as client:
        began = time.monotonic()
        client.socket.settimeout(0.2)
        while not client.reader.goaway and time.monotonic() - began < 15:
            client.send(frame(6, 0, 0, b"12345678"))
            try:
                client.reader.feed(client.socket.recv(65_536))
            except TimeoutError:
                continue
            time.sleep(0.1)
        assert client.reader.goaway == "NO_ERROR"


def test_a_request_behind_the_end_of_an_idle_connection_is_served(rig: Rig) -> None:
    """It may have been on its way when the gateway announced the end."""
    with Client(rig.port) as client:
        client.read_until(lambda reader: bool(reader.goaway))
        assert client.request(headers(to(b"/p"))).status == 200
        client.read_to_end()
