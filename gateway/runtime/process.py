"""Settings of the operating system and the interpreter for a serving process."""

from __future__ import annotations

import ctypes
import gc
import logging
import resource
from typing import Final

log = logging.getLogger("turnout")

M_MMAP_THRESHOLD: Final = -3
M_TRIM_THRESHOLD: Final = -1
"""Parameters of mallopt(3)."""


def raise_open_files(connections: int) -> None:
    """Raise the soft limit of open files to the hard one; warn if that is too low for ``connections``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = 2 * connections
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning(
            "at most %d files may be open, and 'limits.connections: %d' may need %d: raise the limit "
            "(ulimit -n, LimitNOFILE) or lower the option",
            hard,
            connections,
            wanted,
        )


def freeze_collector() -> None:
    """Exclude the objects of the start from garbage collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def keep_freed_memory() -> None:
    """Let glibc keep up to 16 MiB of freed memory.

    It would return each large block to the kernel, and request it again, page by page, for the next body: that was half
    of the CPU time of a 1 MiB body.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 4 << 20)
        mallopt(M_TRIM_THRESHOLD, 16 << 20)
