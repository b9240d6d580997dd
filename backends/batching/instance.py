"""One instance of a version: a thread that owns a copy of the model and runs one batch at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from backends.batching.entry import Entry, Report
from backends.batching.execution import Executable, run_batch
from backends.batching.queue import Queue
from backends.threads import Overrun, interrupt

log = logging.getLogger("turnout.backend")


class Instance:
    """The thread. ``executable.enter()`` runs in it first, for library settings that are kept per thread."""

    def __init__(
        self,
        name: str,
        queue: Queue,
        executable: Executable,
        deliver: Callable[[Report], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.ended: Future[None] = Future()
        """Done when the thread has ended: the queue is closed and empty, or the instance is retired."""
        self.started = 0
        """When the running batch began; nanoseconds of `time.perf_counter_ns`. 0: none runs."""
        self.batch: list[Entry] = []
        """The running batch."""
        self.retired = threading.Event()
        """Whether another instance has taken its place."""
        self._name = name
        self._queue = queue
        self._executable: Executable | None = executable
        self._deliver = deliver
        self._loop = loop
        # A daemon: a model that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def retire(self) -> list[Entry]:
        """Gives up a running batch and returns it.

        Python code in the thread is interrupted by `Overrun`; native code is left to run to its end.
        """
        self.retired.set()
        batch, self.batch = self.batch, []
        interrupt(self._thread)
        return batch

    def _main(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # Overrun may arrive between two statements
            if not self.retired.is_set():
                log.critical("%s: its thread ended", self._name, exc_info=error)
        try:
            executable, self._executable = self._executable, None
            if executable is not None:
                executable.close()
        except BaseException as error:  # it may also arrive here
            if not isinstance(error, Overrun):
                log.critical("%s: freeing its model failed", self._name, exc_info=error)
        finally:
            self.ended.set_result(None)

    def _serve(self) -> None:
        executable = self._executable
        assert executable is not None
        executable.enter()
        while not self.retired.is_set() and (batch := self._queue.take()) is not None:
            self._run(executable, batch)
            del batch  # its tensors must not stay while the next one is waited for

    def _run(self, executable: Executable, batch: list[Entry]) -> None:
        if not batch:
            return
        self.batch = batch
        self.started = time.perf_counter_ns()
        report = run_batch(self._name, executable, batch)
        self.started = 0
        self.batch = []
        if not self.retired.is_set():  # else its requests have had their response
            with contextlib.suppress(RuntimeError):  # the loop is closed: no client is left
                self._loop.call_soon_threadsafe(self._deliver, report)
