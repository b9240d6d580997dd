"""What the process keeps after a model has gone."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys


def settle() -> None:
    """Collects garbage, and takes what is left out of later collections.

    A module's code and an exported program hang in reference cycles, and frozen objects are never
    collected: hence unfreeze first. Costs about 0.2 s once PyTorch is loaded, so only loads call it.
    """
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
