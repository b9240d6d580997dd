"""The files in which workers share their metrics: prometheus_client's multiprocess mode."""

from __future__ import annotations

import os
import sys
from typing import Final

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_FIRST_BYTES: Final = 4096
_ENTRY_BYTES: Final = 28
"""Of an entry without its key, at most."""


def share_values() -> None:
    """Keep the values of metrics that are made from now on in the folder of the workers.

    The library chooses when it is imported, before there is a folder.
    """
    values.MmapedDict = _AllocatedFile  # type: ignore[attr-defined]
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


class _AllocatedFile(MmapedDict):
    """A file with room on the disk before it is written to, else OSError is raised.

    The library leaves that to the kernel, which ends the process (SIGBUS) if the disk is full.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            _allocate(filename, _FIRST_BYTES)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        capacity = self._capacity
        while self._used + len(key.encode()) + _ENTRY_BYTES > capacity:
            capacity *= 2
        if capacity > self._capacity:
            _allocate(self._fname, capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def _allocate(path: str, size: int) -> None:
    if sys.platform != "linux":
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        if not os.fstat(descriptor).st_size:
            os.unlink(path)  # a scrape can't read an empty one
        raise
    finally:
        os.close(descriptor)
