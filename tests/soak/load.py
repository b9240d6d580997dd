"""Load that soaks: a closed loop over many connections, and how long things take in short and in full."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load.answers import Connection

FULL = os.environ.get("TURNOUT_SOAK", "short") == "full"
"""`make soak` asks for the full lengths; everything else runs the short ones."""


def scale(short: int, full: int) -> int:
    """``short`` in CI; its own name in the environment overrides either."""
    return full if FULL else short


def resident(pid: int) -> int:
    """Bytes of memory that a process has in use."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class ClosedLoop:
    """So many connections, each sending its next request when its answer is whole; until ``count`` are answered."""

    def __init__(self, port: int, requests: Sequence[bytes], connections: int) -> None:
        self.port = port
        self.requests = requests
        self.connections = connections
        self.answered = 0
        self.errors = 0
        self.spent: list[float] = []
        self._goal = 0
        self._sent = 0
        self._finished: asyncio.Future[None]

    async def run(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        self._finished = loop.create_future()
        self._goal, self._sent, self.answered = count, 0, 0
        self.spent.clear()
        opened = [
            await loop.create_connection(lambda: Connection(self._done), "127.0.0.1", self.port)
            for _ in range(self.connections)
        ]
        for _, connection in opened:
            self._send(connection)
        await self._finished
        for transport, connection in opened:
            connection.busy = False
            transport.abort()

    def _send(self, connection: Connection) -> None:
        if self._sent < self._goal:
            self._sent += 1
            connection.send(self.requests[self._sent % len(self.requests)], time.monotonic_ns())

    def _done(self, connection: Connection, good: bool) -> None:
        self.answered += 1
        self.errors += not good
        self.spent.append((time.monotonic_ns() - connection.sent_at) / 1e9)
        if self.answered == self._goal:
            self._finished.set_result(None)
        elif not connection.transport.is_closing():
            self._send(connection)
