"""HTTP/2 connections on the stage: time, back-pressure, ends, and responses to gRPC calls.

`tests/http2` tries the same protocol on sockets.
"""

from __future__ import annotations

import json

from tests.http2.raw import (
    AUTHORITY,
    HELLO,
    PREFACE,
    RST_STREAM,
    SCHEME,
    WINDOW_UPDATE,
    Pair,
    Reader,
    data,
    frame,
    headers,
    settings,
    word,
)
from tests.support.stage import Stage, Transport

NO_WINDOW = settings((4, 0))
WIDE = settings((4, 1_000_000)) + frame(WINDOW_UPDATE, 0, 0, word(1_000_000))
LONG = b"x" * 90_000
"""More than a stream's first window, and than a transport takes before it asks for a pause."""


def to(path: bytes, *extra: Pair) -> list[Pair]:
    return [(b":method", b"POST"), SCHEME, AUTHORITY, (b":path", path), *extra]


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Client:
    """A client's side of one connection."""

    def __init__(self, stage: Stage, hello: bytes = HELLO) -> None:
        self.stage = stage
        self.transport = stage.client()
        self._reader = Reader()
        self._read = 0
        self.give(hello)

    def give(self, sent: bytes) -> None:
        self.transport.give(sent)
        self.stage.turn()

    @property
    def seen(self) -> Reader:
        """What has been written to it."""
        new = self.transport.written[self._read :]
        self._read += len(new)
        self._reader.feed(new)
        return self._reader

    def open(self) -> bool:
        """Whether a further request gets a response."""
        stream = max((*self.seen.replies, 1)) + 2
        self.give(headers(to(b"/nowhere"), stream))
        return self.seen.replies[stream].status == 404


def code(reader: Reader, stream: int = 1) -> tuple[int, str]:
    """The status of an error response, and its code."""
    reply = reader.replies[stream]
    return reply.status, json.loads(reply.body)["error"]["code"]


def test_a_connection_that_says_nothing_ends(stage: Stage) -> None:
    client = Client(stage, PREFACE)
    stage.wait(4.0)
    assert not client.seen.goaway
    stage.wait(3.1)
    assert client.seen.goaway == "ENHANCE_YOUR_CALM"
    stage.wait(2.1)  # what it still sends is read for a moment
    assert client.transport.lost


def test_an_idle_connection_ends_with_a_goaway(stage: Stage) -> None:
    client = Client(stage)
    stage.wait(19.0)
    assert not client.seen.goaway
    stage.wait(6.0)
    assert client.seen.goaways == [(2**31 - 1, "NO_ERROR"), (0, "NO_ERROR")]
    assert client.transport.lost


def test_a_body_that_stops_ends_its_stream_alone(stage: Stage) -> None:
    client = Client(stage)
    client.give(headers(to(b"/p/x"), end=False) + data(b"ab", end=False))
    backend = stage.connected()
    stage.wait(4.0)
    client.give(data(b"c", end=False))
    stage.wait(4.0)
    assert 1 not in client.seen.replies
    stage.wait(2.1)
    assert code(client.seen) == (408, "request_timeout")
    assert backend.lost
    assert client.open()


def test_a_body_that_the_backend_does_not_take_is_not_slow(stage: Stage) -> None:
    client = Client(stage)
    client.give(headers(to(b"/p/x"), end=False))
    backend = stage.connected()
    backend.stuck = True
    for _ in range(5):
        client.give(data(LONG[:15_000], end=False))
    stage.wait(15.0)
    assert client.seen.replies[1].status == 0
    backend.take()
    stage.wait(4.0)  # its time begins where it was
    assert client.seen.replies[1].status == 0
    client.give(data(b"end"))
    assert backend.written.endswith(b"end\r\n0\r\n\r\n")
    backend.give(ok(b"late"))
    stage.turn()
    assert client.seen.replies[1].body == b"late"


def test_a_client_that_gives_no_window_loses_its_stream_alone(stage: Stage) -> None:
    client = Client(stage, HELLO + NO_WINDOW)
    client.give(headers(to(b"/p/x")))
    backend = stage.connected()
    backend.give(ok(LONG[:20_000]))
    stage.wait(4.0)
    assert client.seen.replies[1].reset == ""
    stage.wait(3.1)
    assert client.seen.replies[1].reset == "CANCEL"
    assert [outcome.status for outcome in stage.outcomes] == [200]  # it had left the backend whole
    client.give(settings((4, 65_535)))
    assert client.open()


