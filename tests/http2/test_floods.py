"""Floods end the connection after a bounded cost; honest clients that look a little like them do not."""

from __future__ import annotations

import pytest

from gateway.http2.limits import Limits
from tests.http2.echo import Server
from tests.http2.raw import (
    ACK,
    CONTINUATION,
    GOOD,
    HEADERS,
    HELLO,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    block,
    data,
    frame,
    headers,
    literal,
    settings,
    split,
    word,
)

CALM = "ENHANCE_YOUR_CALM"
PLAIN = {
    "PING": frame(PING, 0, 0, b"\0" * 8),
    "PING ACK": frame(PING, ACK, 0, b"\0" * 8),
    "SETTINGS": frame(SETTINGS),
    "SETTINGS that move the window": settings((4, 70_000)) + settings((4, 60_000)),
    "PRIORITY": frame(PRIORITY, 0, 3, b"\0\0\0\0\1"),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 0, word(1)),
    "WINDOW_UPDATE of a stream": frame(WINDOW_UPDATE, 0, 1, word(1)),
    "empty DATA": data(b"", end=False),
    "unknown": frame(0xBE),
    "DATA of a closed stream": data(b"x", 3),
    "HEADERS of a closed stream": headers(GOOD, 3),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_frames_that_carry_nothing_are_limited(kind: str) -> None:
    server = Server()
    server.receive(HELLO + headers(GOOD, 1, end=False) + headers(GOOD, 3, end=False), 1.0)
    server.streams[3].reset(8)
    before = server.written
    count = 0
    while not server.ended and count < 10_000:
        server.receive(PLAIN[kind] * 100, 1.0)
        count += 100
    assert server.reader.goaway == CALM
    assert count <= 2_100
    assert server.written - before < 64 * 1024


@pytest.mark.parametrize("kind", PLAIN)
def test_the_same_frames_at_a_modest_rate_are_not(kind: str) -> None:
    server = Server()
    server.receive(HELLO + headers(GOOD, 1, end=False) + headers(GOOD, 3, end=False), 1.0)
    server.streams[3].reset(8)
    for second in range(100):
        server.receive(PLAIN[kind] * 50, 1.0 + second)
    assert not server.ended


@pytest.mark.parametrize("ended", ["before its end", "after its end"])
def test_rapid_reset(ended: str) -> None:
    server = Server()
    server.receive(HELLO, 1.0)
    stream_id = 1
    while not server.ended and stream_id < 8_000:
        server.receive(headers(GOOD, stream_id, end=ended == "after its end"), 1.0)
        server.receive(frame(RST_STREAM, 0, stream_id, word(8)), 1.0)
        stream_id += 2
    if ended == "before its end":
        assert server.reader.goaway == CALM
        assert len(server.requests) <= 401
    else:
        assert not server.ended  # the response was out before the reset came


def test_resets_that_a_client_provokes() -> None:
    server = Server()
    server.receive(HELLO, 1.0)
    stream_id = 1
    while not server.ended and stream_id < 8_000:
        server.receive(headers(GOOD, stream_id, end=False) + frame(WINDOW_UPDATE, 0, stream_id, word(0)), 1.0)
        stream_id += 2
    assert server.reader.goaway == CALM
    assert len(server.requests) <= 401


def test_malformed_requests_are_limited() -> None:
    server = Server()
    server.receive(HELLO, 1.0)
    stream_id = 1
    while not server.ended and stream_id < 8_000:
        server.receive(headers([*GOOD, (b"Bad", b"x")], stream_id), 1.0)
        stream_id += 2
    assert server.reader.goaway == CALM
    assert stream_id <= 403


def test_cancelling_some_requests_is_no_flood() -> None:
    server = Server()
    server.receive(HELLO, 1.0)
    stream_id = 1
    for _ in range(2000):
        server.receive(headers(GOOD, stream_id), 1.0)
        server.receive(headers(GOOD, stream_id + 2, end=False), 1.0)
        server.receive(frame(RST_STREAM, 0, stream_id + 2, word(8)), 1.0)
        stream_id += 4
    assert not server.ended


def test_more_streams_than_permitted_are_refused_and_may_be_repeated() -> None:
    server = Server()
    server.receive(HELLO, 1.0)
    for number in range(1, 221, 2):
        server.receive(headers(GOOD, number, end=False), 1.0)
    refused = [number for number, reply in server.reader.replies.items() if reply.reset == "REFUSED_STREAM"]
    assert refused == list(range(201, 221, 2))
    assert len(server.streams) == 100
    server.receive(data(b"x", 1), 1.0)
    server.receive(headers(GOOD, 221), 1.0)
    assert server.reader.replies[221].ended


def test_a_flood_of_refused_streams() -> None:
    server = Server()
    server.receive(HELLO, 1.0)
    stream_id = 1
    while not server.ended and stream_id < 8_000:
        server.receive(headers(GOOD, stream_id, end=False), 1.0)
        stream_id += 2
    assert server.reader.goaway == CALM
    assert len(server.requests) == 100


