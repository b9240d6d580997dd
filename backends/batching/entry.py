"""One waiting request, and an instance's report on the batches it ran."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from backends.errors import ServerError

Outcome = list[np.ndarray] | ServerError
"""All outputs in the configuration's order, or why there are none."""


class Entry:
    """A request between its arrival and its response; `finish` is called once, on the event loop."""

    __slots__ = ("arrived", "deadline", "done", "finish", "inputs", "key", "rows", "taken")

    def __init__(
        self,
        inputs: tuple[np.ndarray, ...],
        rows: int,
        key: tuple[tuple[int, ...], ...],
        finish: Callable[[Outcome], None],
        arrived: int,
        deadline: int = 0,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key = key
        """Entries with equal keys can share a batch."""
        self.finish = finish
        self.arrived = arrived
        """Nanoseconds of `time.perf_counter_ns`."""
        self.deadline = deadline
        """The same clock; 0: none."""
        self.done = False
        """Whether it has been responded to, or its client has left."""
        self.taken = False
        """Whether it has left the queue."""

    def settle(self, outcome: Outcome) -> bool:
        """Hands ``outcome`` to `finish`, unless it is settled already."""
        if self.done:
            return False
        self.done = True
        self.finish(outcome)
        return True


def into(future: asyncio.Future[list[np.ndarray]]) -> Callable[[Outcome], None]:
    """A `finish` that resolves ``future``."""

    def finish(outcome: Outcome) -> None:
        if future.done():
            return
        if isinstance(outcome, ServerError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return finish


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
