"""Windows in both directions: a slow peer stops the sender, and nothing is lost."""

from __future__ import annotations

import pytest

from gateway.http2.limits import Limits
from gateway.http2.stream import Stream
from tests.http2.echo import Echo, Server
from tests.http2.raw import DATA, END_STREAM, GOOD, HELLO, WINDOW_UPDATE, data, frame, headers, settings, word


def stream(server: Server, number: int) -> Stream:
    return server.streams[number]


def test_a_response_waits_for_the_stream_window() -> None:
    server = Server()
    server.receive(HELLO + settings((4, 10)) + headers(GOOD, end=False) + data(b"x" * 25), 1.0)
    reply = server.reader.replies[1]
    assert (reply.body, reply.ended) == (b"x" * 10, False)
    server.receive(frame(WINDOW_UPDATE, 0, 1, word(10)), 1.0)
    assert (len(reply.body), reply.ended) == (20, False)
    server.receive(frame(WINDOW_UPDATE, 0, 1, word(5)), 1.0)
    assert (reply.body, reply.ended) == (b"x" * 25, True)
    assert not server.streams


def test_streams_share_the_connection_window_in_turn() -> None:
    server = Server()
    server.receive(HELLO + settings((4, 1 << 20)), 1.0)
    for number in (1, 3, 5):
        server.receive(headers(GOOD, number, end=False), 1.0)
        for _ in range(6):
            server.receive(data(b"x" * 10_000, number, end=False), 1.0)
        server.receive(data(b"", number), 1.0)
    sent = [len(server.reader.replies[number].body) for number in (1, 3, 5)]
    assert sum(sent) == 65_535
    server.receive(frame(WINDOW_UPDATE, 0, 0, word(2 * 16_384)), 1.0)
    after = [len(server.reader.replies[number].body) for number in (1, 3, 5)]
    assert after[1] - sent[1] == after[2] - sent[2] == 16_384
    server.receive(frame(WINDOW_UPDATE, 0, 0, word(1 << 20)), 1.0)
    assert [len(server.reader.replies[number].body) for number in (1, 3, 5)] == [60_000] * 3
    assert all(server.reader.replies[number].ended for number in (1, 3, 5))


def test_a_stream_blocked_by_its_own_window_blocks_no_other() -> None:
    server = Server()
    server.receive(HELLO + settings((4, 0)) + headers(GOOD, 1, end=False) + data(b"x" * 5, 1), 1.0)
    server.receive(settings((4, 0)) + headers(GOOD, 3, end=False) + frame(WINDOW_UPDATE, 0, 3, word(99)), 1.0)
    server.receive(data(b"y" * 5, 3), 1.0)
    assert server.reader.replies[1].body == b""
    assert (server.reader.replies[3].body, server.reader.replies[3].ended) == (b"yyyyy", True)


def test_a_transport_that_takes_no_more_stops_data_and_not_control_frames() -> None:
    server = Server()
    server.receive(HELLO, 1.0)
    server.pause_writing()
    server.receive(headers(GOOD, 1, end=False) + data(b"x" * 5, 1) + frame(6, 0, 0, b"\0" * 8), 1.0)
    assert server.reader.replies[1].body == b""
    assert server.reader.pings == 1
    server.resume_writing()
    assert server.reader.replies[1].ended


def test_a_transport_that_has_enough_is_heard_before_the_next_large_piece() -> None:
    """In one turn of the loop, a backend's bytes may be read many times."""
    server = Server()
    server.receive(HELLO + settings((4, 1 << 30)) + frame(WINDOW_UPDATE, 0, 0, word(1 << 30)), 1.0)
    server.receive(headers(GOOD, end=False), 1.0)
    opened = stream(server, 1)
    opened.send_head(b"\x88", end=False)
    opened.send_data(b"x" * 100_000)
    assert len(server.reader.replies[1].body) == 100_000
    server.pause_writing()
    opened.send_data(b"x" * 100_000)
    assert (opened.pending_bytes, opened.blocked) == (100_000, True)


