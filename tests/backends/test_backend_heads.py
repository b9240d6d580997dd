"""Whatever the pieces in which bytes arrive, they mean what the parser says, and cost what they weigh."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ServerError, TooLarge
from backends.http.connection import Connection
from backends.http.listener import Listener
from backends.http.message import Request, Response
from backends.http.request_head import MAX_KNOWN_HEAD_BYTES, MAX_KNOWN_HEADS, KnownHeads, RequestHead

PLAIN = b"POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
PIECES = (
    PLAIN + b"hello",
    PLAIN + b"\r\n\r\nx",
    PLAIN,
    b"hello",
    b"GET /get HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD /get HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /half HTTP/1.1\r\nHost: x\r\nX-Rest: ",
    b"1\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"\r\n",
    b"\r\n\r\n",
)


class Echo:
    """Responds with method, target and body."""

    def body_limit(self, head: RequestHead) -> int:
        return 100_000

    def too_large(self, head: RequestHead, limit: int) -> ServerError:
        return TooLarge("too large")

    def handle(self, request: Request) -> None:
        request.respond(Response(b"%b %b %b" % (request.head.method, request.head.target, request.body)))


class Written:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.data += data

    def write_eof(self) -> None:
        self.closed = True

    close = write_eof

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed


class NoHeads(KnownHeads):
    """Knows none, so that the parser reads everything."""

    def add(self, data: bytes, head: RequestHead) -> None:
        pass


async def served(listener: Listener, pieces: list[bytes]) -> tuple[bytes, bool]:
    transport = Written()
    connection = Connection(listener)
    connection.connection_made(cast("asyncio.Transport", transport))
    for piece in pieces:
        connection.data_received(piece)
        await asyncio.sleep(0)
    return transport.data, transport.closed


@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map(b"".join), max_size=6))
def test_known_heads_change_no_response(pieces: list[bytes]) -> None:
    async def both() -> None:
        known, unknown = Listener(Echo()), Listener(Echo())
        unknown.heads = NoHeads()
        wanted = await served(unknown, pieces)
        for _ in range(3):
            assert await served(known, pieces) == wanted

    asyncio.run(both())


def test_a_repeated_request_is_not_parsed_again() -> None:
    heads, head = KnownHeads(), RequestHead()
    head.length = 5
    heads.add(PLAIN + b"hello", head)
    assert heads.find(PLAIN + b"again") == (head, b"again")
    assert heads.find(PLAIN + b"hello!") is None
    assert heads.find(PLAIN) is None


def test_known_heads_are_bounded_in_number_and_size() -> None:
    heads, head = KnownHeads(), RequestHead()
    for number in range(2 * MAX_KNOWN_HEADS):
        heads.add(b"GET /%d HTTP/1.1\r\n\r\n" % number, head)
    assert 0 < len(heads) <= MAX_KNOWN_HEADS
    long = b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * MAX_KNOWN_HEAD_BYTES)
    heads.add(long, head)
    assert heads.find(long) is None


async def test_a_body_in_tiny_chunks_takes_the_memory_of_its_bytes() -> None:
    """Each chunk was an object of its own: 16 MB in chunks of two bytes took 435 MB."""
    connection, transport = Connection(Listener(Echo())), Written()
    connection.connection_made(cast("asyncio.Transport", transport))
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    try:
        for _ in range(450):
            connection.data_received(b"2\r\nxy\r\n" * 100)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 400_000
    connection.data_received(b"0\r\n\r\n")
    assert transport.data.endswith(b"POST / " + b"xy" * 45_000)
