"""A real gateway between raw sockets: it and its backends on one event loop in a thread."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import uvloop

from gateway.config.source import Source
from gateway.dataplane.client.protocol import ClientProtocol
from gateway.dataplane.shadow.dispatcher import ShadowDispatcher
from gateway.dataplane.worker import Worker
from gateway.runtime.loop_load import Load
from gateway.server import compose
from gateway.transport.http2_address import Http2Address
from tests.support.backend import RawBackend
from tests.support.client import PATIENCE, Client

T = TypeVar("T")


def calm(folder: Path) -> Load:
    """What else the machine does while tests run is no load on the gateway: the kernel's account never moves."""
    load = Load()
    load._file = folder / "schedstat"
    load._file.write_text("0 0 0\n")
    return load


class Backend(Protocol):
    """A server of connections that a test can end."""

    def reset(self) -> None: ...


class GatewayThread:
    """Started once a module; `fresh` between tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.raw: list[RawBackend] = []
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.errors: list[dict[str, Any]] = []
        """What callbacks raised since the last `fresh`."""
        self._clients: list[Client] = []

    # Life -------------------------------------------------------------------------------------------
    def start(self) -> None:
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.thread.start()
        self.run(self._start())

    async def _start(self) -> None:
        """Starts `raw`, then calls `_serve`."""
        raise NotImplementedError

    async def _serve(self, config: str, *, context: ssl.SSLContext | None = None) -> None:
        self.path = self.folder / "turnout.yaml"
        self.path.write_text(config)
        self.gateway = await compose(Source(self.path))
        self.worker.load = calm(self.folder)  # compiled classes have no subclasses here
        self.server = await self.loop.create_server(
            lambda: ClientProtocol(self.worker), "127.0.0.1", 0, backlog=1024, ssl=context
        )
        self.port: int = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    @property
    def worker(self) -> Worker:
        return self.gateway.worker

    @property
    def shadow(self) -> ShadowDispatcher:
        assert isinstance(self.worker.shadow, ShadowDispatcher)
        return self.worker.shadow

    @property
    def connections(self) -> list[ClientProtocol]:
        """The clients' connections."""
        return [each for each in self.worker.connections if isinstance(each, ClientProtocol)]

    def stop(self) -> None:
        self._close_clients()
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()

    async def _stop(self) -> None:
        self.server.close()
        for backend in self.raw:
            assert backend.server is not None
            backend.server.close()
            backend.reset()
        await self.gateway.stop()
        await asyncio.sleep(0.02)

    # Into the loop ----------------------------------------------------------------------------------
    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE * 4)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls it on the loop's thread."""

        async def work() -> T:
            return function(*arguments)

        return self.run(work())

    def settle(self) -> None:
        """A few turns of the loop: what is on its way within this machine has arrived."""
        self.run(_turns())

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Waits, on the loop's thread, until ``condition`` holds; AssertionError if it never does."""

        async def wait() -> None:
            end = self.loop.time() + seconds
            while not condition():
                assert self.loop.time() < end, "it did not come about"
                await asyncio.sleep(0.001)

        self.run(wait())

    def disconnect(self, backend: Backend) -> None:
        """Ends the connections of ``backend`` and of our own, and waits until the gateway has seen it."""
        for each in (backend, *self.raw):
            self.call(each.reset)
        self.until(self._disconnected)

    def _disconnected(self) -> bool:
        return not any(
            address.connections or (isinstance(address, Http2Address) and address.sessions.all)
            for address in self.gateway.registry.addresses.values()
        )

    # Between tests ----------------------------------------------------------------------------------
    def fresh(self) -> None:
        """Nothing in flight, no connection, nothing recorded."""
        self._close_clients()

        async def drop() -> None:
            for connection in tuple(self.worker.connections):
                connection.transport.abort()
            for backend in self.raw:
                backend.plans = deque()
                backend.reset()
            await _turns()

        self.run(drop())
        registry = self.gateway.registry
        self.until(lambda: not any(a.connections for a in registry.addresses.values()))
        self.until(lambda: not self.worker.active and not self.shadow.comparing)
        self.errors.clear()

    def clean(self) -> None:
        """Asserts that nothing is left in flight anywhere and that no callback raised."""
        registry = self.gateway.registry
        self.until(lambda: not self.worker.active)
        for address in registry.addresses.values():
            assert address.in_flight == 0, address.name
            assert address.stragglers == 0, address.name
            assert all(c.handler is None for c in address.connections), "a connection still has a handler"
        self.until(lambda: not any(address.connecting for address in registry.addresses.values()))
        for name, limiter in registry.limiters.items():
            assert limiter.in_flight == 0, name
            assert limiter.retrying == 0, name
            assert not limiter.waiting
        shadow = self.shadow
        assert (shadow.waiting, shadow.running, shadow.held) == (0, 0, 0)
        assert not self.errors, self.errors

    def client(self, **options: Any) -> Client:
        """A connection to the gateway; closed by the next `fresh` where a test that fails does not."""
        self._clients.append(Client(self.port, **options))
        return self._clients[-1]

    def _close_clients(self) -> None:
        for client in self._clients:
            client.socket.close()
        self._clients.clear()


async def _turns() -> None:
    for _ in range(8):
        await asyncio.sleep(0)
