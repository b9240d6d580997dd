"""WebSockets: once the backend has switched protocols, bytes pass both ways unread, with back-pressure."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.support.backend import CLOSE, HOLD, RESET, Step
from tests.wire.rig import SOON, Rig

RIG = {"limits": "idle_timeout: 2s, write_timeout: 2s"}

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nx-decision-id: forged\r\n\r\n"
)


def upgrade(target: bytes = b"/p/ws", *lines: bytes) -> bytes:
    extra = b"".join(line + b"\r\n" for line in lines)
    return (
        b"GET %b HTTP/1.1\r\nhost: gateway.test\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n%b\r\n"
        % (target, extra)
    )


def test_bytes_pass_both_ways(rig: Rig) -> None:
    rig.a.plans.append([SWITCH])
    with rig.client() as client:
        client.send(upgrade())
        answer = client.answer()
        assert answer.status == 101
        assert answer.all("upgrade") == [b"websocket"]
        assert answer.all("connection") == [b"upgrade"]
        assert answer.all("sec-websocket-accept") == [b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
        assert len(answer.all("x-decision-id")) == 1
        assert answer.all("x-decision-id") != [b"forged"]
        assert answer.all("x-variant") == [b"v1"]
        (backend,) = rig.a.connections
        everything = bytes(range(256)) * 4
        client.send(everything)
        rig.until(lambda: backend.raw.endswith(everything))
        rig.call(backend.transport.write, everything)
        assert client._exactly(1024) == everything
    rig.until(lambda: not backend.open)
    request = rig.requests[0]
    assert request.all("connection") == [b"upgrade"]
    assert request.all("upgrade") == [b"websocket"]
    assert request.all("sec-websocket-key") == [b"dGhlIHNhbXBsZSBub25jZQ=="]


def test_bytes_sent_before_the_switch_arrive_after_it(rig: Rig) -> None:
    """They are neither parsed (they may look like a request) nor lost, on either side."""
    early = b"GET /p/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    rig.a.plans.append([0.03, SWITCH + b"at once"])
    with rig.client() as client:
        client.send(upgrade() + early, 0.01, b"and more")
        assert client.answer().status == 101
        assert client._exactly(7) == b"at once"
        (backend,) = rig.a.connections
        rig.until(lambda: backend.raw.endswith(early + b"and more"))
    assert len(rig.requests) == 1


def test_nothing_reaches_the_backend_before_it_has_switched(rig: Rig) -> None:
    rig.a.plans.append([HOLD, SWITCH])
    with rig.client() as client:
        client.send(upgrade(), 0.01, b"x" * 1000)
        rig.until(lambda: rig.requests)
        rig.settle()
        assert b"xxx" not in rig.a.connections[0].raw
        rig.call(rig.a.released.set)
        assert client.answer().status == 101
        rig.until(lambda: rig.a.connections[0].raw.endswith(b"x" * 1000))


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_the_backends_end_ends_the_client(rig: Rig, end: str) -> None:
    rig.a.plans.append([SWITCH + b"bye", 0.01, end])
    with rig.client() as client:
        client.send(upgrade())
        assert client.answer().status == 101
        assert client._exactly(3) == b"bye"
        assert client.at_end()


def test_what_the_client_sent_last_still_arrives(rig: Rig) -> None:
    rig.a.plans.append([SWITCH])
    with rig.client() as client:
        client.send(upgrade())
        assert client.answer().status == 101
        (backend,) = rig.a.connections
        client.send(b"last words" * 1000)
    rig.until(lambda: not backend.open)
    assert backend.raw.endswith(b"last words" * 1000)


def test_a_client_that_resets_ends_the_backend(rig: Rig) -> None:
    rig.a.plans.append([SWITCH])
    client = rig.client()
    client.send(upgrade(b"/large/ws"))
    assert client.answer().status == 101
    client.reset()
    rig.until(lambda: not rig.a.connections[0].open, SOON)


WRONG: dict[str, list[Step]] = {
    "other-protocol": [b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"],
    "no-upgrade": [b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n"],
    "no-connection": [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"],
    "bare": [b"HTTP/1.1 101 Switching Protocols\r\n\r\n"],
    "with-length": [
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 3\r\n\r\nabc"
    ],
    "chunked": [
        b"HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ],
    "closed": [CLOSE],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_switch_that_is_none(rig: Rig, name: str) -> None:
    """502, and what was held behind the upgrade is the next request."""
    rig.a.plans.append(WRONG[name])
    with rig.client() as client:
        client.send(upgrade() + b"GET /p/next HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = client.answer()
        assert answer.status == 502
        assert answer.code in ("backend_protocol", "backend_reset")
        assert client.answer().body == b"A|GET|/p/next|0"
    rig.until(lambda: not rig.a.connections[0].open)


def test_a_switch_by_the_fallback(rig: Rig) -> None:
    rig.a.plans.append([CLOSE])
    rig.b.plans.append([SWITCH])
    with rig.client() as client:
        client.send(upgrade(b"/fall/ws"))
        answer = client.answer()
        assert (answer.status, answer.all("x-variant")) == (101, [b"v2"])


@pytest.mark.slow
def test_a_silent_tunnel_ends(rig: Rig) -> None:
    """A peer that vanished without a word would hold it for ever; a ping now and then keeps it."""
    rig.a.plans.append([SWITCH])
    with rig.client() as client:
        client.send(upgrade())
        assert client.answer().status == 101
        for _ in range(4):
            client.send(0.8, b"ping")
        assert client.quiet()
        assert rig.a.connections[0].open
        assert client.at_end()
    rig.until(lambda: not rig.a.connections[0].open)


@pytest.mark.slow
def test_a_client_that_reads_nothing_holds_the_backend_back(rig: Rig) -> None:
    rig.a.plans.append([SWITCH])
    with rig.client(receive_buffer=4096) as client:
        client.send(upgrade())
        assert client.answer().status == 101
        (backend,) = rig.a.connections
        rig.call(backend.transport.write, b"x" * (64 << 20))
        (connection,) = rig.connections
        rig.until(lambda: connection.write_paused)
        rig.settle()
        assert connection.transport.get_write_buffer_size() < 1 << 20
        assert rig.call(backend.transport.get_write_buffer_size) > 32 << 20
        rig.until(lambda: not backend.open)  # and taking nothing for long ends it
    rig.fresh()


def test_a_backend_that_reads_nothing_holds_the_client_back(rig: Rig) -> None:
    rig.a.plans.append([SWITCH])
    with rig.client() as client:
        client.send(upgrade())
        assert client.answer().status == 101
        (backend,) = rig.a.connections
        rig.call(backend.transport.pause_reading)
        client.socket.settimeout(0.3)
        sent = 0
        try:
            while sent < 256 << 20:
                sent += client.socket.send(b"x" * 65536)
        except TimeoutError:
            pass
        assert sent < 64 << 20
        (connection,) = rig.connections
        assert connection.pauses
        rig.call(backend.transport.resume_reading)
        rig.until(lambda: len(backend.raw) > sent, 10)
    rig.until(lambda: not backend.open)


# A real server and a real client ------------------------------------------------------------------------
async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


@asynccontextmanager
async def real_server(rig: Rig) -> AsyncIterator[str]:
    """An echo server behind the route /p: the rig's backend passes its connections on to it."""
    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        endpoint = next(a for (e, _), a in rig.gateway.registry.addresses.items() if e.port == rig.a.port)
        before = endpoint.endpoint
        rig.call(setattr, endpoint, "endpoint", type(before)(before.scheme, before.host, port, before.tls))
        try:
            yield f"ws://127.0.0.1:{rig.port}/p/echo"
        finally:
            rig.call(setattr, endpoint, "endpoint", before)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_real_websocket(rig: Rig, compression: str | None) -> None:
    async with real_server(rig) as url, connect(url, compression=compression, max_size=None) as socket:
        for size in (0, 1, 125, 126, 65535, 65536, 3_000_000):
            message = os.urandom(size)
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send("text: é")
        assert await socket.recv() == "text: é"
        await (await socket.ping())


async def test_many_real_websockets_at_once(rig: Rig) -> None:
    async def one(url: str, number: int) -> None:
        async with connect(url, max_size=None) as socket:
            for turn in range(20):
                message = hashlib.sha256(b"%d %d" % (number, turn)).digest() * (turn * 50)
                await socket.send(message)
                assert await socket.recv() == message

    async with real_server(rig) as url:
        await asyncio.gather(*(one(url, number) for number in range(20)))
