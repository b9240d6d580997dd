"""Becomes another program, pinned to cores, tied to its parent's life, at a priority of choice.

    python benchmarks/launch.py CORES PRIORITY COMMAND …

PRIORITY is a niceness (0: as everything else), `realtime` (which is 5, so that a peer may put threads of its
own behind), or `realtime:6` to come before such. It runs as a plain script (no import of ours), so that it
costs as little as an interpreter's start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def prepare(cores: set[int], priority: str) -> None:
    """Pins this process, lets SIGTERM follow its parent's death, and takes ``priority``.

    Raises PermissionError for a negative niceness or `realtime` without the right to it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.sched_setaffinity(0, cores)
    kind, _, number = priority.partition(":")
    if kind == "realtime":
        # A kernel with lazy preemption lets a woken task wait for the tick (4 ms) while another runs;
        # on a machine that does other work that alone would be everybody's p99.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(int(number or 5)))
    else:
        os.nice(int(kind))


if __name__ == "__main__":
    prepare({int(core) for core in sys.argv[1].split(",")}, sys.argv[2])
    os.execvp(sys.argv[3], sys.argv[3:])
