"""A process of low priority for work that would hold up the event loop.

A thread does not help: a JSON parser holds the interpreter's lock from the first byte to the last. The process is
started with the first call and replaced if it dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Final, Generic, TypeVar

from gateway.errors import TurnoutError

NICENESS_STEP: Final = 10
PR_SET_PDEATHSIG: Final = 1

T = TypeVar("T")


class SideProcess(Generic[T]):
    """Runs one function call at a time in another process."""

    def __init__(self, max_pending: int) -> None:
        """``max_pending``: calls that may run and wait; further ones are refused."""
        self._max_pending = max_pending
        self._pool: ProcessPoolExecutor | None = None
        self._pending: set[asyncio.Future[T]] = set()
        self._closed = False

    def submit(
        self,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        done: Callable[[T], None],
        failed: Callable[[str], None],
    ) -> asyncio.Future[T] | None:
        """Calls ``function``, and later ``done`` with its result or ``failed`` with the reason.

        Returns None if ``failed`` was called immediately. Cancelling the future prevents both calls.
        """
        if self._closed or len(self._pending) >= self._max_pending:
            failed("too many wait")
            return None
        try:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    1, mp_context=get_context("spawn"), initializer=_start_process, initargs=(os.getpid(),)
                )
            future = asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        except (OSError, RuntimeError) as error:  # no process can be started here, or the last one has died
            self._pool = None
            failed(str(error))
            return None
        self._pending.add(future)
        future.add_done_callback(lambda ended: self._ended(ended, done, failed))
        return future

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a call. Raises TurnoutError (gateway_overloaded) if it cannot be made."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def failed(reason: str) -> None:
            if not result.done():
                result.set_exception(TurnoutError("gateway_overloaded", retry_after=1.0))

        def done(value: T) -> None:
            if not result.done():
                result.set_result(value)

        self.submit(function, arguments, done, failed)
        return await result

    def _ended(
        self, future: asyncio.Future[T], done: Callable[[T], None], failed: Callable[[str], None]
    ) -> None:
        self._pending.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            done(future.result())
            return
        if isinstance(error, BrokenProcessPool):
            self._pool = None
        failed(str(error))

    def close(self) -> None:
        """End the process and cancel the calls that wait."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _start_process(parent: int) -> None:
    """Lower the priority of the process, and end it with the gateway even if that is killed."""
    os.nice(NICENESS_STEP)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the gateway was killed while this process started
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the gateway ends it
