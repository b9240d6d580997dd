"""Memory: what the process keeps after a model has gone, and what it shares with others."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import tempfile
from typing import Final

KEPT_BYTES: Final = 256 * 1024 * 1024
MAX_KEPT_BLOCK_BYTES: Final = 32 * 1024 * 1024
"""glibc's limit."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def settle(*, gone: bool) -> None:
    """Collects garbage, and takes what is left out of later collections.

    Args:
        gone: A model has ended, or failed to load. Its code and an exported program hang in reference cycles, and
            may have been taken out of collections: this one looks through all that ever were, which holds up all
            threads for about 0.2 s once PyTorch is loaded.
    """
    if gone:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    _trim()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _trim() -> None:
    """Returns freed heap pages to the system; each load runs in a thread, and so in an arena, of its own."""
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def keep_freed() -> None:
    """Keeps up to `KEPT_BYTES` of freed memory.

    Otherwise glibc returns the memory of a large body to the system after each request, and the pages for the next
    one cost more than reading it.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, MAX_KEPT_BLOCK_BYTES)


def shared_file(size: int) -> int:
    """The descriptor of a nameless file in memory, for processes that map it."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("turnout", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file
