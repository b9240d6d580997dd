"""A few threads that read, each on a connection of its own, while the writer writes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Lock, local
from typing import TypeVar

from gateway.runtime.threads import pool
from gateway.state.base import StoreUnavailable
from gateway.state.sqlite.connect import Moved, connect, plainly

T = TypeVar("T")


class Readers:
    """Runs read-only work off the event loop."""

    def __init__(self, path: Path, moved: Callable[[], bool], *, threads: int) -> None:
        """``moved``: whether the writer's file is not at ``path`` any more."""
        self._path = path
        self._moved = moved
        self._pool = pool(threads, name="store-reader")
        self._mine = local()
        self._all: list[sqlite3.Connection] = []
        self._lock = Lock()
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` returns, from one consistent state of the file; raises StoreUnavailable."""
        if self._closed:
            raise StoreUnavailable(f"The store {self._path} is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._work, work)

    async def close(self) -> None:
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        for connection in self._all:
            connection.close()

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with plainly(self._path):
            if self._moved():  # else pages would go on showing what no longer changes
                raise Moved
            connection = self._connection()
            try:
                # One state of the file for all statements of the work, whatever is written meanwhile.
                connection.execute("BEGIN")
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                # The next reader opens the file again, which may have been repaired.
                del self._mine.connection
                with self._lock:
                    self._all.remove(connection)
                connection.close()
                raise
            return result

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = connect(self._path, read_only=True)
            self._mine.connection = connection
            with self._lock:
                self._all.append(connection)
        return connection
