"""A gateway process on its sockets: uvicorn carries them, the data plane's protocol reads them.

`serve` runs one process until a signal; `gateway.supervisor` several.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import re
import resource
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
from uvicorn.lifespan.on import LifespanOn

from gateway import build
from gateway.config.document import CanaryConfig, Document, PolicyConfig
from gateway.config.faults import ConfigError
from gateway.config.files import listener_context
from gateway.dataplane.client.protocol import ClientProtocol, Role
from gateway.runtime.threads import prioritise_event_loop
from gateway.server import Gateway
from gateway.state.base import StoreUnavailable
from gateway.telemetry.log import configure

log = logging.getLogger("turnout")
_START_LOG: Final = logging.getLogger("turnout.start")
"""For uvicorn's words on a start that failed; its others are ours to tell."""
_START_LOG.setLevel(logging.ERROR)
START_FAILED: Final = 3
"""Exit code of a process that could not start: its store is away, or its configuration can't be built."""


class Application:
    """What uvicorn calls: lifespan alone, for requests reach the data plane's protocol directly."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        try:
            await self.gateway.start()
        except (ConfigError, StoreUnavailable) as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})


class Server(uvicorn.Server):
    """uvicorn's server, but for its ends: a signal drains, and the exit code is 0."""

    def __init__(
        self,
        config: uvicorn.Config,
        gateway: Gateway,
        *,
        roles: tuple[Role, ...],
        handshake: float,
        worker: str,
    ) -> None:
        """``roles``: of the sockets, in their order. ``handshake``: the most seconds for one over TLS.

        ``worker``: what log lines begin with; "" where no supervisor has told of the start already.
        """
        super().__init__(config)
        self.worker = worker
        self.gateway = gateway
        self.roles = roles
        self.handshake = handshake

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but that a TLS handshake has no more time than a head (uvicorn leaves it a minute)."""
        assert isinstance(self.lifespan, LifespanOn)
        self.lifespan.logger = _START_LOG
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(START_FAILED)
        config, loop = self.config, asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        context = _client_tls(self.gateway)
        if context is not None:
            tls = {"ssl": context, "ssl_handshake_timeout": self.handshake}
        made = [
            await loop.create_server(partial(self._protocol, role), sock=each, backlog=config.backlog, **tls)
            for each, role in zip(sockets or (), self.roles, strict=True)
        ]
        self.servers: list[asyncio.base_events.Server] = made
        self.started = True
        if not self.worker:
            own = self.gateway.own  # listens and stores as its file says, whatever the store has in force
            places = {"listen": own.listen, "control": own.control, "store": own.store, "tls": own.tls}
            document = self.gateway.document().model_copy(update=places)
            log.info("serving %s", described(document, self.gateway.revision().revision))
        log.info("%sready", self.worker)

    def _protocol(self, role: Role) -> ClientProtocol:
        assert self.gateway.worker is not None
        return ClientProtocol(self.gateway.worker, self.server_state.connections, role)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.gateway.worker is not None:
            self.gateway.worker.draining = True
            self.gateway.application.close()  # event streams end now, or they would be waited for
            log.info("%sdraining, %d in flight", self.worker, len(self.gateway.worker.active))
        await super().shutdown(sockets)
        if self.force_exit:  # a second signal cuts the requests short, not the record
            await self.lifespan.shutdown()


def _client_tls(gateway: Gateway) -> ssl.SSLContext | None:
    """What listening sockets are opened with: each handshake takes the context that is in force then."""
    if gateway.own.tls is None:
        return None
    opened = listener_context(gateway.own.tls)

    def choose(handshake: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        if gateway.listener is not None:
            handshake.context = gateway.listener

    opened.sni_callback = choose
    return opened


def server(gateway: Gateway, document: Document, *, worker: str = "") -> Server:
    """The server of one process; ``worker``: see `Server`."""
    roles: tuple[Role, ...] = ("data", "control") if document.control else ("all",)
    host, _, port = document.listen.rpartition(":")
    config = uvicorn.Config(
        Application(gateway),
        host=host.strip("[]") or "0.0.0.0",
        port=int(port),
        http=ClientProtocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(document.shutdown.grace)),
    )
    return Server(config, gateway, roles=roles, handshake=document.limits.header_timeout, worker=worker)


def listening(document: Document) -> list[socket.socket]:
    """The sockets of the data plane and, where it has a port of its own, of the control API."""
    places = {"listen": document.listen, "control": document.control}
    return [_listen(place, option) for option, place in places.items() if place]


def _listen(place: str, option: str) -> socket.socket:
    host, _, port = place.rpartition(":")
    host = host.strip("[]") or "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, int(port)))
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"{place} is taken; stop what listens there, or change '{option}'") from error
        raise OSError(f"can't listen at {place} ('{option}'): {error.strerror or error}") from error
    found.listen(4096)
    found.setblocking(False)
    return found


def serve(
    path: Path,
    *,
    sockets: list[socket.socket] | None = None,
    overrides: Mapping[str, str] | None = None,
    fallback_config: str = "",
    workers: int = 1,
) -> int:
    """Runs one process until a signal; 0 after a graceful end. Raises ConfigError before it listens.

    ``fallback_config``, ``workers``: see `Gateway`.
    """
    gateway = Gateway(path, overrides=overrides, fallback_config=fallback_config, workers=workers)
    _, document = gateway.source.first()
    configure(document.telemetry.log)
    worker = f"worker {os.getpid()} " if sockets is not None else ""
    if not worker:
        log.info("%s", build.described())
    raise_open_files(document.limits.connections)
    _ease_collector()
    _ease_allocator()
    prioritise_event_loop()
    found = server(gateway, document, worker=worker)
    found.run(sockets or listening(document))
    log.info("%sended", worker)
    return 0 if found.started else 1


def described(document: Document, revision: int | None = None) -> str:
    """One line for people: where, what, by which store and configuration."""
    base = f"http{'s' if document.tls is not None else ''}://"
    more = max(0, len(document.routes) - _NAMED_ROUTES)
    named = [f"{name}: {_policy(route.policy)}" for name, route in document.routes.items()][:_NAMED_ROUTES]
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


_NAMED_ROUTES: Final = 3
"""Routes that the line at the start names."""


def raise_open_files(connections: int) -> None:
    """Raises the soft limit to the hard one, and warns where even that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = 2 * connections
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning(
            "at most %d files may be open, and 'limits.connections: %d' may need %d: raise the limit "
            "(ulimit -n, LimitNOFILE) or lower the option",
            hard,
            connections,
            wanted,
        )


def _ease_collector() -> None:
    """What was loaded at start never becomes garbage: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1
"""mallopt(3)'s numbers."""


def _ease_allocator() -> None:
    """Lets the C library keep up to 16 MiB of what bodies have left, where it is glibc.

    It would give each large piece back to the kernel and take it anew, page by page, for the next body:
    that was half of what a body of 1 MiB cost.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 4 << 20)
        mallopt(_TRIM_THRESHOLD, 16 << 20)