def early(stage: Stage) -> Client:
    """A client that still sends when the response is out but for what its window does not permit."""
    client = Client(stage)
    client.give(headers(to(b"/p/x"), end=False) + data(b"ab", end=False))
    stage.connected().give(ok(LONG))
    stage.turn()
    assert len(client.seen.replies[1].body) == 65_535
    return client


def test_an_upload_behind_its_response_is_not_wanted_once_that_is_taken(stage: Stage) -> None:
    client = early(stage)
    client.give(data(b"cd", end=False))  # a reset would take what waits with it
    stage.wait(2.0)
    assert client.seen.replies[1].reset == ""
    client.give(frame(WINDOW_UPDATE, 0, 0, word(100_000)) + frame(WINDOW_UPDATE, 0, 1, word(100_000)))
    stage.wait(1.1)
    reply = client.seen.replies[1]
    assert (len(reply.body), reply.ended, reply.reset) == (len(LONG), True, "NO_ERROR")
    assert client.open()


def test_a_client_may_give_up_an_upload_behind_its_response(stage: Stage) -> None:
    client = early(stage)
    client.give(frame(RST_STREAM, 0, 1, word(8)) + frame(WINDOW_UPDATE, 0, 0, word(100_000)))
    assert [outcome.status for outcome in stage.outcomes] == [200]
    assert client.open()


def stuck(stage: Stage) -> tuple[Client, Transport]:
    """A client that reads nothing, and its backend, which has sent two thirds of the response."""
    client = Client(stage, HELLO + WIDE)
    client.transport.stuck = True
    client.give(headers(to(b"/p/x")))
    backend = stage.connected()
    head, _, _ = ok(LONG * 3).partition(b"x")
    backend.give(head + LONG)
    backend.give(LONG)
    return client, backend


def test_a_client_that_reads_nothing_holds_the_backend_back_and_is_cut(stage: Stage) -> None:
    client, backend = stuck(stage)
    assert not backend.reading
    assert not client.transport.reading
    stage.wait(4.0)
    assert not client.transport.lost
    stage.wait(3.1)
    assert client.transport.lost
    assert [(outcome.status, outcome.error) for outcome in stage.outcomes] == [(499, "client_left")]


def test_a_client_that_reads_again_gets_the_rest(stage: Stage) -> None:
    client, backend = stuck(stage)
    client.transport.take()
    assert client.transport.reading
    assert backend.reading
    backend.give(LONG)
    stage.turn()
    assert (len(client.seen.replies[1].body), client.seen.replies[1].ended) == (270_000, True)
    assert client.open()


def test_the_process_ends(stage: Stage) -> None:
    """What is not answered by then is told so; what is being answered is cut."""
    client = Client(stage)
    client.give(headers(to(b"/p/1")) + headers(to(b"/p/2"), 3))
    first, second = stage.connected(), stage.connected()
    first.give(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
    for _ in range(2):
        client.transport.protocol.shutdown()  # uvicorn may say so twice
    stage.wait(1.9)
    assert client.seen.goaways == [(2**31 - 1, "NO_ERROR"), (3, "NO_ERROR")]
    client.transport.protocol.end()
    stage.turn()
    assert (client.seen.replies[1].body, client.seen.replies[1].reset) == (b"part", "INTERNAL_ERROR")
    assert code(client.seen, 3) == (503, "draining")
    assert first.lost
    assert second.lost
    assert client.transport.lost
    assert {outcome.error for outcome in stage.outcomes} == {"draining"}


GRPC = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


def test_a_long_response_that_is_not_grpc_becomes_a_status(stage: Stage) -> None:
    client = Client(stage)
    client.give(headers(to(b"/p/x", *GRPC)))
    backend = stage.connected()
    backend.give(b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\n" + CHUNKED)
    for _ in range(3):
        backend.give(b"%x\r\n%b\r\n" % (len(LONG), LONG))
        assert not client.seen.replies.get(1)
    backend.give(b"0\r\nx: y\r\n\r\n")
    stage.turn()
    reply = client.seen.replies[1]
    fields = dict(reply.heads[0])
    assert (reply.status, reply.body, reply.ended, len(reply.heads)) == (200, b"", True, 1)
    assert fields[b"grpc-status"] == b"12"
    assert fields[b"grpc-message"] == b"the response is not gRPC (HTTP status 404)"