def test_large_header_lists_are_limited() -> None:
    bomb = block(GOOD) + b"\x40\x01a" + b"\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 12_000
    server = Server()
    server.receive(HELLO, 1.0)
    stream_id = 1
    while not server.ended and stream_id < 8_000:
        server.receive(frame(HEADERS, 5, stream_id, bomb), 1.0)
        stream_id += 2
    assert server.reader.goaway == CALM
    assert stream_id <= 45


@pytest.mark.parametrize("place", [b"\x0f\x2f", b"\x7e"], ids=["not indexed", "indexed"])
def test_literals_that_name_a_long_entry_are_limited(place: bytes) -> None:
    """Three bytes each: unlimited, a block of 64 KiB became 88 MB, and kept the event loop for 0.1 s."""
    entry = b"\x40\x7f\xa1\x1e" + b"a" * 4000 + b"\x00"
    server = Server()
    server.receive(HELLO, 1.0)
    server.receive(frame(HEADERS, 5, 1, block(GOOD) + entry + (place + b"\x00") * 300), 1.0)
    assert server.reader.goaway == CALM
    assert not server.requests


@pytest.mark.parametrize("flags", [0x00, 0x40], ids=["not indexed", "indexed"])
def test_many_short_literals_are_limited(flags: int) -> None:
    """A block of 272 KiB has room for 55,000, which kept the event loop for 0.2 s."""
    server = Server()
    field = literal(b"a", b"b", flags)
    server.receive(HELLO + frame(HEADERS, 5, 1, block(GOOD) + field * 1000), 1.0)
    assert server.reader.replies[1].heads[0][0] == (b":status", b"431")
    server.receive(frame(HEADERS, 5, 3, block(GOOD) + field * 1100), 1.0)
    assert server.reader.goaway == CALM


@pytest.mark.parametrize("size", [0, 1, 16_384])
def test_continuation_frames_are_limited(size: int) -> None:
    server = Server()
    server.receive(HELLO + frame(HEADERS, 0, 1, b""), 1.0)
    count = 0
    while not server.ended and count < 10_000:
        server.receive(frame(CONTINUATION, 0, 1, b"\0" * size), 1.0)
        count += 1
    assert server.reader.goaway == CALM
    assert count <= 17


def test_a_long_download_may_update_its_windows_as_often_as_it_likes() -> None:
    server = Server()
    server.receive(HELLO + settings((4, 1000)) + headers(GOOD, 1, end=False), 1.0)
    stream = server.streams[1]
    stream.send_head(b"\x88", end=False)
    for _ in range(3_000):
        stream.send_data(b"x" * 100)
        server.receive(frame(WINDOW_UPDATE, 0, 0, word(100)) + frame(WINDOW_UPDATE, 0, 1, word(100)), 1.0)
    assert not server.ended


@pytest.mark.parametrize(
    "sent",
    [frame(PING, 0, 0, b"\0" * 8), frame(WINDOW_UPDATE, 0, 1, word(1))],
    ids=["PING", "a byte of window"],
)
def test_responses_that_wait_for_a_window_pay_for_no_frames(sent: bytes) -> None:
    server = Server()
    server.receive(
        HELLO + settings((4, 0)) + b"".join(headers(GOOD, n, end=False) for n in range(1, 101, 2)), 1.0
    )
    for stream in server.streams.values():
        stream.send_head(b"\x88", end=False)
        stream.send_data(b"x" * 10_000)
    count = 0
    while not server.ended and count < 10_000:
        server.receive(sent, 1.0)
        count += 1
    assert server.reader.goaway == CALM
    assert count <= 2_200


def test_a_turn_reads_a_limited_part_of_large_heads() -> None:
    server = Server(Limits(turn_frames=100))
    head = split(block([*GOOD, *((b"f%d" % n, b"v" * 900) for n in range(60))]))
    server.receive(HELLO + head + headers(GOOD, 3), 1.0)
    assert server.behind
    assert 3 not in server.reader.replies
    while server.behind:
        server.receive(b"", 1.0)
    assert [server.reader.replies[stream].status for stream in (1, 3)] == [200, 200]


def test_a_turn_handles_a_limited_number_of_frames() -> None:
    """The smallest DATA frames cost the most for each byte: other connections get their turn between them."""
    server = Server(Limits(turn_frames=100))
    server.receive(HELLO + headers(GOOD, 1, end=False) + data(b"x", end=False) * 998 + data(b"x"), 1.0)
    turns = 1
    while server.behind:
        server.receive(b"", 1.0)
        turns += 1
    assert turns == 11  # with the preface's SETTINGS and HEADERS
    assert server.reader.replies[1].body == b"x" * 999


def test_what_arrives_between_turns_keeps_its_place() -> None:
    server = Server(Limits(turn_frames=2))
    server.receive(HELLO + headers(GOOD, 1, end=False) + data(b"a", end=False) + data(b"b", end=False), 1.0)
    server.receive(data(b"c", end=False), 1.0)
    server.receive(data(b"d"), 1.0)
    while server.behind:
        server.receive(b"", 1.0)
    assert server.reader.replies[1].body == b"abcd"
