"""The control API on a real socket, in a thread of its own, with a world that can be moved on."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from gateway.control.app import ControlApp
from tests.support.harness import ROUTES, Clock, Harness, auth, started
from tests.support.seed import World, live_through

T = TypeVar("T")

DIGITS = World(
    "digits",
    {"v1": 0.94, "v2": 0.985},
    {"v1": 3.0, "v2": 6.0},
    {"v1": 0.012, "v2": 0.004},
    shadow=("v3", 0.962),
)
SHOP = World(
    "shop", {"old": 0.5, "new": 0.52}, {"old": 40.0, "new": 44.0}, {"old": 0.003, "new": 0.02}, metric=None
)


class Served:
    """Runs until `stop`; ``text`` is the configuration."""

    def __init__(
        self, path: Path, *, text: str | None = None, keys: bool = False, start: float | None = None
    ) -> None:
        self.path = path
        self.text = text if text is not None else (auth() if keys else "") + ROUTES
        self.clock = Clock(start if start is not None else time.time() // 60 * 60 - 1800)
        """At the beginning of a bucket, so that the charts include what happens before the first traffic."""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> Served:
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        return self

    async def _run(self) -> None:
        async with started(self.path, self.text, self.clock) as self.harness:
            self.loop = asyncio.get_running_loop()
            self.app = ControlApp(self.harness)
            config = uvicorn.Config(self.app, lifespan="off", log_config=None, timeout_graceful_shutdown=2)
            self.server = uvicorn.Server(config)
            self.loop.call_soon(self._ready.set)
            await self.server.serve([self.socket])

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not stop: a stream held it"

    def _end(self) -> None:
        self.app.close()
        self.server.should_exit = True

    def do(self, work: Callable[[Harness], Awaitable[T]]) -> T:
        """Runs ``work(harness)`` on the server's loop."""

        async def run() -> T:
            return await work(self.harness)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)

    def live(self, world: World, *, steps: int, per_step: int, step: float = 10.0, seed: int = 1) -> None:
        self.do(lambda h: live_through(h, world, steps=steps, per_step=per_step, step=step, seed=seed))

    def wind(self, seconds: float) -> None:
        self.clock.at += seconds

    def set_rollout(self, route: str, state: dict[str, Any]) -> None:
        self.harness.rollouts[route] = state
