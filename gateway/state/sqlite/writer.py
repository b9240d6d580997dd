"""The one thread that writes.

Whatever waits when it is free goes into one transaction, so that a hundred callers who need their
rewards on disk share one fsync (group commit). Work that may be lost in a power cut (the record of
requests; nothing that was acknowledged) commits without an fsync of its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

from gateway.record.page import BadPage
from gateway.runtime.threads import lower_thread_priority
from gateway.state.base import StoreUnavailable
from gateway.state.sqlite.connect import Moved, connect, unavailable
from gateway.state.sqlite.schema import TooNew, check_version

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_MAX_BATCH_JOBS: Final = 512
"""Jobs in one transaction at most."""
_FAULTS: Final = (sqlite3.Error, OSError, BadPage, TooNew)
"""What is the file's fault rather than ours."""


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    durable: bool
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """Runs work on the writing connection, each piece whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._synchronous = ""
        self._place = (0, 0)
        """Device and inode of the file that the connection has open."""
        self._closed = False
        self._thread = Thread(target=self._loop, name="store-writer", daemon=True)
        self.commits = 0
        self.syncs = 0

    def start(self) -> None:
        self._thread.start()

    async def run(self, work: Work[T], *, durable: bool = True) -> T:
        """What ``work`` returns, once it is committed; with ``durable``, on the disk as well.

        Raises StoreUnavailable, or what the work itself raised (its own changes are undone then).
        """
        if self._closed:
            raise StoreUnavailable(f"The store {self._path} is closed.")
        job = _Job(work, durable)
        self._queue.put(job)
        result: T = await asyncio.wrap_future(job.future)
        return result

    def moved(self) -> bool:
        """Whether the file that is open is not at its path any more."""
        return self._connection is not None and self._place != _place(self._path)

    async def close(self) -> None:
        """Finishes what waits and ends the thread."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _loop(self) -> None:
        lower_thread_priority()
        open_ended = True
        while open_ended:
            first = self._queue.get()
            jobs: list[_Job] = []
            while first is not None:
                if first.future.set_running_or_notify_cancel():  # else its caller has given up
                    jobs.append(first)
                if len(jobs) >= _MAX_BATCH_JOBS:
                    break
                try:
                    first = self._queue.get_nowait()
                except Empty:
                    break
            open_ended = first is not None
            if jobs:
                self._commit(jobs)
        self._drop_connection()

    def _commit(self, jobs: list[_Job]) -> None:
        # One that must be on disk takes the others with it.
        durable = any(job.durable for job in jobs)
        if self.moved():  # what is written now would be gone with this process
            _fail(jobs, unavailable(Moved(), self._path))
            return
        try:
            connection = self._connected(durable)
            # The lock now: a transaction that begins by reading fails if another process writes before it does.
            connection.execute("BEGIN IMMEDIATE")
            check_version(connection)  # another process may have been upgraded
            settled = [_attempt(connection, job, alone=len(jobs) == 1) for job in jobs]
            connection.execute("COMMIT")
        except _FAULTS as error:
            self._drop_connection()
            _fail(jobs, unavailable(error, self._path))
        except BaseException as error:  # noqa: BLE001 - a fault of ours must reach the callers, not end the thread
            self._drop_connection()
            _fail(jobs, error)
        else:
            self.commits += 1
            self.syncs += durable
            self._settle(jobs, settled)

    def _settle(self, jobs: list[_Job], settled: list[Any]) -> None:
        for job, (result, error) in zip(jobs, settled, strict=True):
            if error is None:
                job.future.set_result(result)
            elif isinstance(error, _FAULTS):
                job.future.set_exception(unavailable(error, self._path))
            else:
                job.future.set_exception(error)

    def _connected(self, durable: bool) -> sqlite3.Connection:
        if self._connection is None:
            connection = connect(self._path)
            self._synchronous, self._place, self._connection = "", _place(self._path), connection
        wanted = "FULL" if durable else "NORMAL"
        if wanted != self._synchronous:
            self._connection.execute(f"PRAGMA synchronous = {wanted}")
            self._synchronous = wanted
        return self._connection

    def _drop_connection(self) -> None:
        """Undoes what is not committed; the next job opens the file again, which may have been repaired."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.rollback()  # closing leaves the lock to cursors that an error's traceback holds
            connection.close()


def _place(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _attempt(connection: sqlite3.Connection, job: _Job, *, alone: bool) -> tuple[Any, BaseException | None]:
    """Runs one job so that its failure takes back only its own changes."""
    # A savepoint for nothing: its failure ends the transaction anyway.
    if alone:
        return job.work(connection), None
    connection.execute("SAVEPOINT job")
    try:
        result = job.work(connection)
    except Exception as error:
        if not connection.in_transaction:
            raise  # SQLite gave up the whole transaction: no work of the batch is done
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return None, error
    connection.execute("RELEASE job")
    return result, None


def _fail(jobs: list[_Job], error: BaseException) -> None:
    for job in jobs:
        job.future.set_exception(error)
