"""Comparing a shadow's answer with the primary's without holding up the event loop.

Small answers are compared at once. Reading a large one takes milliseconds during which nothing else of the
process runs (a JSON parser holds the interpreter's lock), so these go to a process of their own, of low
priority; it is started when the first one comes. Too many at once, and the rest is not compared.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Final

from policies.agreement import Agreement, Answer, Comparison, compare

AT_ONCE: Final = 4 * 1024
"""Bytes of both answers together that are compared on the event loop: half a millisecond at most."""
MOST: Final = 32
"""Comparisons that wait for the other process."""
NICE: Final = 10
PR_SET_PDEATHSIG: Final = 1

Done = Callable[[Agreement], None]


def comparable(lines: Sequence[bytes], body: bytes) -> Answer:
    """An answer as `policies.agreement` takes it, from its field lines."""
    found = {b"content-type": "", b"inference-header-content-length": "", b"content-encoding": ""}
    for line in lines:
        name, _, value = line.partition(b":")
        key = name.lower()
        if key in found:
            found[key] = value.strip().decode("latin-1")
    return Answer(body, *found.values())


class Comparer:
    """See the module."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._pending: set[asyncio.Future[Agreement]] = set()
        self._closed = False

    def compare(
        self, status: int, first: Answer, other_status: int, second: Answer, how: Comparison, done: Done
    ) -> None:
        """Calls ``done`` with what the comparison says, now or later."""
        if status != other_status:
            done(_statuses(status, other_status))
        elif first == second:
            done(Agreement("agrees", "bytes", difference=0.0))
        elif len(first.body) + len(second.body) <= AT_ONCE:
            done(compare(first, second, how))
        elif self._closed or len(self._pending) >= MOST:
            done(Agreement("not_comparable", "", detail="too many large answers wait to be compared"))
        else:
            self._submit(first, second, how, done)

    def _submit(self, first: Answer, second: Answer, how: Comparison, done: Done) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    1, mp_context=get_context("spawn"), initializer=_yield_to_others
                )
            future = loop.run_in_executor(self._pool, compare, first, second, how)
        except (OSError, RuntimeError) as error:  # no process can be made here, or the last one has died
            self._pool = None
            done(Agreement("not_comparable", "", detail=f"large answers can't be compared: {error}"))
            return
        self._pending.add(future)
        future.add_done_callback(lambda ended: self._ended(ended, done))

    def _ended(self, future: asyncio.Future[Agreement], done: Done) -> None:
        self._pending.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            done(future.result())
            return
        if isinstance(error, BrokenProcessPool):
            self._pool = None
        done(Agreement("not_comparable", "", detail=f"the comparison failed: {error}"))

    def close(self) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _yield_to_others() -> None:
    """What the other process begins with: a low priority, and an end with the gateway's even if that is killed."""
    os.nice(NICE)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the gateway ends it


def _statuses(status: int, other: int) -> Agreement:
    first = [{"where": "status", "primary": str(status), "shadow": str(other)}]
    return Agreement("differs", "status", detail=json.dumps({"differences": 1, "first": first}))
