"""Batches of a device process that overlap: while one is computed, the next is copied in, the last copied out.

Each slot has buffers on the device, so that a copy never touches what another batch computes with. All slots share
the inputs of the graphs, which only the compute stream writes and reads. A batch is padded with zeros to the next
size that has a graph.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from backends.batching.entry import Spans
from backends.config import ModelConfig, TensorConfig
from backends.owner.layout import SLOTS, Layout, SlotMemory, batch_shape, fixed_bytes
from backends.owner.messages import Batch
from backends.owner.runner import Outputs
from backends.runtime.executable import TORCH, TorchExecutable

COPY_IN: Final = "copy in"
COMPUTE: Final = "compute"
COPY_OUT: Final = "copy out"


class Device(Protocol):
    """Streams, events and graphs of a GPU; work of one stream runs in order, that of different ones in any."""

    device: torch.device

    def enqueue(self, stream: str, work: Callable[[], None], *, after: Any) -> Any:
        """Runs ``work`` on ``stream`` once the event ``after`` (None: nothing) has happened.

        Returns the event of its end.
        """
        ...

    def capture(self, work: Callable[[], list[Any]]) -> tuple[Callable[[], None], list[Any]]:
        """A graph of ``work`` for the compute stream: the function that runs it again, and its outputs."""
        ...

    def wait(self, event: Any) -> None:
        """Blocks until ``event`` has happened."""
        ...

    def nanoseconds(self, first: Any, second: Any) -> int:
        """Between two events that have happened."""
        ...

    def pin(self, memory: memoryview) -> None:
        """Lets the GPU read and write ``memory`` itself."""
        ...

    def unpin(self, memory: memoryview) -> None:
        """Undoes `pin`."""
        ...


@dataclass(frozen=True, slots=True)
class Bucket:
    """The graph for one batch size."""

    rows: int
    replay: Callable[[], None]
    outputs: list[Any]


@dataclass(frozen=True, slots=True)
class Side:
    """The tensors of one slot on one side; each holds a full batch."""

    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]


class SlotRunner:
    """See `Runner`."""

    def __init__(
        self, config: ModelConfig, executable: TorchExecutable, device: Device, slots: SlotMemory
    ) -> None:
        """Captures the graphs. Raises whatever the model raises under capture."""
        self._device = device
        self._executable = executable
        self._slots = slots
        self._names = [tensor.name for tensor in config.input]
        self._host = [_host(config, slots, slot) for slot in range(SLOTS)]
        self._near = [_buffers(config, device.device) for _ in range(SLOTS)]
        self._inputs = _buffers(config, device.device).inputs
        self._graphs = [self._capture(rows) for rows in sizes(config.max_batch_size)]
        self.buckets = tuple(bucket.rows for bucket in self._graphs)
        self.enter = executable.enter
        self.out_of_memory = executable.out_of_memory
        self.poisoned = executable.poisoned
        device.pin(slots.whole)

    def begin(self, batch: Batch, spans: Spans) -> Callable[[], Outputs]:
        """See `Runner`."""
        host, near, rows = self._host[batch.slot], self._near[batch.slot], batch.rows
        bucket = self._graphs[bisect_left(self.buckets, rows)]
        device = self._device
        begun = device.enqueue(COPY_IN, _nothing, after=None)
        loaded = device.enqueue(COPY_IN, lambda: _copy(near.inputs, host.inputs, rows), after=None)
        entered = device.enqueue(COMPUTE, _nothing, after=loaded)
        computed = device.enqueue(COMPUTE, lambda: self._compute(bucket, near, rows), after=None)
        stored = device.enqueue(COPY_OUT, lambda: _copy(host.outputs, near.outputs, rows), after=computed)

        def finish() -> Outputs:
            device.wait(stored)
            spans.input += device.nanoseconds(begun, loaded)
            spans.infer += device.nanoseconds(entered, computed)
            spans.output += device.nanoseconds(computed, stored)
            return {}

        return finish

    def close(self) -> None:
        """See `Runner`."""
        self._device.unpin(self._slots.whole)
        self._graphs.clear()
        self._host.clear()
        self._near.clear()
        self._inputs.clear()
        self._executable.close()

    def _compute(self, bucket: Bucket, near: Side, rows: int) -> None:
        _copy(self._inputs, near.inputs, rows)
        for static in self._inputs:
            static[rows : bucket.rows].zero_()
        bucket.replay()
        _copy(near.outputs, bucket.outputs, rows)

    def _capture(self, rows: int) -> Bucket:
        inputs = {name: static[:rows] for name, static in zip(self._names, self._inputs, strict=True)}
        replay, outputs = self._device.capture(lambda: self._executable.compute(inputs, rows))
        return Bucket(rows, replay, outputs)


def sizes(max_batch_size: int) -> list[int]:
    """Batch sizes with a graph: powers of two, and the largest."""
    powers = [1 << power for power in range(max_batch_size.bit_length())]
    return sorted({*powers, max_batch_size})


def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor], rows: int) -> None:
    for target, source in zip(targets, sources, strict=True):
        target[:rows].copy_(source[:rows], non_blocking=True)


def _nothing() -> None:
    """Marks a moment."""


def _buffers(config: ModelConfig, device: torch.device) -> Side:
    def empty(tensor: TensorConfig) -> torch.Tensor:
        shape = batch_shape(config, tensor, config.max_batch_size)
        return torch.zeros(shape, dtype=TORCH[tensor.datatype.name], device=device)

    return Side([empty(tensor) for tensor in config.input], [empty(tensor) for tensor in config.output])


def _host(config: ModelConfig, slots: SlotMemory, slot: int) -> Side:
    layout = Layout.of(config)

    def mapped(tensor: TensorConfig, offset: int | None) -> torch.Tensor:
        assert offset is not None
        view = slots.view(slot, offset, fixed_bytes(config, tensor))
        shape = batch_shape(config, tensor, config.max_batch_size)
        return torch.frombuffer(view, dtype=TORCH[tensor.datatype.name]).view(shape)

    return Side(
        [mapped(tensor, offset) for tensor, offset in zip(config.input, layout.inputs, strict=True)],
        [mapped(tensor, offset) for tensor, offset in zip(config.output, layout.outputs, strict=True)],
    )