def test_a_held_stream_gets_one_window_and_a_released_one_goes_on() -> None:
    server = Server(Limits(stream_window=30_000, connection_window=100_000))
    server.start()
    server.receive(HELLO + headers(GOOD, 1, end=False), 1.0)
    stream(server, 1).hold(full=True)
    server.receive(data(b"x" * 10_000, end=False) * 3, 1.0)
    assert updates(server, 1) == 0
    stream(server, 1).hold(full=False)
    assert updates(server, 1) == 30_000
    server.receive(data(b"x" * 10_000, end=False) * 3, 1.0)
    assert server.reader.replies[1].reset == ""


def test_windows_grow_while_what_comes_is_taken() -> None:
    """Up to a limit: a client that is far away would wait for updates most of the time."""
    server = Server(Limits(stream_window=30_000, connection_window=120_000))
    server.start()
    server.receive(HELLO, 1.0)

    def send(number: int, pieces: int) -> int:
        """What may be on its way on a stream after so many bytes."""
        server.receive(headers(GOOD, number, end=False), 1.0)
        for _ in range(pieces):
            server.receive(data(b"x" * 10_000, number, end=False), 1.0)
        return 30_000 + updates(server, number) - 10_000 * pieces

    assert (send(1, 2) > 30_000, send(3, 5) > 60_000) == (True, True)
    assert send(5, 100) > 120_000
    assert send(7, 500) <= 240_000
    assert 900_000 < 65_535 + updates(server, 0) - 607 * 10_000 <= 960_000
    server.receive(headers(GOOD, 9, end=False), 1.0)
    stream(server, 9).hold(full=True)
    server.receive(data(b"x" * 10_000, 9, end=False) * 3, 1.0)
    stream(server, 9).hold(full=False)
    assert updates(server, 9) == 30_000
    assert server.fault is None


def test_a_stream_that_ends_by_its_own_fault_keeps_nothing_of_the_connection_window() -> None:
    server = Server(Limits(stream_window=30_000, connection_window=100_000))
    server.start()
    server.receive(HELLO, 1.0)
    for number in range(1, 40, 2):
        server.receive(headers([*GOOD, (b"content-length", b"1")], number, end=False), 1.0)
        server.receive(data(b"x" * 10_000, number, end=False), 1.0)
    assert server.fault is None
    assert updates(server, 0) >= 100_000


def updates(server: Server, number: int) -> int:
    return sum(
        int.from_bytes(payload, "big")
        for kind, _, stream_id, payload in server.reader.frames
        if kind == WINDOW_UPDATE and stream_id == number
    )


def test_more_than_the_windows_permit_ends_the_stream_or_the_connection() -> None:
    server = Server(Limits(stream_window=30_000, connection_window=100_000))
    server.receive(HELLO + headers(GOOD, 1, end=False), 1.0)
    stream(server, 1).hold(full=True)
    server.receive(data(b"x" * 10_000, end=False) * 3, 1.0)
    server.receive(data(b"x", end=False), 1.0)
    assert server.reader.replies[1].reset == "FLOW_CONTROL_ERROR"
    for number in (3, 5, 7, 9):
        server.receive(headers(GOOD, number, end=False), 1.0)
        stream(server, number).hold(full=True)
        server.receive(data(b"x" * 10_000, number, end=False) * 3, 1.0)
    assert server.reader.goaway == "FLOW_CONTROL_ERROR"


@pytest.mark.parametrize("ended", ["by the client", "by the server"])
def test_the_bytes_of_an_ended_stream_are_given_back_to_the_connection(ended: str) -> None:
    server = Server(Limits(stream_window=30_000, connection_window=65_535))
    server.receive(HELLO, 1.0)
    for number in range(1, 41, 2):
        server.receive(headers(GOOD, number, end=False), 1.0)
        opened = stream(server, number)
        opened.hold(full=True)
        server.receive(data(b"x" * 10_000, number, end=False), 1.0)
        if ended == "by the server":
            opened.reset(8)
            server.receive(data(b"x" * 1000, number, end=False), 1.0)  # was under way
        else:
            server.receive(frame(3, 0, number, word(8)), 1.0)
    assert not server.ended
    assert not server.streams


