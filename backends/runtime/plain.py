"""Batches of a device process that run one after the other, on any device and for inputs of any shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from backends.batching.entry import Part, Spans
from backends.config import ModelConfig
from backends.owner.layout import Layout, SlotMemory, batch_shape
from backends.owner.messages import Batch
from backends.owner.runner import Outputs
from backends.runtime.executable import TorchExecutable


class PlainRunner:
    """See `Runner`; a batch runs as a whole when its turn has come."""

    buckets: tuple[int, ...] = ()

    def __init__(self, config: ModelConfig, executable: TorchExecutable, slots: SlotMemory) -> None:
        self._config = config
        self._layout = Layout.of(config)
        self._executable = executable
        self._slots = slots
        self.enter = executable.enter
        self.close = executable.close
        self.out_of_memory = executable.out_of_memory
        self.poisoned = executable.poisoned

    def begin(self, batch: Batch, spans: Spans) -> Callable[[], Outputs]:
        """See `Runner`."""
        return lambda: self._run(batch, spans)

    def _run(self, batch: Batch, spans: Spans) -> Outputs:
        parts = tuple(self._part(batch, index, offset) for index, offset in enumerate(self._layout.inputs))
        outputs = self._executable.run([parts], batch.rows, batch.key, spans)
        inline: dict[int, Any] = {}
        for index, (offset, array) in enumerate(zip(self._layout.outputs, outputs, strict=True)):
            if offset is None:
                inline[index] = array
            elif array.nbytes:
                self._slots.view(batch.slot, offset, array.nbytes)[:] = array.data.cast("B")
        return inline

    def _part(self, batch: Batch, index: int, offset: int | None) -> Part:
        if offset is None:
            value = batch.inline[index]
            return value if isinstance(value, np.ndarray) else memoryview(value)
        tensor = self._config.input[index]
        size = math.prod(batch_shape(self._config, tensor, batch.rows)) * tensor.datatype.size
        return self._slots.view(batch.slot, offset, size)
