"""Connections that rest, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from benchmarks.children import free_port
from gateway.transport.address import Address
from gateway.transport.endpoint import Endpoint
from gateway.transport.http2_address import Http2Address
from gateway.transport.probe import ProbeRequest, ProbeResult
from tests.http2.backend import Http2Backend
from tests.support.backend import CLOSE, RawBackend, ok
from tests.wire.test_tls import contexts

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


async def test_nothing_is_left_of_an_address_that_no_configuration_names_any_more(
    address: Address, backend: RawBackend
) -> None:
    backend.plans.append((0.05, ok()))
    asked = asyncio.create_task(ask(address))
    await until(lambda: backend.requests)
    address.close()
    assert (await asked).status == 200
    await until(lambda: not address.connections)


async def test_a_connection_in_http2_that_an_address_opens_after_its_end_is_closed() -> None:
    """A request that waited for one while the configuration changed left it open for good."""
    backend = Http2Backend()
    await backend.start()
    address = Http2Address(Endpoint("h2c", "127.0.0.1", backend.port), asyncio.get_running_loop())
    address.close()
    assert (await ask(address)).status == 200
    (connection,) = backend.connections
    await until(lambda: not connection.open)
    await backend.stop()


class SlowHandshakes:
    """A backend over TLS: the first connection is made immediately, others once `handshakes` is set."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.handshakes = asyncio.Event()
        self.responses = asyncio.Event()
        self.requests: list[int] = []
        """Of each request, the connection it came on."""
        self.accepted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast(
            "asyncio.Transport", writer.transport
        ).pause_reading()  # `start_tls` does not see what was read before
        number = self.accepted
        self.accepted += 1
        if number:
            await self.handshakes.wait()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await writer.start_tls(self._context)
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(number)
                await self.responses.wait()
                writer.write(ok())
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()
        self.accepted -= 1


Started = tuple[SlowHandshakes, Address]


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Started]:
    tls = contexts(tmp_path)
    backend = SlowHandshakes(tls.backend)
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address = Address(
        Endpoint("https", "127.0.0.1", port),
        asyncio.get_running_loop(),
        context=ssl.create_default_context(cafile=tmp_path / "ca.pem"),
        server_name="127.0.0.1",
    )
    yield backend, address
    address.close()
    server.close()
    backend.handshakes.set()
    backend.responses.set()
    await until(lambda: not address.connections and not backend.accepted)


def patient() -> ProbeRequest:
    """A request that any connection may serve."""
    request = ProbeRequest([GET])
    request.fresh = False
    return request


async def waiting(slow: Started) -> tuple[ProbeRequest, ProbeRequest]:
    """A request that is being served, and one that waits for its connection."""
    backend, address = slow
    first, second = patient(), patient()
    address.connect(first)
    await until(lambda: backend.requests)
    address.connect(second)
    await until(lambda: backend.accepted == 2)
    return first, second


async def test_a_connection_that_becomes_free_serves_who_waits_for_a_new_one(slow: Started) -> None:
    backend, address = slow
    first, second = await waiting(slow)
    backend.responses.set()
    assert [(await asyncio.wait_for(r.result, 30.0)).status for r in (first, second)] == [200, 200]
    assert backend.requests == [0, 0]
    backend.handshakes.set()
    await until(lambda: len(address.idle) == 2)  # the new one is there for others
    assert not address.waiting


async def test_a_connection_that_is_made_for_nobody_may_fail(slow: Started) -> None:
    backend, address = slow
    _, second = await waiting(slow)
    backend.responses.set()
    assert (await asyncio.wait_for(second.result, 30.0)).status == 200
    for task in tuple(address.connecting):
        task.cancel()
    await until(lambda: not address.connecting)
    assert (len(address.connections), address.waiting) == (1, {})


async def test_who_has_left_is_not_served(slow: Started) -> None:
    backend, address = slow
    await waiting(slow)
    (task,) = (t for t in address.connecting if not t.done())
    task.cancel()
    backend.responses.set()
    await until(lambda: address.idle)
    await until(lambda: not address.waiting)
    assert backend.requests == [0]


async def test_a_request_that_needs_a_new_connection_waits_for_it(slow: Started) -> None:
    backend, address = slow
    first, second = patient(), ProbeRequest([GET])
    address.connect(first)
    await until(lambda: backend.requests)
    address.connect(second)
    backend.responses.set()
    await until(lambda: address.idle)
    assert not second.result.done()
    backend.handshakes.set()
    assert (await asyncio.wait_for(second.result, 30.0)).status == 200
    assert backend.requests == [0, 1]
