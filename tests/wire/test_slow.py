"""Clients that dawdle, in every state that one can dawdle in: each is cut by its limit, with the right answer."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.backend import HOLD, ok
from tests.support.client import PATIENCE, Client, Cut
from tests.wire.rig import Rig

RIG = {
    "limits": "header_timeout: 1s, body_timeout: 1500ms, body_min_rate: 1000B/s, body_grace: 1s,"
    " idle_timeout: 3s, write_timeout: 1s"
}
pytestmark = pytest.mark.slow
H = b"host: gateway.test\r\n"
SOON = 20
"""Seconds within which a limit of a second or so has acted, however busy the machine."""


def drip(client: Client, data: bytes, *, every: float, seconds: float) -> float:
    """Sends ``data`` a byte at a time until the gateway ends the connection; seconds until then."""
    began = time.monotonic()
    client.socket.settimeout(every)
    for place in range(len(data)):
        if time.monotonic() - began > seconds:
            break
        client.send(data[place : place + 1])
        try:
            client.buffer += client.socket.recv(1 << 16)
            break
        except TimeoutError:
            continue
        except ConnectionResetError:
            break
    client.socket.settimeout(PATIENCE)
    return time.monotonic() - began


def test_nothing_sent_ends_quietly(rig: Rig) -> None:
    began = time.monotonic()
    with rig.client() as client:
        assert client.at_end()
        assert client.buffer == b""
    assert 0.9 < time.monotonic() - began < SOON


@pytest.mark.parametrize("data", [b"G", b"GET /p/x HT", b"GET /p/x HTTP/1.1\r\nhost: gate"])
def test_half_a_head_is_408(rig: Rig, data: bytes) -> None:
    began = time.monotonic()
    with rig.client() as client:
        client.send(data)
        answer = client.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert answer.all("connection") == [b"close"]
        assert client.at_end()
    assert 0.9 < time.monotonic() - began < SOON
    assert rig.requests == []


def test_a_dripping_head_is_408(rig: Rig) -> None:
    """A byte now and then moves no deadline."""
    with rig.client() as client:
        spent = drip(client, b"GET /p/x HTTP/1.1\r\n" + b"a: b\r\n" * 1000, every=0.02, seconds=SOON)
        assert client.answer().status == 408
    assert spent < SOON


def test_dripping_empty_lines_end_quietly(rig: Rig) -> None:
    with rig.client() as client:
        spent = drip(client, b"\r\n" * 1000, every=0.02, seconds=SOON)
        assert client.at_end()
    assert spent < SOON


def test_half_a_second_head_is_408(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"GET /p/1 HTTP/1.1\r\n" + H + b"\r\nGET /p/2 HT")
        assert client.answer().status == 200
        assert client.answer().status == 408
        assert client.at_end()


def test_half_a_second_head_is_408_behind_the_answer_owed(rig: Rig) -> None:
    rig.a.plans.append([2.5, ok(b"slow")])
    with rig.client() as client:
        client.send(b"GET /p/1 HTTP/1.1\r\n" + H + b"\r\nGET /p/2 HT")
        assert client.answer().body == b"slow"
        assert client.answer().status == 408
        assert client.at_end()


@pytest.mark.parametrize("began", [b"", b"abc"], ids=["nothing", "some"])
def test_a_body_that_stops_is_408(rig: Rig, began: bytes) -> None:
    with rig.client() as client:
        client.send(b"POST /p/x HTTP/1.1\r\n" + H + b"content-length: 100000\r\n\r\n" + began)
        answer = client.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert client.at_end()
    rig.until(lambda: not any(c.open for c in rig.a.connections))
    assert not any(r.complete for r in rig.requests)


@pytest.mark.parametrize("target", [b"/p/x", b"/none", b"/-/feedback"])
def test_a_dripping_body_is_408(rig: Rig, target: bytes) -> None:
    """A byte now and then is below the least rate; the backend sees its request break off."""
    with rig.client() as client:
        client.send(b"POST %b HTTP/1.1\r\n%bcontent-length: 1000\r\n\r\n" % (target, H))
        spent = drip(client, b"x" * 1000, every=0.02, seconds=SOON)
        answer = client.answer()
        assert answer.status == (404 if target == b"/none" else 408)
        assert client.at_end()
    assert spent < SOON
    rig.until(lambda: not any(c.open for c in rig.a.connections))


def test_a_dripping_chunked_body_is_408(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /p/x HTTP/1.1\r\n" + H + b"transfer-encoding: chunked\r\n\r\n")
        spent = drip(client, b"1\r\nx\r\n" * 200, every=0.02, seconds=SOON)
        assert client.answer().status == 408
    assert spent < SOON


def test_a_body_at_the_least_rate_passes(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /p/x HTTP/1.1\r\n" + H + b"content-length: 6000\r\n\r\n")
        for _ in range(30):
            client.send(b"x" * 200, 0.1)
        assert client.answer().body == b"A|POST|/p/x|6000"


def test_a_backend_that_takes_nothing_is_not_the_clients_fault(rig: Rig) -> None:
    """While we do not read, the client is not slow: neither its rate nor its pauses count."""
    rig.a.plans.append([ok(b"taken")])
    full = threading.Event()

    def upload() -> None:
        client.send(b"POST /large HTTP/1.1\r\n" + H + b"transfer-encoding: chunked\r\n\r\n")
        while (
            not full.is_set()
        ):  # until the kernels on the way are full: how much they hold differs by machine
            client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        client.send(b"0\r\n\r\n")

    with rig.client() as client:
        client.socket.settimeout(60)
        thread = threading.Thread(target=upload)
        rig.call(rig.a.pause)
        thread.start()
        rig.until(lambda: any(c.pauses for c in rig.connections))
        full.set()
        time.sleep(3.5)  # twice every limit on bodies
        rig.call(rig.a.resume)
        assert client.answer().body == b"taken"
        thread.join()


def test_an_idle_connection_ends_after_its_answer(rig: Rig) -> None:
    began = time.monotonic()
    with rig.client() as client:
        client.send(b"GET /p/x HTTP/1.1\r\n" + H + b"\r\n")
        assert client.answer().status == 200
        assert client.at_end()
    assert 2.9 < time.monotonic() - began < SOON


def test_a_long_answer_does_not_use_up_the_idle_time(rig: Rig) -> None:
    rig.a.plans.append([2.5, ok(b"slow")])
    with rig.client() as client:
        client.send(b"GET /p/x HTTP/1.1\r\n" + H + b"\r\n")
        assert client.answer().body == b"slow"
        client.send(1.2)
        client.send(b"GET /p/2 HTTP/1.1\r\n" + H + b"\r\n")
        assert client.answer().body == b"A|GET|/p/2|0"


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_reader_that_stops_is_cut(rig: Rig, version: bytes) -> None:
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (64 << 20), b"x" * (64 << 20)])
    with rig.client(receive_buffer=4096) as client:
        client.send(b"GET /p/x %b\r\n%b\r\n" % (version, H))
        rig.until(lambda: rig.a.connections)
        rig.until(lambda: not rig.a.connections[0].open)
        rig.until(lambda: not rig.connections)
        with pytest.raises(Cut):
            client.answer()


def test_a_slow_reader_that_takes_something_is_not_cut(rig: Rig) -> None:
    size = 3 << 20
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, b"x" * size])
    with rig.client(receive_buffer=65536) as client:
        client.send(b"GET /p/x HTTP/1.1\r\n" + H + b"\r\n")
        got = 0
        while got < size // 2:
            got += len(client.socket.recv(100_000))
            time.sleep(0.08)
        while got < size:
            got += len(client.socket.recv(1 << 20))
    assert got >= size


def test_a_reader_that_stops_behind_a_last_answer_is_cut(rig: Rig) -> None:
    """The answer is out as far as we are concerned, but a close may wait for ever."""
    body = b"x" * 3_000_000
    rig.a.plans.append([ok(body)])
    with rig.client(receive_buffer=4096) as client:
        client.send(b"GET /p/x HTTP/1.1\r\nconnection: close\r\n" + H + b"\r\n")
        rig.until(lambda: rig.a.connections)
        rig.until(lambda: not rig.connections)


def test_a_client_that_lingers_after_an_error_is_cut(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"NONSENSE\r\n\r\n")
        assert client.answer().status == 400
        assert client.at_end()
        rig.until(lambda: not rig.connections)


def test_many_slow_clients_do_not_matter_to_the_others(rig: Rig) -> None:
    begun = [b"", b"GET /p/x HT", b"POST /p/x HTTP/1.1\r\n" + H + b"content-length: 9\r\n\r\nx"]
    slow = []
    try:
        for n in range(300):
            slow.append(rig.client())
            slow[-1].send(begun[n % 3])
        with rig.client() as client:
            for n in range(100):
                client.send(b"GET /p/%d HTTP/1.1\r\n%b\r\n" % (n, H))
                assert client.answer().body == b"A|GET|/p/%d|0" % n
        rig.until(lambda: not rig.connections)
        for n, client in enumerate(slow):
            if n % 3:
                assert client.answer().status == 408
            assert client.at_end()
    finally:
        for client in slow:
            client.socket.close()


def test_a_client_that_waits_for_its_continue_is_not_slow(rig: Rig) -> None:
    """It may send nothing before its turn has come: the time until then is not its own."""
    rig.a.plans.append([HOLD, ok(b"first")])
    with rig.client() as client:
        client.send(b"GET /large/1 HTTP/1.1\r\n" + H + b"\r\n")  # which may take longer than a client
        client.send(b"POST /large/2 HTTP/1.1\r\n" + H + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        assert client.quiet(2.5)
        rig.call(rig.a.released.set)
        assert client.answer().body == b"first"
        assert client.answer().status == 100
        client.send(b"hello")
        assert client.answer().body == b"A|POST|/large/2|5"


def test_nor_is_it_given_for_ever_once_it_has_it(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"POST /p/2 HTTP/1.1\r\n" + H + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        assert client.answer().status == 100
        assert client.answer().code == "request_timeout"
        assert client.at_end()
