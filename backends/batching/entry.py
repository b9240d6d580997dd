"""One waiting request, and an instance's report on the batches it ran."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from backends.batching.pending import PendingBytes, size_of
from backends.errors import ServerError

Outcome = list[np.ndarray] | ServerError
"""All outputs in the configuration's order, or why there are none."""

Part = memoryview | np.ndarray
"""One input of one request, contiguous; BYTES come as an array of objects."""


class Entry:
    """A request between its arrival and its response; subclasses define `finish`."""

    __slots__ = (
        "__weakref__",
        "_pending",
        "arrived",
        "deadline",
        "done",
        "inputs",
        "key",
        "rows",
        "size",
        "taken",
    )

    def __init__(
        self,
        inputs: tuple[Part, ...],
        rows: int,
        key: tuple[tuple[int, ...], ...],
        arrived: int,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key = key
        """The shape of each input without its batch axis; entries with equal keys can share a batch."""
        self.arrived = arrived
        """Nanoseconds of `time.perf_counter_ns`."""
        self.deadline = 0
        """The same clock; 0: none."""
        self.done = False
        """Whether it has been responded to, or its client has left."""
        self.taken = False
        """Whether it has left the queue."""
        self.size = sum(map(size_of, inputs))
        """Bytes of `inputs`."""
        self._pending: PendingBytes | None = None

    def hold(self, pending: PendingBytes) -> None:
        """Counts its bytes in ``pending`` until its end. Raises Unavailable."""
        pending.add(self.size)
        self._pending = pending

    def end(self) -> None:
        """No response is needed any more."""
        self.done = True
        if self._pending is not None:
            self._pending.used -= self.size
            self._pending = None

    def finish(self, outcome: Outcome) -> None:
        """Responds. Called at most once, on the event loop."""
        raise NotImplementedError

    def settle(self, outcome: Outcome) -> bool:
        """Calls `finish`, unless the entry is done already."""
        if self.done:
            return False
        self.end()
        self.finish(outcome)
        return True


class FutureEntry(Entry):
    """Responds by resolving a future."""

    __slots__ = ("future",)

    def __init__(
        self,
        inputs: tuple[Part, ...],
        rows: int,
        key: tuple[tuple[int, ...], ...],
        arrived: int,
    ) -> None:
        super().__init__(inputs, rows, key, arrived)
        self.future: asyncio.Future[list[np.ndarray]] = asyncio.get_running_loop().create_future()

    def finish(self, outcome: Outcome) -> None:
        """See `Entry`."""
        if self.future.done():
            return
        if isinstance(outcome, ServerError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


@dataclass(slots=True)
class Spans:
    """Nanoseconds that one batch spent in each step of its execution."""

    input: int = 0
    infer: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        return self.input + self.infer + self.output


@dataclass(slots=True)
class Report:
    """The result of entries that were taken from the queue together."""

    started: int
    """When the batch was taken; nanoseconds of `time.perf_counter_ns`."""
    rows: int = 0
    spans: Spans = field(default_factory=Spans)
    answered: list[tuple[Entry, list[np.ndarray]]] = field(default_factory=list)
    failed: list[tuple[Entry, ServerError]] = field(default_factory=list)

    def answer(self, entries: list[Entry], outputs: list[np.ndarray]) -> None:
        """Gives each of ``entries`` its rows of ``outputs``."""
        start = 0
        for entry in entries:
            end = start + entry.rows
            mine = outputs if len(entries) == 1 else [output[start:end] for output in outputs]
            self.answered.append((entry, mine))
            start = end
