"""Bodies pass in constant memory, however slow the other side is; each piece is relayed as it comes."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.backend import HOLD, Flood, Step, ok
from tests.wire.rig import Rig

H = b"host: gateway.test\r\n"
SIZE = 256 << 20
MOST = 24 << 20
"""Bytes by which the process may grow: two kernels' worth of buffers and the allocator's slack."""


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@contextmanager
def flat() -> Iterator[None]:
    """Fails where the process grows by more than `MOST` within."""
    before, most = resident(), 0
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert most - before < MOST, f"grew by {(most - before) >> 20} MiB"


FRAMINGS: dict[str, tuple[bytes, list[Step]]] = {
    "length": (b"content-length: %d\r\n" % SIZE, [Flood(SIZE)]),
    "until-close": (b"", [Flood(SIZE), "close"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMINGS)
def test_a_large_answer_to_a_slow_reader(rig: Rig, name: str) -> None:
    fields, steps = FRAMINGS[name]
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\n%b\r\n" % fields, *steps])
    with rig.client() as client, flat():
        client.send(b"GET /large HTTP/1.1\r\n" + H + b"\r\n")
        got = 0
        began = time.monotonic()
        while got < SIZE:
            got += len(client.socket.recv(1 << 18))
            if got < 8 << 20:  # slow at first, then as fast as it goes
                time.sleep(0.02)
                (connection,) = rig.connections
                assert connection.transport.get_write_buffer_size() < 1 << 20
        assert time.monotonic() - began > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_body_to_a_slow_backend(rig: Rig, chunked: bool) -> None:
    rig.a.plans.append([ok(b"taken")])
    framing = b"transfer-encoding: chunked\r\n" if chunked else b"content-length: %d\r\n" % SIZE

    def upload() -> None:
        piece = b"x" * 65536
        client.send(b"POST /large HTTP/1.1\r\n" + H + framing + b"\r\n")
        for _ in range(SIZE // 65536):
            client.send(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
        if chunked:
            client.send(b"0\r\n\r\n")

    with rig.client() as client, flat():
        client.socket.settimeout(30)
        thread = threading.Thread(target=upload)
        rig.call(rig.a.pause)
        thread.start()
        rig.until(lambda: rig.a.connections)
        backend = rig.a.connections[0]
        for _ in range(10):
            time.sleep(0.02)
            rig.call(backend.transport.resume_reading)
            rig.call(backend.transport.pause_reading)
        rig.call(rig.a.resume)
        rig.until(lambda: rig.requests and rig.requests[0].complete, 60)
        assert client.answer().body == b"taken"
        thread.join()
        assert backend.swallowed > SIZE if chunked else backend.swallowed == SIZE


@pytest.mark.long
@pytest.mark.parametrize("state", ["connecting", "queued", "behind"])
def test_a_body_that_no_backend_takes_yet_is_not_read(rig: Rig, state: str) -> None:
    """While the request connects, waits for a place or for its turn, the rest of its body waits with the client."""
    rig.a.plans.extend([[HOLD, ok(b"first")], [ok(b"second")]])
    target = {"connecting": b"/silent", "queued": b"/narrow", "behind": b"/large"}[state]
    first = rig.client()
    with rig.client() as client, flat():
        if state == "queued":
            first.send(b"GET /narrow HTTP/1.1\r\n" + H + b"\r\n")
            rig.until(lambda: rig.requests)
        if state == "behind":
            client.send(b"GET /large HTTP/1.1\r\n" + H + b"\r\n")
        client.send(b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (target, H, SIZE))
        client.socket.settimeout(0.4)
        sent = 0
        try:
            while sent < SIZE:
                sent += client.socket.send(b"x" * 65536)
        except TimeoutError:
            pass
        assert sent < 32 << 20
        assert any(connection.pauses for connection in rig.connections)
        client.reset()  # a FIN would have to wait behind the body
        rig.until(lambda: len(rig.connections) < 2, 2.5)
    first.socket.close()


# Relayed at once ----------------------------------------------------------------------------------------
def test_each_event_of_a_stream_is_relayed_as_it_comes(rig: Rig) -> None:
    rig.a.plans.append(
        [
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
            *(step for n in range(20) for step in (b"b\r\ndata: %03d\r\n\r\n" % n, 0.01)),
            b"0\r\n\r\n",
        ]
    )
    with rig.client() as client:
        client.send(b"GET /p/x HTTP/1.1\r\n" + H + b"\r\n")
        head = client.until(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        arrivals = []
        for n in range(20):
            assert client.until(b"\r\n") == b"b"
            assert client._exactly(13) == b"data: %03d\r\n\r\n" % n
            arrivals.append(time.monotonic())
        gaps = [b - a for a, b in itertools.pairwise(arrivals)]
        assert arrivals[-1] - arrivals[0] > 0.15
        assert max(gaps) < 0.15
        assert client._exactly(5) == b"0\r\n\r\n"


def test_the_head_is_relayed_before_the_body(rig: Rig) -> None:
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", HOLD, b"abc"])
    with rig.client() as client:
        client.send(b"GET /p/x HTTP/1.1\r\n" + H + b"\r\n")
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        rig.call(rig.a.released.set)
        assert client._exactly(3) == b"abc"


def test_each_piece_of_a_request_is_relayed_as_it_comes(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /p/x HTTP/1.1\r\n" + H + b"transfer-encoding: chunked\r\n\r\n")
        rig.until(lambda: rig.requests)
        for n in range(5):
            client.send(b"4\r\n%04d\r\n" % n)
            rig.until(lambda n=n: rig.requests[0].body.endswith(b"%04d" % n))  # type: ignore[misc]
        client.send(b"0\r\n\r\n")
        assert client.answer().body == b"A|POST|/p/x|20"


@pytest.mark.long
def test_a_closed_connection_keeps_no_bytes_of_its_client(rig: Rig) -> None:
    """S14: a head of 50 kB stayed until the collector's turn, and that came after 1,400 connections."""
    mark = b"a mark that is nowhere else " * 1000

    def held() -> list[bytes]:
        lists = [each for each in gc.get_objects() if type(each) is list]
        return [part for each in lists for part in each if isinstance(part, bytes) and mark[:40] in part]

    gc.collect()
    gc.disable()
    try:
        with rig.client() as client:
            client.send(b"GET /p/x HTTP/1.1\r\nhost: gateway.test\r\nx-long: %b\r\n\r\n" % mark.strip())
            assert client.answer().status == 200
        rig.until(lambda: not rig.connections and not held())
    finally:
        gc.enable()


