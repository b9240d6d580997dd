"""HTTP/1.1 of the model server on raw sockets: framing, pipelines, slow clients, limits."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from backends.errors import InvalidInput, ServerError, TooLarge
from backends.http import connection, deadlines
from backends.http import listener as listener_module
from backends.http.listener import Listener
from backends.http.message import Request, Response
from backends.http.request_head import RequestHead
from tests.support.processes import ModelServerProcess

INFER = "/v2/models/digits/versions/1/infer"


class Echo:
    """Responds with method, target and body; ``/later`` waits for `release`."""

    def __init__(self) -> None:
        self.waiting: list[Request] = []
        self.left = 0

    def body_limit(self, head: RequestHead) -> int:
        return 100_000

    def too_large(self, head: RequestHead, limit: int) -> ServerError:
        return TooLarge("too large")

    def handle(self, request: Request) -> None:
        if request.head.target == b"/refused":
            raise InvalidInput("refused")
        if request.head.target == b"/broken":
            raise ZeroDivisionError
        if request.head.target == b"/later":
            request.abandon = self._count
            self.waiting.append(request)
            return
        if request.head.target.startswith(b"/stream"):
            request.start(((b"content-type", b"text/plain"),))
            for piece in (b"one", b"", b"two"):
                request.send(piece)
            request.end()
            return
        request.respond(Response(b"%b %b %b" % (request.head.method, request.head.target, request.body)))

    def _count(self) -> None:
        self.left += 1

    def release(self) -> None:
        while self.waiting:
            self.waiting.pop(0).respond(Response(b"released"))


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Echo, Listener, int]]:
    app = Echo()
    listener = Listener(app)
    address = await listener.start("127.0.0.1", 0)
    try:
        yield app, listener, int(address.rsplit(":")[1])
    finally:
        await listener.stop(0)


async def talk(port: int, *pieces: bytes, pause: float = 0.0, half_close: bool = False) -> bytes:
    """All that comes back for ``pieces``, until the server closes or 30 turns of 10 ms pass in silence: a process
    that is paused loses but one of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(pause)
    if half_close:
        writer.write_eof()
    answer, silent = b"", 0
    reading = asyncio.ensure_future(reader.read(65536))
    while silent < 30:
        await asyncio.wait({reading}, timeout=0.01)
        silent += 1
        if reading.done():
            if not reading.result():
                break
            answer, silent = answer + reading.result(), 0
            reading = asyncio.ensure_future(reader.read(65536))
    reading.cancel()
    writer.close()
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_pipeline_is_answered_in_order() -> None:
    async with echoing() as (app, _, port):
        asyncio.get_running_loop().call_later(0.1, app.release)
        answer = await talk(
            port, GET % b"/a" + GET % b"/later" + b"".join(GET % b"/%d" % n for n in range(2000))
        )
        assert statuses(answer) == [200] * 2002
        bodies = [part.split(b"HTTP/1.1")[0] for part in answer.split(b"\r\n\r\n")[1:]]
        assert bodies == [b"GET /a ", b"released", *[b"GET /%d " % n for n in range(2000)]]


async def test_a_request_in_single_bytes() -> None:
    async with echoing() as (_, _, port):
        text = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + GET % b"/q"
        answer = await talk(port, *(bytes([byte]) for byte in text))
        assert answer.endswith(b"GET /q ")
        assert b"POST /p abc" in answer


async def test_chunks_and_trailers() -> None:
    async with echoing() as (_, _, port):
        head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await talk(port, head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nhost: evil\r\n\r\n" + GET % b"/q")
        assert b"POST /p abcde" in answer
        assert statuses(answer) == [200, 200]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_request_to_upgrade_is_a_plain_one(size: int) -> None:
    """Java's HttpClient and `curl --http2` ask for h2c with every first request; llhttp would skip the body."""
    fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    start = b"POST /%b HTTP/1.1\r\nHost: x\r\n" + fields
    chunks = b"3\r\nabc\r\n2\r\nde\r\n0\r\nhost: evil\r\n\r\n"
    data = (
        (start + b"Content-Length: 39\r\n\r\n") % b"a"
        + GET % b"/smuggled-not"
        + (start + b"Transfer-Encoding: chunked\r\n\r\n") % b"b"
        + chunks
        + (start + b"\r\n") % b"c"
        + GET % b"/d"
        + (start.replace(b"Upgrade, ", b"Upgrade, close, ") + b"Content-Length: 2\r\n\r\nxy") % b"e"
    )
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    pieces[-1] += GET % b"/f"  # behind the last request: a later segment could be reset
    async with echoing() as (_, _, port):
        answer = await talk(port, *pieces)
        assert statuses(answer) == [200] * 5
        for part in (b"POST /a GET /smuggled-not", b"POST /b abcde", b"POST /c ", b"GET /d ", b"POST /e xy"):
            assert part in answer
        assert b"GET /f" not in answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Encoding: br\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n" + b"x" * 150_000, 413),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 90_000 + b"\r\n\r\n", 431),
        (b"nonsense\r\n\r\n", 400),
    ],
)
async def test_what_cannot_be_understood_ends_the_connection(head: bytes, status: int) -> None:
    async with echoing() as (_, _, port):
        answer = await talk(port, GET % b"/first" + head + GET % b"/smuggled")
        assert statuses(answer) == [200, status]
        assert b"smuggled" not in answer
        assert b"connection: close" in answer


async def test_errors_of_a_call_keep_the_connection() -> None:
    async with echoing() as (_, _, port):
        answer = await talk(port, GET % b"/refused" + GET % b"/broken" + GET % b"/a")
        assert statuses(answer) == [400, 500, 200]
        assert b"ZeroDivisionError" not in answer


