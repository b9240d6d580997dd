"""How many bytes the requests that wait or run may hold, in all queues together."""

from __future__ import annotations

from typing import Final

import numpy as np

from backends.errors import Unavailable

MAX_PENDING_BYTES: Final = 1 << 30
OBJECT_BYTES: Final = 41
"""Of each element of a BYTES tensor beyond its text: the object's head, and the pointer to it."""


class PendingBytes:
    """Used on the event loop only."""

    def __init__(self, limit: int = MAX_PENDING_BYTES) -> None:
        self.used = 0
        self._limit = limit

    def add(self, size: int) -> None:
        """Counts ``size`` more bytes. Raises Unavailable if that exceeds the limit."""
        if self.used + size > self._limit:
            raise Unavailable(
                f"the pending requests hold {self.used} bytes, and may hold {self._limit}; "
                "try again as Retry-After says"
            )
        self.used += size


def size_of(part: memoryview | np.ndarray) -> int:
    """Bytes that an input holds."""
    if isinstance(part, np.ndarray) and part.dtype == object:
        return OBJECT_BYTES * part.size + sum(map(len, part.flat))
    return part.nbytes
