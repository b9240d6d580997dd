"""The server's life: listen, load, serve, and on SIGTERM drain and exit 0."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from backends.app import MAX_BODY, App
from backends.errors import LoadError
from backends.protocol import Protocol
from backends.registry import Registry

log = logging.getLogger("turnout.backend")

_CLOSE_LIMIT: Final = 5.0
"""Seconds that models get to finish their batches once no client waits any more."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the server runs; times in seconds, sizes in bytes."""

    models: Path
    host: str = "127.0.0.1"
    port: int = 9101
    device: str = "auto"
    threads: int = 0
    """CPU threads per instance; 0: one for small models, else one per core."""
    control: bool = False
    """Whether the API may load and unload models."""
    max_body: int = MAX_BODY
    drain_delay: float = 0.5
    """How long the server answers as before, but says that it is not ready, before it stops listening."""
    drain_limit: float = 30.0
    """How long requests in flight may then take."""


class Server(uvicorn.Server):
    """uvicorn's, which would leave at once on SIGTERM, and with the signal's exit status instead of 0."""

    def __init__(self, config: uvicorn.Config, app: App, drain_delay: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_delay = drain_delay
        self.listening = asyncio.Event()
        self.failed = False
        """Whether the server ends because it could not do what it was told to."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.drain)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def drain(self) -> None:
        """Begins the end; called again, it ends without waiting."""
        if self._app.draining:
            self.force_exit = self.should_exit = True
            return
        log.info("draining")
        self._app.draining = True
        asyncio.get_running_loop().call_later(self._drain_delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def serve(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; the exit status."""
    return uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    registry = Registry(settings.models, settings.device, settings.threads)
    app = App(registry, control=settings.control, max_body=settings.max_body)
    server = Server(_uvicorn_config(app, settings), app, settings.drain_delay)
    loading = asyncio.create_task(_load(registry, server, settings))
    try:
        await server.serve()
    except SystemExit:  # uvicorn's way to say that the address can't be had; it has logged why
        return 1
    finally:
        await _close(registry, loading)
    return 1 if server.failed else 0


async def _close(registry: Registry, loading: asyncio.Task[None]) -> None:
    loaded = not registry.loading
    loading.cancel()
    try:
        async with asyncio.timeout(_CLOSE_LIMIT):
            await asyncio.gather(loading, return_exceptions=True)
            await registry.close()
    except TimeoutError:
        log.error("a model is still busy; ending without it")
        logging.shutdown()
        # The interpreter's own end can't be trusted with a thread inside a model. Only where models had been
        # loaded can somebody be left without an answer.
        os._exit(1 if loaded else 0)


async def _load(registry: Registry, server: Server, settings: Settings) -> None:
    # Listening comes first: "alive, not ready" is an answer, a refused connection is a riddle.
    await server.listening.wait()
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    log.info("listening on http://%s:%d", host, port)
    try:
        await asyncio.to_thread(_check_device, settings.device)
        await registry.load_all()
    except LoadError as error:
        log.error("%s", error)
        server.failed = server.should_exit = True
        return
    log.info("ready" if not registry.faults else "not ready: some models could not be loaded")


def _check_device(device: str) -> None:
    from backends.runtime.device import resolve

    log.info("models run on %s", resolve(device))


def _uvicorn_config(app: App, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="none",
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.drain_limit),
        backlog=1024,
    )
