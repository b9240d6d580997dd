"""Floods on a socket of the real gateway: each ends its own connection, and no other client notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.http2.client import Client
from tests.http2.raw import (
    CONTINUATION,
    ECHO,
    GOOD,
    HEADERS,
    HELLO,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    block,
    data,
    frame,
    headers,
    settings,
    word,
)
from tests.support.backend import HOLD
from tests.wire.rig import Rig

RIG = {"routes": ECHO}
STREAMS = range(1, 8_000, 2)
BOMB = block(GOOD) + b"\x40\x01a" + b"\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 12_000
"""About 48 MB of header list in 16 kB."""


def rapid_reset(*, end: bool) -> Iterator[bytes]:
    for stream in STREAMS:
        yield headers(GOOD, stream, end=end) + frame(RST_STREAM, 0, stream, word(8))


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "rapid reset": lambda: rapid_reset(end=True),
    "rapid reset of open requests": lambda: rapid_reset(end=False),
    "resets that the gateway is made to send": lambda: (
        headers(GOOD, n, end=False) + frame(WINDOW_UPDATE, 0, n, word(0)) for n in STREAMS
    ),
    "malformed requests": lambda: (headers([*GOOD, (b"Bad", b"x")], n) for n in STREAMS),
    "streams beyond the limit": lambda: (headers(GOOD, n, end=False) for n in STREAMS),
    "compression bombs": lambda: (frame(HEADERS, 5, n, BOMB) for n in STREAMS),
    "empty CONTINUATION": lambda: iter([frame(HEADERS, 0, 1)] + [frame(CONTINUATION, 0, 1)] * 9_000),
    "large CONTINUATION": lambda: iter(
        [frame(HEADERS, 0, 1)] + [frame(CONTINUATION, 0, 1, b"\0" * 16_384)] * 40
    ),
    "PING": lambda: iter([frame(PING, 0, 0, b"\0" * 8)] * 9_000),
    "SETTINGS": lambda: iter([frame(SETTINGS)] * 9_000),
    "SETTINGS that move the window": lambda: iter([settings((4, 70_000)) + settings((4, 60_000))] * 9_000),
    "empty DATA": lambda: iter([headers(GOOD, end=False)] + [data(b"", end=False)] * 9_000),
    "unknown frames": lambda: iter([frame(0xBE, 0, 0, b"x" * 16_384)] * 9_000),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_its_connection_alone(rig: Rig, name: str) -> None:
    for _ in STREAMS:
        rig.a.plans.append([HOLD])
    with Client(rig.port) as other:
        with Client(rig.port, hello=HELLO) as client:
            for piece in FLOODS[name]():
                if client.closed:
                    break
                client.send(piece)
            assert client.read_to_end().goaway in ("ENHANCE_YOUR_CALM", "")  # a reset may overtake it
        rig.until(lambda: len(rig.worker.connections) == 1)
        assert len(rig.a.requests) <= 402  # what the backend is asked is bounded
        rig.until(lambda: not any(connection.open for connection in rig.a.connections))
        rig.a.plans.clear()
        assert other.request(headers(GOOD)).status == 200


def test_a_body_in_the_smallest_frames_arrives_over_many_turns_of_the_loop(rig: Rig) -> None:
    count = 40_000
    with Client(rig.port) as other, Client(rig.port) as client:
        client.send(headers(GOOD, end=False) + data(b"x", end=False) * count)
        stream = 1
        while sum(len(request.body) for request in rig.a.requests) < count and stream < 100_000:
            assert other.request(headers(GOOD, stream), stream).status == 200
            stream += 2
        client.send(data(b""))
        assert client.reply().status == 200
    (whole,) = (request for request in rig.requests if request.body)
    assert whole.body == b"x" * count
