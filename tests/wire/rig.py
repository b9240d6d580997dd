"""The gateway of the wire tests, with a route for each way that a request can take."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.backend import RawBackend, Request
from tests.support.client import Client
from tests.support.rig import GatewayThread

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
    timeouts: {{connect: 30s, total: null}}
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
SOON = 20.0
"""Seconds: before a limit of the route "large" would act."""


@dataclass(frozen=True)
class Tls:
    gateway: ssl.SSLContext
    backend: ssl.SSLContext
    client: ssl.SSLContext


class Rig(GatewayThread):
    """The wire tests' gateway between the recording backends "a" and "b"."""

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
        super().__init__(folder)
        self.tls = tls(folder) if tls is not None else None
        self.limits, self.top, self.routes, self.backends = limits, top, routes, backends

    async def _start(self) -> None:
        self.raw = [RawBackend(b"A"), RawBackend(b"B")]
        self.a, self.b = self.raw
        await self.a.start()
        await self.b.start(self.tls.backend if self.tls is not None else None)
        self._silence()
        config = CONFIG.format(
            folder=self.folder,
            limits=f"limits: {{{self.limits}}}" if self.limits else "",
            top=self.top,
            routes=self.routes,
            backends=self.backends.replace("PORT", str(self.b.port)).replace("FOLDER", str(self.folder)),
            a=self.a.port,
            b=self.b.port,
            silent=self.silent.getsockname()[1],
        )
        await self._serve(config, context=self.tls.gateway if self.tls is not None else None)

    def _silence(self) -> None:
        """A port that never completes a connection: its queue is full and nobody accepts."""
        self.silent = socket.socket()
        self.silent.bind(("127.0.0.1", 0))
        self.silent.listen(0)
        self.stuffing = [socket.socket() for _ in range(3)]
        for each in self.stuffing:
            each.setblocking(False)
            each.connect_ex(self.silent.getsockname())

    async def _stop(self) -> None:
        for each in (self.silent, *self.stuffing):
            each.close()
        await super()._stop()

    def secure_client(self) -> Client:
        assert self.tls is not None
        return self.client(context=self.tls.client)

    @property
    def requests(self) -> list[Request]:
        return self.a.requests
