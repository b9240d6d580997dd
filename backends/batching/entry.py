"""One waiting request, and what an instance says of the batches it ran."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from backends.errors import ServerError


@dataclass(slots=True, eq=False)
class Entry:
    """A request between its arrival and its answer."""

    inputs: tuple[np.ndarray, ...]
    rows: int
    key: tuple[tuple[int, ...], ...]
    """Entries with equal keys can share a batch."""
    future: asyncio.Future[list[np.ndarray]]
    """Gets all outputs in the configuration's order; whoever stops waiting sets or cancels it."""
    arrived: int
    """Nanoseconds of `time.perf_counter_ns`."""
    deadline: int
    """The same clock; 0: waits for ever."""


@dataclass(slots=True)
class Spans:
    """Nanoseconds that one batch spent in each part of its way through the model."""

    input: int = 0
    infer: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        return self.input + self.infer + self.output


@dataclass(slots=True)
class Report:
    """What came of entries that were taken from the queue together."""

    started: int
    """When the batch was taken; nanoseconds of `time.perf_counter_ns`."""
    rows: int = 0
    spans: Spans = field(default_factory=Spans)
    answered: list[tuple[Entry, list[np.ndarray]]] = field(default_factory=list)
    failed: list[tuple[Entry, ServerError]] = field(default_factory=list)
