"""A real gateway between raw sockets: the gateway and two recording backends on one event loop in a thread."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from gateway.config.source import Source
from gateway.dataplane.client.protocol import ClientProtocol
from gateway.dataplane.worker import Worker
from gateway.server import compose
from tests.wire.backend import Connection, RawBackend, Request
from tests.wire.client import PATIENCE, Client

T = TypeVar("T")

CONFIG = """\
listen: 127.0.0.1:0
store: sqlite:///{folder}/turnout.db
loops: {{allocation: 1h, watch: 1h}}
{limits}
{top}
backends:
  a: {{url: "http://127.0.0.1:{a}", ejection: null}}
  b: {{url: "http://127.0.0.1:{b}", ejection: null}}
  based: {{url: "http://127.0.0.1:{a}/base", ejection: null}}
  kept: {{url: "http://127.0.0.1:{a}", ejection: null, host: preserve, headers: {{x-added: "1"}}}}
  dead: {{url: "http://127.0.0.1:9", ejection: null}}
  silent: {{url: "http://127.0.0.1:{silent}", ejection: null}}
  narrow: {{url: "http://127.0.0.1:{a}", ejection: null, limit: {{in_flight: 1, waiting: 4, wait: 3s}}}}
{backends}
routes:
  plain:
    match: {{path: /p}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    body_limit: 1MiB
    timeouts: {{connect: 1s, first_byte: 3s, idle: 3s, total: 20s}}
  small:
    match: {{path: /small}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    body_limit: 1000B
  large:
    match: {{path: /large}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    body_limit: 1GiB
    timeouts: {{total: null}}
  silent:
    match: {{path: /silent}}
    variants: {{v1: {{backend: silent}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    body_limit: 1GiB
    timeouts: {{connect: 3s}}
  narrow:
    match: {{path: /narrow}}
    variants: {{v1: {{backend: narrow}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    body_limit: 1GiB
  fall:
    match: {{path: /fall}}
    variants: {{v1: {{backend: a}}, v2: {{backend: b}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    fallback: [v2]
  fixed:
    match: {{path: /fixed}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    fallback: [{{respond: {{status: 200, json: {{fixed: true}}}}}}]
  replay:
    match: {{path: /replay}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 3, replayable: true, backoff: {{base: 5ms, max: 5ms}}}}
  rewritten:
    match: {{path: /rewritten}}
    variants: {{v1: {{backend: a, rewrite: {{path: /inner}}}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
  based:
    match: {{path: /b}}
    variants: {{v1: {{backend: based}}}}
    policy: {{type: single, variant: v1}}
  kept:
    match: {{path: /kept}}
    variants: {{v1: {{backend: kept}}}}
    policy: {{type: single, variant: v1}}
  units:
    match: {{path: /units}}
    unit: {{header: x-user-id}}
    variants: {{v1: {{backend: a}}, v2: {{backend: b}}}}
    policy: {{type: split, weights: {{v1: 1, v2: 1}}}}
  dead:
    match: {{path: /dead}}
    variants: {{v1: {{backend: dead}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
{routes}
"""


@dataclass(frozen=True)
class Tls:
    gateway: ssl.SSLContext
    backend: ssl.SSLContext
    client: ssl.SSLContext


class Rig:
    """Started once a module; `fresh` between tests."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: str = "",
        top: str = "",
        routes: str = "",
        backends: str = "",
        tls: Callable[[Path], Tls] | None = None,
    ) -> None:
        """``backends`` may name FOLDER and PORT, that of the backend "b".

        ``tls`` makes certificates: the gateway and the backend "b" then speak TLS.
        """
        self.folder = folder
        self.tls = tls(folder) if tls is not None else None
        self.limits, self.top, self.routes, self.backends = limits, top, routes, backends
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.errors: list[dict[str, Any]] = []

    # Life -------------------------------------------------------------------------------------------
    def start(self) -> None:
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.thread.start()
        self.run(self._start())

    async def _start(self) -> None:
        self.a, self.b = RawBackend(b"A"), RawBackend(b"B")
        await self.a.start()
        await self.b.start(self.tls.backend if self.tls is not None else None)
        self._silence()
        path = self.folder / "turnout.yaml"
        limits = f"limits: {{{self.limits}}}" if self.limits else ""
        path.write_text(
            CONFIG.format(
                folder=self.folder,
                limits=limits,
                top=self.top,
                routes=self.routes,
                backends=self.backends.replace("PORT", str(self.b.port)).replace("FOLDER", str(self.folder)),
                a=self.a.port,
                b=self.b.port,
                silent=self.silent.getsockname()[1],
            )
        )
        self.gateway = await compose(Source(path))
        self.server = await self.loop.create_server(
            self._protocol,
            "127.0.0.1",
            0,
            backlog=1024,
            ssl=self.tls.gateway if self.tls is not None else None,
        )
        self.port: int = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    def _silence(self) -> None:
        """A port that never completes a connection: its queue is full and nobody accepts."""
        self.silent = socket.socket()
        self.silent.bind(("127.0.0.1", 0))
        self.silent.listen(0)
        self.stuffing = [socket.socket() for _ in range(3)]
        for each in self.stuffing:
            each.setblocking(False)
            each.connect_ex(self.silent.getsockname())

    def _protocol(self) -> ClientProtocol:
        return ClientProtocol(self.worker)

    @property
    def worker(self) -> Worker:
        return self.gateway.worker

    def stop(self) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()

    async def _stop(self) -> None:
        self.server.close()
        for backend in (self.a, self.b):
            assert backend.server is not None
            backend.server.close()
            backend.reset()
        await self.gateway.stop()
        for each in (self.silent, *self.stuffing):
            each.close()
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

        async def turns() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.run(turns())

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Waits, on the loop's thread, until ``condition`` holds; AssertionError if it never does."""

        async def wait() -> None:
            end = self.loop.time() + seconds
            while not condition():
                assert self.loop.time() < end, "it did not come about"
                await asyncio.sleep(0.001)

        self.run(wait())

    # What tests ask ---------------------------------------------------------------------------------
    def fresh(self) -> None:
        """Nothing in flight, no connection, nothing recorded."""

        async def work() -> None:
            for connection in tuple(self.worker.connections):
                connection.transport.abort()
            self.a.reset()
            self.b.reset()
            for _ in range(8):
                await asyncio.sleep(0)

        self.run(work())
        self.until(lambda: not any(a.connections for a in self.gateway.registry.addresses.values()))
        self.errors.clear()

    def clean(self) -> None:
        """Asserts that nothing is left in flight anywhere and that no callback raised."""
        self.until(lambda: not self.worker.active)
        registry = self.gateway.registry
        for address in registry.addresses.values():
            assert address.in_flight == 0, address.name
            assert all(c.handler is None for c in address.connections), "a connection still has a handler"
            assert not address.connecting
        for name, limiter in registry.limiters.items():
            assert limiter.in_flight == 0, name
            assert not limiter.waiting
        assert not self.errors, self.errors

    def client(self, **options: Any) -> Client:
        return Client(self.port, **options)

    def secure_client(self) -> Client:
        assert self.tls is not None
        return Client(self.port, context=self.tls.client)

    @property
    def requests(self) -> list[Request]:
        return self.a.requests

    def outcomes(self) -> list[Any]:
        """What was recorded since the last call."""
        raise NotImplementedError


__all__ = ["Awaitable", "Connection", "Rig"]
