"""Threads that stand back for the event loop.

Whatever takes more than a fraction of a millisecond is done beside the loop. That alone does not help the
requests. Python's threads take turns, and a turn lasts 5 ms unless told otherwise; the kernel lets a thread
finish a slice of some milliseconds even while another, just awakened, waits for the same core. So turns are
short here, the loop's slices are shorter than the other threads' (from Linux 6.12 on a thread that wakes up
with a shorter slice goes first), and the other threads have a slightly lower priority. Not a much lower
one: on a machine that is full, a thread that holds the interpreter and gets no core would hold up the loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

SWITCH: Final = 0.0002
"""Seconds for which a thread may hold the interpreter while another waits for it."""
LOOP_SLICE: Final = 0.0005
"""Seconds for which the loop asks to have the core at a time; the kernel's default is about 3 ms."""
NICE: Final = 5
"""What is added to a background thread's niceness: it still gets a quarter of a core that is full."""
_THREADS: Final = 8


def step_forward() -> None:
    """For the thread of the event loop, before it starts: short turns, short slices."""
    sys.setswitchinterval(SWITCH)
    _ask_for_slice(LOOP_SLICE)


def stand_back() -> None:
    """For every other thread, from within it. Where the kernel has no priority for each thread (all but
    Linux) or a sandbox forbids it, all stay equals."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        policy, now = os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
        if policy in (os.SCHED_FIFO, os.SCHED_RR):
            # Among equals in real time nobody is preempted.
            os.sched_setscheduler(thread, policy, os.sched_param(max(now - 1, 1)))
        else:
            _ask_for_slice(0.0)
            niceness = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness + NICE, 19))


def pool(threads: int = _THREADS, *, name: str = "background") -> ThreadPoolExecutor:
    """An executor whose threads stand back."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=stand_back)


# Slices: sched_setattr(2), which Python does not offer ------------------------------------------------
class _Attributes(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


_CALLS: Final = {"x86_64": (314, 315), "aarch64": (274, 275)}
"""Numbers of sched_setattr and sched_getattr by architecture."""


def _ask_for_slice(seconds: float) -> None:
    """Asks the kernel for slices of that length for this thread; 0 for its default. Kernels before 6.12
    take it and do nothing; one that refuses changes nothing."""
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if calls is None:
        return
    kernel, found = ctypes.CDLL(None), _Attributes()
    if kernel.syscall(calls[1], 0, ctypes.byref(found), ctypes.sizeof(found), 0) == 0 and found.policy == 0:
        found.size, found.runtime = ctypes.sizeof(found), int(seconds * 1e9)
        kernel.syscall(calls[0], 0, ctypes.byref(found), 0)
