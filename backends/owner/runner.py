"""How a device process runs the batches of one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from backends.batching.entry import Spans
from backends.owner.messages import Batch

Outputs = dict[int, Any]
"""By index, the outputs without a place in the slot; the others have been written there."""


class Runner(Protocol):
    """`begin` is called in one thread, everything else in another; batches end in the order of their begin."""

    buckets: tuple[int, ...]
    """The batch sizes with a CUDA graph."""

    def enter(self) -> None:
        """Prepares the thread that finishes."""
        ...

    def begin(self, batch: Batch, spans: Spans) -> Callable[[], Outputs]:
        """Starts ``batch``; the function that waits for its end. It may raise what the model raises."""
        ...

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether ``error`` says that memory ran out."""
        ...

    def poisoned(self) -> bool:
        """Whether the device is unusable for this process after an error."""
        ...

    def close(self) -> None:
        """Releases the model."""
        ...
