"""One instance of a version: a thread that owns a copy of the model and runs one batch at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from backends.batching.entry import Entry, Report, Spans
from backends.batching.queue import Batch, Queue
from backends.errors import InvalidInput, LoadError, ModelFailed, ServerError, Unavailable

log = logging.getLogger("turnout.backend")


class Executable(Protocol):
    """A loaded copy of a model. Called in its instance's thread only."""

    def run(self, parts: Sequence[tuple[np.ndarray, ...]], rows: int, spans: Spans) -> list[np.ndarray]:
        """The outputs, in the configuration's order, for the rows of all ``parts`` one behind the other.

        Raises InvalidInput, Unavailable (no memory left), or whatever the model raises.
        """
        ...


class Instance:
    """The thread. ``load`` runs in it first, so that what a library keeps per thread is right."""

    def __init__(
        self,
        name: str,
        queue: Queue,
        load: Callable[[], Executable],
        deliver: Callable[[Report], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.ready: Future[None] = Future()
        """Done when the model is loaded, or holds a LoadError."""
        self.ended: Future[None] = Future()
        """Done when the thread has nothing more to do: after the queue is closed and empty."""
        self._name = name
        self._queue = queue
        self._load = load
        self._deliver = deliver
        self._loop = loop
        # A daemon: a model that hangs must not keep the process from ending.
        threading.Thread(target=self._main, name=name, daemon=True).start()

    def _main(self) -> None:
        try:
            self._serve()
        finally:
            self.ended.set_result(None)

    def _serve(self) -> None:
        try:
            executable = self._load()
        except LoadError as error:
            self.ready.set_exception(error)
            return
        except BaseException as error:  # noqa: BLE001  a model's code may raise anything, SystemExit too
            self.ready.set_exception(LoadError(f"{self._name}: {type(error).__name__}: {error}"))
            return
        self.ready.set_result(None)
        while (batch := self._queue.take()) is not None:
            report = self._run(executable, batch)
            try:
                self._loop.call_soon_threadsafe(self._deliver, report)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _run(self, executable: Executable, batch: Batch) -> Report:
        report = Report(time.perf_counter_ns())
        for entry in batch.expired:
            report.failed.append(
                (entry, Unavailable("the request waited longer than its timeout; try again"))
            )
        if not batch.entries:
            return report
        report.rows = sum(entry.rows for entry in batch.entries)
        fault = self._attempt(executable, batch.entries, report)
        if fault is not None and len(batch.entries) == 1:
            report.failed.append((batch.entries[0], fault))
        elif fault is not None:
            # One request's values must not fail the others: each runs again, alone.
            for entry in batch.entries:
                if (own := self._attempt(executable, [entry], report)) is not None:
                    report.failed.append((entry, own))
        return report

    def _attempt(self, executable: Executable, entries: list[Entry], report: Report) -> ServerError | None:
        """Runs ``entries`` as one batch; the error if it failed."""
        rows = sum(entry.rows for entry in entries)
        try:
            outputs = executable.run([entry.inputs for entry in entries], rows, report.spans)
        except (InvalidInput, Unavailable) as error:
            return error
        except Exception as error:
            log.exception("%s failed on a batch of %d requests, %d rows", self._name, len(entries), rows)
            return ModelFailed(
                f"{self._name} failed ({type(error).__name__}); the server's log has the details"
            )
        if len(entries) == 1:
            report.answered.append((entries[0], outputs))
            return None
        start = 0
        for entry in entries:
            end = start + entry.rows
            report.answered.append((entry, [output[start:end] for output in outputs]))
            start = end
        return None
