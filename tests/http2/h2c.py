"""A gateway in front of a backend that speaks HTTP/2 without TLS, and of two that only seem to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import httpx
import pytest

from benchmarks.children import free_ports
from tests.http2.backend import Http2Backend
from tests.http2.client import PATIENCE
from tests.http2.raw import AUTHORITY, SCHEME, Pair, Reply
from tests.wire.rig import Rig


class Stranger(asyncio.Protocol):
    """Accepts connections, says something, and closes them."""

    def __init__(self, greeting: bytes) -> None:
        self.greeting = greeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self.greeting)
        transport.close()


STRANGERS: dict[int, bytes] = {}
"""Port → what is said to connections there."""
BACKEND = Http2Backend()
BACKENDS = """\
  multi: {{url: "h2c://127.0.0.1:{}", ejection: null, pool: {{idle: 1h}}}}
  old: {{url: "h2c://127.0.0.1:{}", ejection: null}}
  closing: {{url: "h2c://127.0.0.1:{}", ejection: null}}
"""
ROUTES = """\
  multi:
    match: {path: /m}
    variants: {v1: {backend: multi}}
    policy: &first {type: single, variant: v1}
    retry: &once {attempts: 1}
    body_limit: 1GiB
  multi-fall:
    match: {path: /mf}
    variants: {v1: {backend: multi}, v2: {backend: b}}
    policy: *first
    retry: *once
    fallback: [v2]
  twice:
    match: {path: /twice}
    variants: {v1: {backend: multi}, v2: {backend: multi}}
    policy: *first
    retry: *once
    fallback: [v2]
  hasty:
    match: {path: /hasty}
    variants: {v1: {backend: multi}}
    policy: *first
    retry: *once
    timeouts: {first_byte: 1500ms}
  excused:
    match: {path: /excused}
    variants: {v1: {backend: multi}}
    policy: *first
    retry: *once
    errors: {client: [{status: 500, body: bad shape}]}
  replayed:
    match: {path: /replayed}
    variants: {v1: {backend: multi}}
    policy: *first
    retry: {attempts: 1, replayable: true}
  again: {match: {path: /again}, variants: {v1: {backend: multi}}, policy: *first}
  old: {match: {path: /old}, variants: {v1: {backend: old}}, policy: *first, retry: *once}
  closing: {match: {path: /closing}, variants: {v1: {backend: closing}}, policy: *first, retry: *once}
  shadowed:
    match: {path: /ms}
    variants: {v1: {backend: a}, v2: {backend: multi}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
"""


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """On ports that are this process's own: others may have the module in use."""
    BACKEND.port, old, closing = free_ports(3)
    STRANGERS.clear()
    STRANGERS.update({old: b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", closing: b""})
    backends = BACKENDS.format(BACKEND.port, old, closing)
    found = Rig(tmp_path_factory.mktemp("rig"), backends=backends, routes=ROUTES)
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def started(shared_rig: Rig) -> Iterator[Http2Backend]:
    async def start() -> list[asyncio.Server]:
        await BACKEND.start()
        loop = asyncio.get_running_loop()
        return [
            await loop.create_server(partial(Stranger, greeting), "127.0.0.1", port)
            for port, greeting in STRANGERS.items()
        ]

    strangers = shared_rig.run(start())
    yield BACKEND
    for stranger in strangers:
        shared_rig.call(stranger.close)
    shared_rig.run(BACKEND.stop())


@pytest.fixture
def backend(rig: Rig, started: Http2Backend) -> Iterator[Http2Backend]:
    rig.disconnect(started)
    yield started
    rig.disconnect(started)


def to(path: bytes, *extra: Pair, method: bytes = b"POST") -> list[Pair]:
    return [(b":method", method), SCHEME, AUTHORITY, (b":path", path), *extra]


def code(reply: Reply) -> str:
    """Of an error."""
    return str(json.loads(reply.body)["error"]["code"])


def outcome(rig: Rig, request_id: str) -> dict[str, Any]:
    """What the record has of a request."""
    return kept(rig, f"outcomes?request_id={request_id}", "outcomes")


def kept(rig: Rig, path: str, key: str) -> dict[str, Any]:
    """The only entry of a list of the API, as soon as there is one."""
    end = time.monotonic() + PATIENCE
    found: list[dict[str, Any]] = []
    while not found and time.monotonic() < end:
        found = httpx.get(f"http://127.0.0.1:{rig.port}/-/{path}").json().get(key) or []
    (one,) = found
    return one
