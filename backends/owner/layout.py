"""The memory that the server and a device process share: for each slot, all inputs and outputs of one batch."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import Final

from backends.config import ModelConfig, TensorConfig

SLOTS: Final = 3
"""Batches in flight: one is copied in, one computed, one copied out."""
ALIGNMENT: Final = 256
MAX_SLOT_BYTES: Final = 1 << 30
"""Tensors of larger slots are sent through the socket."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in a slot; None: the size of the tensor is not known beforehand, it is sent through the socket."""

    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    size: int
    """Bytes of one slot."""

    @classmethod
    def of(cls, config: ModelConfig) -> Layout:
        """Equal configurations give equal layouts, so that both processes compute it."""
        place = 0
        offsets: list[int | None] = []
        tensors = (*config.input, *config.output)
        for tensor in tensors:
            size = fixed_bytes(config, tensor)
            offsets.append(place if size else None)
            place += -(-size // ALIGNMENT) * ALIGNMENT
        if place > MAX_SLOT_BYTES:
            place, offsets = 0, [None] * len(tensors)
        inputs = len(config.input)
        return cls(tuple(offsets[:inputs]), tuple(offsets[inputs:]), place)

    @property
    def all_slots(self) -> int:
        """Bytes of all slots."""
        return self.size * SLOTS

    @property
    def complete(self) -> bool:
        """Whether every tensor has its place."""
        return None not in self.inputs and None not in self.outputs


def batch_shape(config: ModelConfig, tensor: TensorConfig, rows: int) -> tuple[int, ...]:
    """The shape of ``tensor`` in a batch of ``rows``."""
    return (rows, *tensor.dims) if config.max_batch_size else tensor.dims


def fixed_bytes(config: ModelConfig, tensor: TensorConfig) -> int:
    """Bytes of ``tensor`` in a full batch; 0 if that depends on the request."""
    if tensor.datatype.kind == "bytes" or -1 in tensor.dims:
        return 0
    return math.prod(batch_shape(config, tensor, config.max_batch_size)) * tensor.datatype.size


class SlotMemory:
    """The mapping of one side."""

    def __init__(self, layout: Layout, file: int) -> None:
        """``file`` has `Layout.all_slots` bytes; it may be closed afterwards."""
        self._size = layout.size
        self._bytes = memoryview(mmap.mmap(file, layout.all_slots) if layout.size else b"")

    @property
    def whole(self) -> memoryview:
        """All slots."""
        return self._bytes

    def view(self, slot: int, offset: int, size: int) -> memoryview:
        """``size`` bytes at ``offset`` of ``slot``."""
        start = slot * self._size + offset
        return self._bytes[start : start + size]
