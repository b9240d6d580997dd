"""A gateway process on its sockets: uvicorn carries them, the data plane's protocol reads them.

`serve` runs one process until a signal; `gateway.supervisor` several.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.types import Receive, Scope, Send

from gateway import build
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.files import listener_context
from gateway.config.policy import CanaryConfig, PolicyConfig
from gateway.config.service import TlsConfig
from gateway.config.source import Source
from gateway.dataplane.base import Role
from gateway.dataplane.client.protocol import ClientProtocol
from gateway.in_force import InForce
from gateway.loops.first_contact import warn_unreachable
from gateway.running import Gateway
from gateway.runtime import process
from gateway.runtime.threads import prioritise_event_loop
from gateway.server import compose
from gateway.state.base import StoreUnavailable
from gateway.telemetry.log import configure

log = logging.getLogger("turnout")
MAX_NAMED_ROUTES: Final = 3
"""The line at the start names at most this many routes."""
START_FAILED: Final = 3
"""Exit code of a process that could not start: its store is unavailable, or its configuration can't be built."""


class Server(uvicorn.Server):
    """uvicorn's server, with our start and end: a signal drains, and the exit code is 0."""

    gateway: Gateway
    """Set by `startup`."""

    def __init__(
        self,
        config: uvicorn.Config,
        source: Source,
        own: Document,
        *,
        workers: int,
        prefix: str,
    ) -> None:
        """``own``: the document at the start. ``prefix``: of log lines; "" if no supervisor has logged the start."""
        super().__init__(config)
        self._source = source
        self._own = own
        self._workers = workers
        self._prefix = prefix

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the gateway and accept connections. A TLS handshake may take as long as a request head."""
        try:
            self.gateway = await compose(self._source, workers=self._workers)
        except (ConfigError, StoreUnavailable) as error:
            logging.getLogger("turnout.start").error("%s", error)
            sys.exit(START_FAILED)
        own, loop = self._own, asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if own.tls is not None:
            tls = {
                "ssl": _client_tls(own.tls, self.gateway.in_force),
                "ssl_handshake_timeout": own.limits.header_timeout,
            }
        roles: tuple[Role, ...] = ("data", "control") if own.control else ("all",)
        self.servers = [
            await loop.create_server(
                partial(self._protocol, role), sock=each, backlog=self.config.backlog, **tls
            )
            for each, role in zip(sockets or (), roles, strict=True)
        ]
        loop.add_signal_handler(signal.SIGHUP, self.gateway.reload)
        self.started = True
        if not self._prefix:
            # It listens and stores as its own file says, whatever the store has in force.
            places = {"listen": own.listen, "control": own.control, "store": own.store, "tls": own.tls}
            document = self.gateway.in_force.document().model_copy(update=places)
            log.info("serving %s", described(document, self.gateway.in_force.revision().revision))
        log.info("%sready", self._prefix)
        in_force = self.gateway.in_force
        if not self._prefix or in_force.allocations.leads:  # of several workers, one
            self.gateway.tasks.spawn(warn_unreachable(in_force.registry.backends))

    def _protocol(self, role: Role) -> ClientProtocol:
        return ClientProtocol(self.gateway.worker, self.server_state.connections, role)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        worker = self.gateway.worker
        worker.draining = True
        self.gateway.application.close()  # event streams end now, or the drain would wait for them
        log.info("%sdraining, %d in flight", self._prefix, len(worker.active))
        await super().shutdown(sockets)
        await self.gateway.stop()  # after a second signal too: it cuts requests short, not the record


def _client_tls(tls: TlsConfig, in_force: InForce) -> ssl.SSLContext:
    """The context of listening sockets: each handshake takes the context that is in force then."""
    context = listener_context(tls)

    def choose(handshake: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        if in_force.listener is not None:
            handshake.context = in_force.listener

    context.sni_callback = choose
    in_force.accept_with(context)
    return context


async def _unused(scope: Scope, receive: Receive, send: Send) -> None:
    """uvicorn wants an application; requests reach the data plane's protocol directly."""


def server(source: Source, document: Document, *, workers: int = 1, prefix: str = "") -> Server:
    """Return the server of one process; see `Server`."""
    config = uvicorn.Config(
        _unused,
        http=ClientProtocol,
        ws="none",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(document.shutdown.grace)),
    )
    return Server(config, source, document, workers=workers, prefix=prefix)


def listening(document: Document) -> list[socket.socket]:
    """Return the sockets of the data plane and, if it has its own, of the control API. Raises OSError."""
    places = {"listen": document.listen, "control": document.control}
    return [_listen(place, option) for option, place in places.items() if place]


def _listen(place: str, option: str) -> socket.socket:
    host, _, port = place.rpartition(":")
    host = host.strip("[]") or "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"{place} is in use; stop the process that listens there, or change '{option}'"
            ) from error
        raise OSError(f"can't listen at {place} ('{option}'): {error.strerror or error}") from error
    listener.listen(4096)
    listener.setblocking(False)
    return listener


def serve(
    path: Path,
    *,
    sockets: list[socket.socket] | None = None,
    overrides: Mapping[str, str] | None = None,
    fallback_config: str = "",
    workers: int = 1,
) -> int:
    """Run one process until a signal; return its exit code, 0 after a graceful end. Raises ConfigError, OSError.

    ``overrides``, ``fallback_config``: see `Source`. ``workers``: how many processes share the sockets.
    """
    source = Source(path, overrides or {}, fallback_config)
    _, document = source.first()
    configure(document.telemetry.log)
    prefix = f"worker {os.getpid()} " if sockets is not None else ""
    if not prefix:
        log.info("%s", build.described())
    process.raise_open_files(document.limits.connections)
    process.freeze_collector()
    process.keep_freed_memory()
    prioritise_event_loop()
    running = server(source, document, workers=workers, prefix=prefix)
    running.run(sockets or listening(document))
    log.info("%sended", prefix)
    return 0 if running.started else 1


def described(document: Document, revision: int | None = None) -> str:
    """Return one line for the log: addresses, routes, store and configuration."""
    base = f"http{'s' if document.tls is not None else ''}://"
    more = max(0, len(document.routes) - MAX_NAMED_ROUTES)
    named = [f"{name}: {_policy(route.policy)}" for name, route in document.routes.items()][:MAX_NAMED_ROUTES]
    routes = ", ".join([*named, *([f"{more} more"] if more else [])])
    number = len(document.routes)
    return " · ".join(
        (
            f"{base}{document.listen}",
            f"{number} route{'' if number == 1 else 's'}" + (f" ({routes})" if routes else ""),
            f"store {re.sub('//[^/@]*@', '//', document.store)}",
            *([] if revision is None else [f"configuration revision {revision}"]),
            f"dashboard {base}{document.control or document.listen}/-/dashboard/",
        )
    )


def _policy(policy: PolicyConfig) -> str:
    return (
        f"canary {policy.baseline} → {policy.candidate}" if isinstance(policy, CanaryConfig) else policy.type
    )
