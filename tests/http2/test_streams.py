"""The table of stream states, and the ends of a connection."""

from __future__ import annotations

import pytest

from gateway.http2 import stream as states
from gateway.http2.connection import Connection
from gateway.http2.errors import StreamFault
from gateway.http2.limits import Limits
from tests.http2.echo import Echo, Server
from tests.http2.raw import GOOD, HELLO, RST_STREAM, data, frame, headers, word


def test_the_table_is_complete_and_ends() -> None:
    assert len(states.TRANSITIONS) == 5
    for row in states.TRANSITIONS:
        assert len(row) == 8
        assert row[states.RESET] == states.CLOSED or row is states.TRANSITIONS[states.IDLE]
    assert all(after < 0 for after in states.TRANSITIONS[states.CLOSED][:-1])


@pytest.mark.parametrize("state", [states.HALF_CLOSED_REMOTE, states.CLOSED])
@pytest.mark.parametrize("event", [states.RECV_HEADERS, states.RECV_DATA, states.RECV_END])
def test_what_a_peer_sends_after_its_end_is_its_error(state: int, event: int) -> None:
    stream = Echo(Server(), 1, 200)
    stream.state = state
    with pytest.raises(StreamFault):
        stream.advance(event)


@pytest.mark.parametrize("state", [states.IDLE, states.HALF_CLOSED_LOCAL, states.CLOSED])
@pytest.mark.parametrize("event", [states.SEND_DATA, states.SEND_END])
def test_sending_after_the_end_is_our_error(state: int, event: int) -> None:
    stream = Echo(Server(), 1, 200)
    stream.state = state
    with pytest.raises(RuntimeError):
        stream.advance(event)


def test_a_drain_lets_streams_end_and_refuses_new_ones() -> None:
    server = Server()
    server.receive(HELLO + headers(GOOD, 1, end=False), 1.0)
    server.announce_end()
    assert server.reader.goaways == [(2**31 - 1, "NO_ERROR")]
    server.receive(headers(GOOD, 3), 1.0)
    assert server.reader.replies[3].ended
    server.close()
    assert server.reader.goaways[1] == (3, "NO_ERROR")
    server.receive(headers(GOOD, 5) + data(b"x", 1), 1.0)
    assert server.reader.replies[5].reset == "REFUSED_STREAM"
    assert server.reader.replies[1].body == b"x"
    assert not server.streams


def test_every_stream_hears_of_the_end_of_its_connection() -> None:
    server = Server()
    server.receive(HELLO + headers(GOOD, 1, end=False) + headers(GOOD, 3, end=False), 1.0)
    streams = [server.streams[1], server.streams[3]]
    server.receive(frame(0, 0, 0), 1.0)
    assert server.reader.goaway == "PROTOCOL_ERROR"
    assert [stream.reset_by for stream in streams if isinstance(stream, Echo)] == [1, 1]
    written = server.written
    server.receive(headers(GOOD, 5), 1.0)
    assert server.written == written


def test_a_reset_reaches_its_stream_alone() -> None:
    server = Server()
    server.receive(HELLO + headers(GOOD, 1, end=False) + headers(GOOD, 3, end=False), 1.0)
    first, second = server.streams[1], server.streams[3]
    server.receive(frame(RST_STREAM, 0, 1, word(8)), 1.0)
    assert isinstance(first, Echo)
    assert isinstance(second, Echo)
    assert (first.reset_by, second.reset_by) == (8, -1)
    assert list(server.streams) == [3]


def test_late_frames_of_a_stream_that_we_reset_are_ignored() -> None:
    server = Server()
    server.receive(HELLO + headers(GOOD, 1, end=False), 1.0)
    server.streams[1].reset(0)
    server.receive(data(b"late", end=False) + headers([(b"x-sum", b"1")]), 1.0)
    server.receive(headers(GOOD, 3), 1.0)
    assert server.reader.replies[3].ended


class Requester(Connection):
    """The client's side of a connection, whose requests have no body."""

    def write(self, data: bytes) -> None:
        """Has no peer."""

    def give_up_requests(self, count: int) -> None:
        for _ in range(count):
            self.highest += 2 if self.highest else 1
            stream = states.Stream(self, self.highest)
            self.streams[stream.id] = stream
            stream.send_head(b"", end=True)
            stream.reset(8)


def test_late_responses_to_any_number_of_requests_given_up_are_ignored() -> None:
    requester = Requester(Limits(), client=True)
    requester.receive(frame(4), 1.0)
    requester.give_up_requests(700)
    for number in range(1, 1400, 2):
        requester.receive(headers([(b":status", b"200")], number, end=False) + data(b"late", number), 1.0)
    assert not requester.ended
    requester.receive(data(b"late", 1401), 1.0)
    assert requester.ended
