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
    """Exclude the objects of the start from garbage collection, and collect few objects at a time.

    A collection holds up all threads for 0.2 µs for each object that it looks at, on busy cores up to 0.9 µs: 2 ms for
    those that are new, up to 6 for those that outlived two collections, and far longer for all others, which is
    therefore done rarely. With fewer new ones, hundreds of requests in flight would set off a collection again and
    again: 4 % of the CPU at 2,000 objects and 500 connections, 0.6 % at 5,000.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 2, 3_000)


def keep_freed_memory() -> None:
    """Let glibc keep up to 16 MiB of freed memory.

    It would return each large block to the kernel, and request it again, page by page, for the next body: that was half
    of the CPU time of a 1 MiB body.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 4 << 20)
        mallopt(M_TRIM_THRESHOLD, 16 << 20)