async def test_head_and_old_clients() -> None:
    async with echoing() as (_, _, port):
        answer = await talk(port, b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", GET % b"/b")
        assert b"content-length: 8\r\n\r\nHTTP/1.1 200 OK" in answer
        answer = await talk(port, b"GET /a HTTP/1.0\r\n\r\n")
        assert b"connection: close" in answer
        answer = await talk(port, b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        assert answer.count(b"connection: keep-alive") == 2


async def test_a_client_that_waits_for_continue_gets_it() -> None:
    async with echoing() as (_, _, port):
        head = b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        answer = await talk(port, head % 3, b"abc", pause=0.1)
        assert statuses(answer) == [100, 200]
        assert statuses(await talk(port, head % 200_000)) == [413]


async def test_streams_are_chunked_and_end_with_the_connection_for_old_clients() -> None:
    async with echoing() as (_, _, port):
        answer = await talk(port, GET % b"/stream" + GET % b"/next")
        assert b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 200 OK" in answer
        assert (await talk(port, b"GET /stream HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nonetwo")


@pytest.mark.parametrize("half", [True, False])
async def test_a_client_that_leaves_is_heard_immediately(half: bool) -> None:
    async with echoing() as (app, _, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % b"/later")
        while not app.waiting:
            await asyncio.sleep(0.001)
        if half:
            writer.write_eof()
        else:
            writer.close()
        async with asyncio.timeout(60):
            while not app.left:
                await asyncio.sleep(0.005)
        assert app.left == 1
        app.release()  # goes nowhere, and raises nothing
        writer.close()


SLOW = {
    "no head": (b"", "IDLE_TIMEOUT_S", []),
    "half a head": (b"GET / HTTP/1.1\r\nHo", "HEAD_TIMEOUT_S", [408]),
    "half a body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", "BODY_GRACE_S", [408]),
    "nothing more": (GET % b"/a", "IDLE_TIMEOUT_S", [200]),
}


@pytest.mark.parametrize("case", SLOW)
async def test_slow_clients_are_ended(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    text, deadline, expected = SLOW[case]
    async with echoing() as (_, listener, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        async with asyncio.timeout(60):
            while not listener.connections:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        (one,) = listener.connections
        one.check(one.since + getattr(deadlines, deadline) - 0.1)
        assert not one.transport.is_closing()
        one.check(one.since + getattr(deadlines, deadline) + 0.1)
        assert statuses(await asyncio.wait_for(reader.read(), 60)) == expected
        writer.close()


async def test_a_client_that_reads_nothing_is_ended_and_held_back() -> None:
    async with echoing() as (_, listener, port):
        raw = socket.socket()
        with closing(raw):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(raw, ("127.0.0.1", port))
            request = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90_000
            sending = asyncio.create_task(loop.sock_sendall(raw, request * 200))
            await asyncio.sleep(0.5)
            (one,) = listener.connections
            assert one.transport.get_write_buffer_size() < 1_000_000, "no more is served than it takes"
            assert not sending.done()
            one.check(one.since + deadlines.WRITE_TIMEOUT_S + 1)
            await asyncio.sleep(0.05)
            assert not listener.connections
            with pytest.raises(OSError, match=r"reset|Broken"):
                await sending


async def test_too_many_connections_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with echoing() as (_, listener, port):
        listener._most = 2
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert statuses(await talk(port, GET % b"/a")) == [503]
        for _, writer in held:
            writer.write(GET % b"/b")
        for reader, writer in held:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()


async def test_a_request_on_its_way_when_the_server_stops_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "IDLE_GRACE_S", 60.0)
    listener = Listener(Echo())
    host, port = (await listener.start("127.0.0.1", 0)).split(":")
    used, fresh = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
    used[1].write(GET % b"/first")
    await asyncio.wait_for(used[0].readuntil(b"GET /first "), 60)
    stopping = asyncio.create_task(listener.stop(120))
    async with asyncio.timeout(60):
        while True:
            try:
                _, probe = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                break
            probe.close()
            await asyncio.sleep(0.01)
    for reader, writer in (used, fresh):
        writer.write(GET % b"/last")
        answer = await asyncio.wait_for(reader.read(), 60)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        writer.close()
    await asyncio.wait_for(stopping, 60)


async def test_unfinished_bodies_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_BUFFERED_BYTES", 50_000)
    async with echoing() as (_, listener, port):
        head = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"x" * 39_000)
        await asyncio.sleep(0.1)
        assert statuses(await talk(port, head + b"x" * 40_000)) == [503]
        writer.close()
        await asyncio.sleep(0.1)
        assert listener.buffered == 0
        assert statuses(await talk(port, head + b"x" * 40_000)) == [200]


@pytest.fixture
def raw(server: ModelServerProcess) -> Iterator[socket.socket]:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connected:
        yield connected


def infer_request(value: float, **more: Any) -> bytes:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": 256}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}, **more}).encode()
    body = head + struct.pack("<64f", *[value] * 64)
    return (
        b"POST %b HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n%b"
        % (INFER.encode(), len(head), len(body), body)
    )


def test_remembered_heads_give_the_same_bytes_as_the_first(raw: socket.socket) -> None:
    """The first response to a plan is rendered, later ones reuse its head: all must be equal but for data."""

    def ask(value: float, **more: Any) -> tuple[bytes, bytes]:
        raw.sendall(infer_request(value, **more))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += raw.recv(65536)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[-1].split(b"\r\n")[0])
        while len(body) < length:
            body += raw.recv(65536)
        return head, body

    first, other, again, named = ask(1.0), ask(9.0), ask(1.0), ask(1.0, id="q")
    assert first == again
    assert first[0] == other[0]
    assert first[1] != other[1]
    assert len(first[1]) == len(other[1])
    assert b'"id":"q"' in named[1]
    assert named[1].endswith(first[1][-48:])
