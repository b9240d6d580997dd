"""Connections that rest, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from benchmarks.children import free_port
from gateway.transport.address import Address
from gateway.transport.endpoint import Endpoint
from gateway.transport.probe import ProbeRequest, ProbeResult
from tests.support.backend import CLOSE, RawBackend, ok

GET = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"


@pytest.fixture
async def backend() -> AsyncIterator[RawBackend]:
    found = RawBackend(b"A")
    await found.start()
    yield found
    assert found.server is not None
    found.server.close()
    found.reset()
    await asyncio.sleep(0.01)


class Clock:
    """The time by which connections count as idle; it only moves when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def address(backend: RawBackend, clock: Clock) -> AsyncIterator[Address]:
    found = Address(Endpoint("http", "127.0.0.1", backend.port), asyncio.get_running_loop(), idle_timeout=0.3)
    found.time = clock
    yield found
    found.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30.0):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(address: Address) -> ProbeResult:
    """The product's own probe, which lets its connection serve again because the response ends with its head."""
    request = ProbeRequest([GET])
    connection = address.take_idle()
    if connection is not None:
        request.on_connected(connection)
    else:
        address.connect(request)
    return await asyncio.wait_for(request.result, 30.0)


async def test_a_connection_rests_and_serves_again(address: Address, backend: RawBackend) -> None:
    for _ in range(5):
        assert (await ask(address)).status == 200
    assert len(backend.connections) == 1
    assert len(address.idle) == len(address.connections) == 1


async def test_last_in_first_out(address: Address, backend: RawBackend) -> None:
    """So that what is too many gets old and is closed."""
    for _ in range(3):
        backend.plans.append((0.05, ok()))
    await asyncio.gather(*(ask(address) for _ in range(3)))
    assert len(address.idle) == 3
    last = address.idle[-1]
    assert address.take_idle() is last


async def test_what_has_rested_too_long_is_swept(address: Address, backend: RawBackend, clock: Clock) -> None:
    await ask(address)
    address.sweep()
    assert len(address.idle) == 1
    clock.now = 0.4
    address.sweep()
    assert address.idle == []
    await until(lambda: not backend.connections[0].open)
    await until(lambda: not address.connections)


async def test_what_has_rested_too_long_is_not_taken(
    address: Address, backend: RawBackend, clock: Clock
) -> None:
    await ask(address)
    clock.now = 0.4
    await ask(address)
    assert len(backend.connections) == 2


async def test_no_more_than_so_many_rest(address: Address, backend: RawBackend) -> None:
    address.max_idle = 1
    for _ in range(3):
        backend.plans.append((0.05, ok()))
    await asyncio.gather(*(ask(address) for _ in range(3)))
    assert len(address.idle) == 1


async def test_connection_close_is_heeded(address: Address, backend: RawBackend) -> None:
    backend.plans.append((ok(b"", b"connection: close"),))
    assert (await ask(address)).status == 200
    assert address.idle == []


async def test_a_connection_that_ends_is_forgotten(address: Address, backend: RawBackend) -> None:
    await ask(address)
    backend.connections[0].transport.close()
    await until(lambda: (address.idle, address.connections) == ([], set()))


async def test_only_a_reused_connection_dies_of_the_idle_close_race(
    address: Address, backend: RawBackend
) -> None:
    backend.plans.append((CLOSE,))
    assert (await ask(address))[1::2] == ("backend_reset", False)
    await ask(address)
    backend.plans.append((CLOSE,))
    assert (await ask(address))[1::2] == ("backend_reset", True)


async def test_nothing_is_left_of_connections_that_are_never_made() -> None:
    dead = Address(Endpoint("http", "127.0.0.1", free_port()), asyncio.get_running_loop())
    for _ in range(50):
        assert (await ask(dead)).code == "backend_connect"
    await until(lambda: (dead.connections, dead.idle, dead.connecting) == (set(), [], set()))


async def test_nothing_is_left_of_a_connect_that_is_called_off(address: Address) -> None:
    request = ProbeRequest([GET])
    task = address.connect(request)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: (address.connections, address.connecting) == (set(), set()))
    assert not request.result.done()
