"""Running one batch: the model may raise anything, and only the requests that cause it fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from backends.batching.entry import Entry, Part, Report, Spans
from backends.errors import InvalidInput, ModelFailed, ServerError, Unavailable
from backends.forks import FORKS
from backends.threads import Overrun

log = logging.getLogger("turnout.backend")

T = TypeVar("T")


class Executable(Protocol):
    """A loaded copy of a model, used by one thread at a time."""

    batch_seconds: float
    """Duration of a full batch, measured at warm-up."""
    predictable: bool
    """Whether every batch of a size takes about as long: a network over inputs of fixed shapes, on one thread."""

    def run(
        self, parts: Sequence[tuple[Part, ...]], rows: int, key: tuple[tuple[int, ...], ...], spans: Spans
    ) -> list[np.ndarray]:
        """The outputs, in the configuration's order, for the rows of all ``parts`` in sequence.

        Args:
            parts: The inputs of each request.
            rows: Their rows in total.
            key: The shape of each input without its batch axis.
            spans: Where to add the durations.

        Raises:
            InvalidInput: or whatever the model raises.
        """
        ...

    def enter(self) -> None:
        """Prepares the calling thread for `run`."""
        ...

    def close(self) -> None:
        """Releases the model."""
        ...

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether ``error`` says that memory ran out."""
        ...


def run_batch(name: str, executable: Executable, entries: list[Entry]) -> Report:
    """Runs ``entries`` as one batch. Never raises."""
    report = Report(time.perf_counter_ns(), rows=sum(entry.rows for entry in entries))
    _run(name, executable, entries, report)
    return report


def _run(name: str, executable: Executable, entries: list[Entry], report: Report) -> None:
    """Halves a failing batch until the requests that can't be answered stand alone.

    The halves run after the failed attempt's `except` block has ended, and `fault` is a new exception: the
    raised one holds the frames of the model, and with them every tensor of the batch.
    """
    fault = _attempt(name, executable, entries, report)
    if fault is None:
        return
    if len(entries) == 1 or isinstance(fault, _TimedOut):
        report.failed += [(entry, fault) for entry in entries]
        return
    middle = len(entries) // 2
    _run(name, executable, entries[:middle], report)
    _run(name, executable, entries[middle:], report)


def _attempt(name: str, executable: Executable, entries: list[Entry], report: Report) -> ServerError | None:
    rows = sum(entry.rows for entry in entries)
    parts = [entry.inputs for entry in entries]

    def run() -> list[np.ndarray]:
        return executable.run(parts, rows, entries[0].key, report.spans)

    outputs = attempt(name, run, executable.out_of_memory, len(entries), rows)
    if isinstance(outputs, ServerError):
        return outputs
    report.answer(entries, outputs)
    return None


def attempt(
    name: str, run: Callable[[], T], out_of_memory: Callable[[BaseException], bool], requests: int, rows: int
) -> T | ServerError:
    """What ``run`` returns, or the error for whatever it raises. Never raises."""
    try:
        return run()
    except InvalidInput as error:
        return _refusal(error)
    except BaseException as error:  # noqa: BLE001  a model may raise SystemExit, CancelledError, anything
        return _fault(name, out_of_memory(error), error, requests, rows)
    finally:
        FORKS.end_child()


def _refusal(error: InvalidInput) -> ServerError:
    try:
        return InvalidInput(error.message)
    except Exception:  # noqa: BLE001  the text of a model's exception is the model's code, too
        return InvalidInput("the model refused the input")


def _fault(name: str, no_memory: bool, error: BaseException, requests: int, rows: int) -> ServerError:
    if isinstance(error, Overrun):
        log.error("%s exceeded the time limit of a batch (%d requests, %d rows)", name, requests, rows)
        return _TimedOut(f"{name} exceeded the time limit of a batch")
    if no_memory:
        log.warning("%s ran out of memory on a batch of %d requests, %d rows", name, requests, rows)
        return Unavailable("no memory is left for this batch; send fewer rows, or try again later")
    if requests > 1:
        log.warning("%s failed on a batch of %d requests (%s); halving it", name, requests, _kind(error))
    else:
        log.error("%s failed on a request of %d rows", name, rows, exc_info=error)
    return ModelFailed(f"{name} failed ({_kind(error)}); the server's log has the details")


def _kind(error: BaseException) -> str:
    return type(error).__name__


class _TimedOut(ModelFailed):
    """A batch that exceeded its time limit; its halves are not tried."""
