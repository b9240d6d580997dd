"""One instance of a version whose batches run in a device process, several in flight."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from backends.batching.entry import Entry, Report
from backends.batching.queue import Queue
from backends.batching.turns import Turns
from backends.config import ModelConfig
from backends.owner.layout import SLOTS, Layout, SlotMemory, batch_shape
from backends.owner.messages import Batch, Result

MIN_PREPARED: Final = 2
"""Batches in flight however small they are: one is computed, the next one is copied. A third must be full."""


class Channel(Protocol):
    """The way to the model in the device process."""

    def send(self, batch: Batch) -> None:
        """Starts ``batch``."""
        ...

    def close(self) -> None:
        """Releases the model."""
        ...

    def kill(self) -> None:
        """Ends the process."""
        ...


@dataclass(slots=True)
class _Running:
    """A batch in flight."""

    entries: list[Entry]
    started: int


class RemoteInstance:
    """Its methods belong to the event loop. A lost process ends it: its batches are left to `retire`."""

    def __init__(
        self,
        config: ModelConfig,
        name: str,
        queue: Queue,
        memory: SlotMemory,
        channel: Channel,
        deliver: Callable[[Report], None],
        *,
        overlapping: bool,
    ) -> None:
        """``overlapping``: whether the process copies one batch while it computes another.

        Without that one batch is in flight, because only in the queue do requests keep their timeouts.
        """
        self.ended: Future[None] = Future()
        """Done when the model is released, or the process is lost."""
        self.started = 0
        """When the oldest batch in flight began, or became the oldest: nanoseconds of `time.perf_counter_ns`.
        0: none runs."""
        self._config = config
        self._name = name
        self._layout = Layout.of(config)
        self._queue = queue
        self._memory = memory
        self._channel = channel
        self._deliver = deliver
        self._overlapping = overlapping
        self._free = deque(range(SLOTS))
        self._running: dict[int, _Running] = {}
        """By slot, in the order of their start, which is that of their results."""
        self._halves: deque[list[Entry]] = deque()
        """Of batches that failed; they run before what waits in the queue."""
        self._turns = Turns(queue, self._turn)

    @property
    def in_flight(self) -> int:
        """Batches that the process holds."""
        return len(self._running)

    def wake(self) -> None:
        """The queue has a new entry, or is closed."""
        self._turns.wake()

    def retire(self) -> list[Entry]:
        """Ends the process if it still runs, and returns the entries that it holds."""
        entries = [entry for running in self._running.values() for entry in running.entries]
        entries += [entry for half in self._halves for entry in half]
        self._running.clear()
        self._halves.clear()
        if not self.ended.done():
            self._channel.kill()
            self.lost()
        return entries

    def lost(self) -> None:
        """The process has ended."""
        if not self.ended.done():
            self._turns.cancel()
            self.started = 0
            self.ended.set_result(None)

    def received(self, result: Result) -> None:
        """A batch is done."""
        running = self._running.pop(result.slot, None)
        # It was retired, and its requests have had their response.
        if running is None or self.ended.done():
            return
        now = time.perf_counter_ns()
        self.started = now if self._running else 0
        self._settle(running, result)
        self._free.append(result.slot)
        self._turns.wake()

    def _settle(self, running: _Running, result: Result) -> None:
        entries = running.entries
        if result.error is not None and len(entries) > 1:
            middle = len(entries) // 2
            self._halves += (entries[:middle], entries[middle:])
            return
        report = Report(running.started, sum(entry.rows for entry in entries), result.spans)
        if result.error is None:
            report.answer(entries, self._outputs(result, report.rows))
        else:
            report.failed.append((entries[0], result.error))
        self._deliver(report)

    def _turn(self) -> None:
        while not self.ended.done() and (batch := self._next()):
            self._begin(batch)
        if self._queue.closed and not (self.ended.done() or self._running or len(self._queue)):
            self._channel.close()
            self.lost()

    def _next(self) -> list[Entry]:
        if not self._free or (self._running and not self._overlapping):
            return []
        while self._halves:
            half = [entry for entry in self._halves.popleft() if not entry.done]
            if half:
                return half
        if len(self._running) >= MIN_PREPARED and not self._queue.full:
            return []
        return self._queue.take_now()

    def _begin(self, entries: list[Entry]) -> None:
        slot = self._free.popleft()
        now = time.perf_counter_ns()
        self.started = self.started or now
        rows = sum(entry.rows for entry in entries)
        self._running[slot] = _Running(entries, now)
        inline = {}
        for index, offset in enumerate(self._layout.inputs):
            parts = [entry.inputs[index] for entry in entries]
            if offset is None:
                inline[index] = _joined(parts)
            else:
                self._write(slot, offset, parts)
        self._channel.send(Batch(slot, len(entries), rows, entries[0].key, inline))

    def _write(self, slot: int, offset: int, parts: list[Any]) -> None:
        for part in parts:
            if part.nbytes:
                self._memory.view(slot, offset, part.nbytes)[:] = memoryview(part).cast("B")
                offset += part.nbytes

    def _outputs(self, result: Result, rows: int) -> list[np.ndarray]:
        arrays = []
        for index, (tensor, offset) in enumerate(zip(self._config.output, self._layout.outputs, strict=True)):
            if offset is None:
                arrays.append(result.inline[index])
                continue
            shape = batch_shape(self._config, tensor, rows)
            view = self._memory.view(result.slot, offset, int(np.prod(shape)) * tensor.datatype.size)
            # A copy: the slot is free again before the responses are written.
            arrays.append(np.frombuffer(bytes(view), tensor.datatype.dtype).reshape(shape))
        return arrays


def _joined(parts: list[Any]) -> Any:
    """Bytes, or for BYTES tensors an array of objects."""
    if isinstance(parts[0], np.ndarray) and parts[0].dtype == object:
        return np.concatenate([part.reshape(-1) for part in parts])
    return b"".join(parts)
