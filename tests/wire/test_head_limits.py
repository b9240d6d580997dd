"""Limits of heads, of chunked bodies, and of clients that ask and never read."""

from __future__ import annotations

import pytest

from tests.wire.messages import TE, H, get, kept, marker, post
from tests.wire.rig import Rig

H2C = (b"connection: upgrade", b"upgrade: h2c")
# Small enough for every limit to be reached in a moment
RIG = {"limits": "head: 16KiB, fields: 20, target: 2KiB, control_body: 100KiB, pipeline: 16"}


def answered(rig: Rig, *segments: bytes | float) -> tuple[int, bool]:
    """(status, whether it ended)."""
    with rig.client() as client:
        client.send(*segments)
        answer = client.answer()
        if answer.status == 200:
            return 200, not kept(client)
        return answer.status, client.at_end()


@pytest.mark.parametrize("size", [0, 1000], ids=["whole", "pieces"])
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get(b"/p/" + b"a" * 2045), 200),
        (get(b"/p/" + b"a" * 2046), 414),
        (post(b"/p/" + b"a" * 2045, b"abc", *H2C), 200),
        (post(b"/p/" + b"a" * 2046, b"abc", *H2C), 414),
        (get(b"/p/x?" + b"a" * 20_000), 414),
        (get(b"/p/x?" + b"a" * 1_000_000), 414),
        (get(b"/p/x", *(b"a: b" for _ in range(19))), 200),
        (get(b"/p/x", *(b"a: b" for _ in range(20))), 431),
        (post(b"/p/x", b"abc", *H2C, *(b"a: b" for _ in range(16))), 200),
        (post(b"/p/x", b"abc", *H2C, *(b"a: b" for _ in range(17))), 431),
        (get(b"/p/x", *(b"a: b" for _ in range(5000))), 431),
        (get(b"/p/x", b"a: " + b"b" * 16_000), 200),
        (get(b"/p/x", b"a: " + b"b" * 17_000), 431),
        (get(b"/p/x", b"a: " + b"b" * 1_000_000), 431),
        (get(b"/p/x", b"te: " + b"b" * 100_000), 431),
        (get(b"/p/x", b"connection: a", b"a: " + b"b" * 100_000), 431),
        (get(b"/p/x", b"a" * 20_000 + b": b"), 431),
        (get(b"/p/x", *(b"a: " + b"b" * 1000 for _ in range(18))), 431),
    ],
)
def test_limits_of_a_head(rig: Rig, data: bytes, status: int, size: int) -> None:
    segments = [data[p : p + size] for p in range(0, min(len(data), 100_000), size)] if size else [data]
    assert answered(rig, *segments) == (status, status != 200)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"3;" + b"e" * 15_000 + b"\r\nabc\r\n0\r\n\r\n", 200),
        (b"3;" + b"e" * 40_000 + b"\r\nabc\r\n0\r\n\r\n", 431),
        (b"3\r\nabc\r\n0\r\n" + b"t: x\r\n" * 10 + b"\r\n", 200),
        (b"3\r\nabc\r\n0\r\n" + b"t: x\r\n" * 21 + b"\r\n", 431),
        (b"3\r\nabc\r\n0\r\nt: " + b"x" * 60_000 + b"\r\n\r\n", 431),
        (b"3\r\nabc\r\n" + b"0" * 60_000 + b"\r\n\r\n", 431),
    ],
    ids=["extension", "long-extension", "trailers", "many-trailers", "long-trailer", "long-size"],
)
def test_limits_within_a_chunked_body(rig: Rig, body: bytes, status: int) -> None:
    found, ended = answered(rig, b"POST /p/x HTTP/1.1\r\n" + H + TE + b"\r\n", 0.005, body)
    assert (found, ended) == (status, status != 200)
    if status != 200:
        assert not any(request.complete for request in rig.requests)


def test_a_flood_of_empty_lines_ends(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"\r\n" * 20_000)
        assert client.answer().status == 431
        assert client.at_end()


def test_empty_lines_between_requests_are_counted_each_time_anew(rig: Rig) -> None:
    with rig.client() as client:
        for n in range(5):
            client.send(b"\r\n" * 3000 + get(b"/p/%d" % n))
            assert client.answer().body == marker(b"GET", b"/p/%d" % n)


def test_a_client_that_asks_and_never_reads_is_not_served_for_ever(rig: Rig) -> None:
    """Answers of our own are small, but many: they may not pile up either."""
    with rig.client(receive_buffer=4096) as client:
        client.socket.settimeout(0.3)
        try:
            for _ in range(400):
                client.socket.sendall(get(b"/none") * 200)
        except TimeoutError:
            pass
        (connection,) = rig.connections
        assert connection.transport.get_write_buffer_size() < 200_000
        assert len(connection.queue) < 200