def test_streams_that_are_held_leave_others_the_rest_of_the_connections_window() -> None:
    server = Server(Limits())
    server.start()
    server.receive(HELLO, 1.0)
    for number in (1, 3, 5):
        server.receive(headers(GOOD, number, end=False), 1.0)
        stream(server, number).hold(full=True)
        server.receive(data(b"x" * 16_384, number, end=False) * 16, 1.0)
    sent = 3 * 262_144
    for number in range(7, 207, 2):
        server.receive(headers(GOOD, number, end=False), 1.0)
        for _ in range(4):
            sent += 16_384
            assert sent <= 65_535 + updates(server, 0)
            server.receive(data(b"x" * 16_384, number, end=False), 1.0)
        server.receive(frame(3, 0, number, word(8)), 1.0)
    assert server.fault is None


def test_padding_counts_in_the_windows() -> None:
    server = Server(Limits(stream_window=1000, connection_window=100_000))
    server.receive(HELLO + headers(GOOD, 1, end=False), 1.0)
    stream(server, 1).hold(full=True)
    for _ in range(4):
        server.receive(frame(DATA, 8, 1, b"\xff" + b"\0" * 255), 1.0)
    assert server.reader.replies[1].reset == "FLOW_CONTROL_ERROR"


class Blocking(Echo):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.told: list[str] = []

    def on_blocked(self) -> None:
        self.told.append("blocked")

    def on_drained(self) -> None:
        self.told.append("drained")


def test_the_producer_is_told_to_stop_and_to_go_on() -> None:
    server = Server()
    server.echo = Blocking  # type: ignore[assignment]
    server.receive(HELLO + settings((4, 100)) + headers(GOOD, 1, end=False), 1.0)
    opened = stream(server, 1)
    assert isinstance(opened, Blocking)
    opened.send_head(b"\x88", end=False)
    opened.send_data(b"x" * 100)
    opened.send_data(b"x" * 16_384)
    assert opened.told == []
    opened.send_data(b"x")
    assert opened.told == ["blocked"]
    server.receive(frame(WINDOW_UPDATE, 0, 1, word(20_000)), 1.0)
    assert opened.told == ["blocked", "drained"]
    opened.send_data(b"", end=True)
    server.flush()
    assert (len(server.reader.replies[1].body), server.reader.replies[1].ended) == (16_485, True)


def test_trailers_wait_for_the_data_before_them() -> None:
    server = Server()
    server.receive(HELLO + settings((4, 3)) + headers(GOOD, 1, end=False), 1.0)
    opened = stream(server, 1)
    opened.send_head(b"\x88", end=False)
    opened.send_data(b"abcde")
    opened.send_trailers(b"\x00\x01a\x01b")
    server.flush()
    assert server.reader.replies[1].body == b"abc"
    server.receive(frame(WINDOW_UPDATE, 0, 1, word(2)), 1.0)
    reply = server.reader.replies[1]
    assert (reply.body, reply.heads[1], reply.ended) == (b"abcde", [(b"a", b"b")], True)


def test_a_large_piece_is_cut_into_frames() -> None:
    server = Server()
    server.receive(HELLO + settings((4, 1 << 20)) + frame(WINDOW_UPDATE, 0, 0, word(1 << 20)), 1.0)
    server.receive(headers(GOOD, 1, end=False), 1.0)
    stream(server, 1).send_head(b"\x88", end=False)
    stream(server, 1).send_data(b"x" * 40_000, end=True)
    server.flush()
    sizes = [(len(payload), flags) for kind, flags, _, payload in server.reader.frames if kind == DATA]
    assert sizes == [(16_384, 0), (16_384, 0), (7_232, END_STREAM)]