KRAM = b" ".join([b"esle erehwon si taht kram a"] * 1000)
"""The mark backwards, so that the test itself does not hold it."""
UNSERVED = [
    (b"GET /nowhere HTTP/1.1\r\nhost: h\r\nx-long: MARK\r\n\r\n", 404),
    (b"GET /p HTTP/1.1\r\nx-long: MARK\r\n\r\n", 400),
    (b"GET /p HTTP/1.1\r\nhost: h\r\nx-long: MARK\r\nx long: 1\r\n\r\n", 400),
    (b"POST /small HTTP/1.1\r\nhost: h\r\nx-long: MARK\r\ncontent-length: 90000\r\n\r\n", 413),
    (b"POST /p HTTP/1.1\r\nhost: h\r\nx-long: MARK\r\ntransfer-encoding: chunked\r\n\r\nz\r\n", 400),
    (b"POST /p HTTP/1.1\r\nhost: h\r\nx-long: MARK\r\nexpect: more\r\ncontent-length: 9\r\n\r\n", 417),
    (b"GET /p HTTP/1.1\r\nhost: h\r\nx-variant: none\r\nx-long: MARK\r\n\r\n", 403),
    (b"GET /-/config HTTP/1.1\r\nhost: h\r\nx-long: MARK\r\norigin: null\r\n\r\n", 403),
    (b"GET /dead HTTP/1.1\r\nhost: h\r\nx-long: MARK\r\n\r\n", 502),
    (b"POST /dead HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\nMARK" % len(KRAM), 502),
]


def marks() -> int:
    """How many of the objects that the collector knows hold the mark."""
    return sum(
        type(part) in (bytes, bytearray) and KRAM[:40] in part[::-1]
        for each in gc.get_objects()
        for part in gc.get_referents(each)
    )


def test_neither_do_errors(rig: Rig) -> None:
    """S14: the traceback of a refusal, and a connection that could not be opened, held the client's bytes."""
    gc.collect()
    gc.disable()
    try:
        for request, status in UNSERVED:
            with rig.client() as client:
                client.send(request.replace(b"MARK", KRAM[::-1]))
                assert client.answer().status == status, request
        rig.until(lambda: not rig.worker.connections)
        rig.until(lambda: not marks())
    finally:
        gc.enable()
