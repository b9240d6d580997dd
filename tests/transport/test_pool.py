"""Connections that rest, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.children import free_port
from gateway.transport.connection import Answer, BackendConnection
from gateway.transport.pool import Address, Endpoint
from tests.wire.backend import CLOSE, RawBackend, ok

GET = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"


class Asker:
    """A `User` that asks once and keeps what it hears."""

    def __init__(self) -> None:
        self.upgrade = b""
        self.heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.connection: BackendConnection | None = None
        self.answer: Answer | None = None
        self.data = b""

    def on_connected(self, connection: BackendConnection) -> None:
        self.connection = connection
        connection.begin(self, head=False)
        connection.transport.write(GET)
        connection.sent_whole = True

    def on_head(self, answer: Answer) -> None:
        self.answer = answer

    def on_data(self, data: bytes) -> None:
        self.data += data

    def on_end(self) -> None:
        assert self.answer is not None
        self.heard.set_result((self.answer.status, self.data))

    def on_failure(self, code: str, detail: str, *, fresh: bool) -> None:
        self.heard.set_result((code, fresh))

    def on_tunnel(self, answer: Answer, data: bytes) -> None:
        raise AssertionError("nobody asked for a tunnel")

    def on_interim(self, status: int, lines: list[bytes]) -> None: ...
    def flush(self) -> None: ...
    def pause_upload(self) -> None: ...
    def resume_upload(self) -> None: ...


@pytest.fixture
async def backend() -> AsyncIterator[RawBackend]:
    found = RawBackend(b"A")
    await found.start()
    yield found
    assert found.server is not None
    found.server.close()
    found.reset()
    await asyncio.sleep(0.01)


@pytest.fixture
async def address(backend: RawBackend) -> AsyncIterator[Address]:
    found = Address(Endpoint("http", "127.0.0.1", backend.port), asyncio.get_running_loop(), idle_limit=0.3)
    yield found
    found.close()


async def ask(address: Address) -> Any:
    asker = Asker()
    connection = address.resting()
    if connection is not None:
        asker.on_connected(connection)
    else:
        address.connect(asker)
    return await asyncio.wait_for(asker.heard, 5.0)


async def test_a_connection_rests_and_serves_again(address: Address, backend: RawBackend) -> None:
    for _ in range(5):
        assert (await ask(address))[0] == 200
    assert len(backend.connections) == 1
    assert len(address.idle) == len(address.all) == 1


async def test_last_in_first_out(address: Address, backend: RawBackend) -> None:
    """So that what is too many gets old and is closed."""
    for _ in range(3):
        backend.plans.append((0.05, ok()))
    await asyncio.gather(*(ask(address) for _ in range(3)))
    assert len(address.idle) == 3
    last = address.idle[-1]
    assert address.resting() is last


async def test_what_has_rested_too_long_is_swept(address: Address, backend: RawBackend) -> None:
    await ask(address)
    address.sweep()
    assert len(address.idle) == 1
    await asyncio.sleep(0.4)
    address.sweep()
    assert address.idle == []
    await asyncio.sleep(0.05)
    assert not backend.connections[0].open
    assert not address.all


async def test_what_has_rested_too_long_is_not_taken(address: Address, backend: RawBackend) -> None:
    await ask(address)
    await asyncio.sleep(0.4)
    await ask(address)
    assert len(backend.connections) == 2


async def test_no_more_than_so_many_rest(address: Address, backend: RawBackend) -> None:
    address.idle_most = 1
    for _ in range(3):
        backend.plans.append((0.05, ok()))
    await asyncio.gather(*(ask(address) for _ in range(3)))
    assert len(address.idle) == 1


async def test_connection_close_is_heeded(address: Address, backend: RawBackend) -> None:
    backend.plans.append((ok(b"", b"connection: close"),))
    assert (await ask(address))[0] == 200
    assert address.idle == []


async def test_a_connection_that_ends_is_forgotten(address: Address, backend: RawBackend) -> None:
    await ask(address)
    backend.connections[0].transport.close()
    await asyncio.sleep(0.05)
    assert (address.idle, address.all) == ([], set())


async def test_only_a_reused_connection_dies_of_the_idle_close_race(
    address: Address, backend: RawBackend
) -> None:
    backend.plans.append((CLOSE,))
    assert await ask(address) == ("backend_reset", False)
    await ask(address)
    backend.plans.append((CLOSE,))
    assert await ask(address) == ("backend_reset", True)


async def test_nothing_is_left_of_connections_that_are_never_made() -> None:
    dead = Address(Endpoint("http", "127.0.0.1", free_port()), asyncio.get_running_loop())
    for _ in range(50):
        code, fresh = await ask(dead)
        assert (code, fresh) == ("backend_connect", False)
    await asyncio.sleep(0)
    assert (dead.all, dead.idle, dead.connecting) == (set(), [], set())


async def test_nothing_is_left_of_a_connect_that_is_called_off(address: Address) -> None:
    asker = Asker()
    task = address.connect(asker)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert (address.all, address.connecting) == (set(), set())
    assert not asker.heard.done()
