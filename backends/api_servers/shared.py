"""Large tensors between an API server and the main process: in memory that both have, one half for each way.

The process that writes a half also keeps its free places; the other one tells it what it no longer reads. So no state
is shared, and what an API server held when it ended is never used again: the next one has memory of its own.
"""

from __future__ import annotations

import weakref
from bisect import bisect
from collections import deque
from collections.abc import Iterable
from mmap import mmap
from typing import Any, Final

import numpy as np

from backends.datatypes import Datatype
from backends.memory import shared_file

MIN_SHARED_BYTES: Final = 32 * 1024
"""Smaller tensors cost less in the messages."""
HALF_BYTES: Final = 256 * 1024 * 1024
"""Address space; memory is only behind what was written once. What finds no place goes into the messages."""
ALIGNMENT: Final = 64

Place = tuple[int, int]
"""Offset and size."""


class Outgoing:
    """The half that this process writes."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._free: list[Place] = [(0, len(memory))]
        """Ascending; neighbours are joined."""
        self._taken: dict[int, int] = {}
        self._added: list[Place] = []

    def put(self, data: memoryview) -> Place | None:
        """Copies ``data`` to the first free place, which is taken until `release`; None if there is none."""
        room = -(-len(data) // ALIGNMENT) * ALIGNMENT
        for index, (start, size) in enumerate(self._free):
            if size >= room:
                self._free[index : index + 1] = [(start + room, size - room)] if size > room else []
                self._taken[start] = room
                self._memory[start : start + len(data)] = data
                place = start, len(data)
                self._added.append(place)
                return place
        return None

    def added(self) -> list[Place]:
        """What was put since the last call."""
        added, self._added = self._added, []
        return added

    def release(self, start: int) -> None:
        """The other process no longer reads what is at ``start``."""
        size = self._taken.pop(start)
        index = bisect(self._free, (start, size))
        if index < len(self._free) and self._free[index][0] == start + size:
            size += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == start:
            index -= 1
            start, before = self._free.pop(index)
            size += before
        self._free.insert(index, (start, size))


class Incoming:
    """The half that the other process writes."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._arrived: dict[int, memoryview] = {}
        self._blocks: dict[int, weakref.ref[Any]] = {}
        self._unread: deque[int] = deque()

    def arrive(self, places: Iterable[Place]) -> None:
        """The next messages may name ``places``; each is taken until `forget`, and as long as a view of it is left."""
        for start, size in places:
            self._arrived[start] = self._block(start, size)

    def forget(self) -> None:
        """The messages have been read: a place that none of them has a view of is free, whatever became of them."""
        self._arrived.clear()

    def view(self, place: Place) -> memoryview:
        """What is at ``place``."""
        return self._arrived[place[0]]

    def _block(self, start: int, size: int) -> memoryview:
        block, unread = np.ndarray(size, np.uint8, self._memory, start), self._unread
        self._blocks[start] = weakref.ref(block, lambda _: unread.append(start))  # in any thread
        return block.data

    def released(self) -> list[int]:
        """The places without a view, each once."""
        starts = [self._unread.popleft() for _ in range(len(self._unread))]
        for start in starts:
            del self._blocks[start]
        return starts


class SharedMemory:
    """Both halves, and tensors as messages carry them: values, or their place."""

    def __init__(self, outgoing: memoryview, incoming: memoryview) -> None:
        self.outgoing = Outgoing(outgoing)
        self.incoming = Incoming(incoming)

    def values_of(self, array: Any, datatype: Datatype) -> Any:
        """``array`` (or the bytes of one) as a message carries it."""
        if datatype.kind == "bytes":
            return array.ravel().tolist()
        array = np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array
        if array.nbytes < MIN_SHARED_BYTES:
            return array
        return self.outgoing.put(memoryview(array).cast("B")) or array

    def bytes_of(self, values: Any) -> memoryview:
        """The bytes of what `values_of` gave for numbers."""
        return self.incoming.view(values) if type(values) is tuple else memoryview(values)

    def array_of(self, values: Any, datatype: Datatype, shape: tuple[int, ...]) -> np.ndarray:
        """The array that `values_of` took."""
        if datatype.kind == "bytes":
            array = np.empty(len(values), dtype=object)
            array[:] = values
            return array.reshape(shape)
        return np.ndarray(shape, datatype.dtype, self.bytes_of(values))


def halves(file: int) -> tuple[memoryview, memoryview]:
    """What the API server writes and what the main process writes, in the file of `new_file`."""
    whole = memoryview(mmap(file, 2 * HALF_BYTES))
    return whole[:HALF_BYTES], whole[HALF_BYTES:]


def new_file() -> int:
    """The descriptor of a file for `halves`."""
    return shared_file(2 * HALF_BYTES)
