"""The server's life: listen, load, serve, and on SIGTERM drain and exit 0."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from backends.api_servers.processes import ApiServers
from backends.app import MAX_BODY, App
from backends.batching.pending import MAX_PENDING_BYTES, PendingBytes
from backends.ensemble import EnsembleServed
from backends.errors import LoadError
from backends.http.listener import Listener
from backends.mlflow import MlflowRegistry, MlflowSource, first_sync, follow
from backends.registry import Registry
from backends.request_log import RequestLog, RequestLogSettings
from backends.served import Served
from backends.text.served import TextServed
from backends.threads import in_daemon

log = logging.getLogger("turnout.backend")

CLOSE_LIMIT_S: Final = 5.0
"""For models to finish their batches once no client waits any more."""


KINDS: Final[dict[str, type[Served]]] = {"pytorch_text": TextServed, "ensemble": EnsembleServed}


@dataclass(frozen=True, slots=True)
class Settings:
    """How the server runs; times in seconds, sizes in bytes."""

    models: Path
    host: str = "127.0.0.1"
    port: int = 9101
    api_servers: int = 1
    """Processes that speak HTTP; 1: this one does."""
    grpc_port: int | None = None
    """Where gRPC listens; None: it does not."""
    request_log: RequestLogSettings | None = None
    device: str = "auto"
    threads: int = 0
    """CPU threads per instance; 0: one for small models, else one per core."""
    control: bool = False
    """Whether the API may load and unload models."""
    max_body: int = MAX_BODY
    max_pending: int = MAX_PENDING_BYTES
    """Bytes of the requests that wait or run."""
    drain_delay: float = 0.5
    """From not ready to not listening."""
    drain_limit: float = 30.0
    """For requests in flight after that."""
    mlflow: MlflowSource | None = None
    """Where the models in `models` come from; None: they are there."""


class Server:
    """Everything that runs in the process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        pending = PendingBytes(settings.max_pending)
        self.registry = Registry(settings.models, settings.device, settings.threads, KINDS, pending)
        self.app = App(self.registry, control=settings.control, max_body=settings.max_body)
        self.listener = (
            Listener(self.app)
            if settings.api_servers == 1
            else ApiServers(self.app, settings.api_servers, settings.max_body, settings.max_pending)
        )
        self._stop = asyncio.Event()
        self._hurry = False
        self._failed = False

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        try:
            if self.settings.request_log is not None:
                self.registry.request_log = RequestLog(self.settings.request_log)
        except (OSError, ImportError) as error:
            hint = "; pip install 'turnout[export]'" if isinstance(error, ImportError) else ""
            log.error("the request log can't be opened: %s%s", error, hint)
            return 1
        try:
            address = await self.listener.start(self.settings.host, self.settings.port)
        except OSError as error:
            log.error("can't listen on %s:%d: %s", self.settings.host, self.settings.port, error.strerror)
            return 1
        # Listening comes first: "alive, not ready" is an answer, a refused connection is a riddle.
        log.info("listening on http://%s", address)
        try:
            stop_grpc = await self._start_grpc()
        except (OSError, LoadError) as error:
            log.error("%s", error)
            await self.listener.stop(0)
            return 1
        loading = loop.create_task(self._load())
        await self._stop.wait()
        limit = 0 if self._hurry else self.settings.drain_limit
        await asyncio.gather(self.listener.stop(limit), stop_grpc(limit))
        await self._close(loading)
        if self.registry.request_log is not None:
            self.registry.request_log.close()
        return 1 if self._failed else 0

    async def _start_grpc(self) -> Callable[[float], Awaitable[None]]:
        """Listens for gRPC if wanted; the function that ends it. Raises OSError, LoadError."""
        port = self.settings.grpc_port
        if port is None:
            return _nothing
        try:
            from backends.rpc.server import GrpcServer
        except ImportError as error:
            raise LoadError(f"--grpc-port needs {error.name}; pip install 'turnout[grpc]'") from None
        server = GrpcServer(self.registry, self.app.pages, lambda: self.app.draining, self.settings.max_body)
        log.info("gRPC on %s:%d", self.settings.host, await server.start(self.settings.host, port))
        return server.stop

    def _drain(self) -> None:
        """Begins the end; called again, it ends without waiting."""
        if self.app.draining:
            self._hurry = True
            self._stop.set()
            return
        log.info("draining")
        self.app.draining = True
        self.listener.drain()
        asyncio.get_running_loop().call_later(self.settings.drain_delay, self._stop.set)

    async def _load(self) -> None:
        try:
            await in_daemon("device", self._check_device)
            source = self.settings.mlflow
            if source is not None:
                mlflow = MlflowRegistry(source, self.settings.models)
                absent = await first_sync(mlflow, source.poll)
                await asyncio.gather(self._load_models(absent), follow(mlflow, self.registry, source.poll))
            else:
                await self._load_models({})
        except Exception as error:  # a library that can't be imported, too
            log.error("%s", error, exc_info=not isinstance(error, LoadError))
            self._failed = True
            self._stop.set()

    async def _load_models(self, absent: dict[str, str]) -> None:
        await self.registry.load_all(absent)
        self._check_redacted()
        log.info("ready" if not self.registry.faults else "not ready: some models could not be loaded")

    def _check_redacted(self) -> None:
        """Logs the names that redact nothing: a misspelt one would leave values in the request log."""
        if self.settings.request_log is None:
            return
        names = self.registry.tensor_names()
        for name in sorted(self.settings.request_log.redact - names):
            log.warning(
                "--request-log-redact %s redacts nothing: no model has such a tensor; they have %s",
                name,
                ", ".join(sorted(names)) or "none",
            )

    def _check_device(self) -> None:
        from backends.runtime.device import resolve

        log.info("models run on %s", resolve(self.settings.device))

    async def _close(self, loading: asyncio.Task[None]) -> None:
        loaded = not self.registry.loading
        loading.cancel()
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await asyncio.gather(loading, return_exceptions=True)
                await self.registry.close()
        except TimeoutError:
            log.error("a model is still busy; ending without it")
            logging.shutdown()
            if self.settings.mlflow is not None:
                shutil.rmtree(self.settings.models, ignore_errors=True)
            # The interpreter's own end can't be trusted with a thread inside a model. Only where models had
            # been loaded can a client be left without a response.
            os._exit(1 if loaded else 0)


async def _nothing(limit: float) -> None:
    """Ends what was not begun."""


def serve(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; the exit status."""

    async def run() -> int:
        return await Server(settings).run()

    return uvloop.run(run())
