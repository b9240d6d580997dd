"""Threads that leave the event loop its share of the machine.

Work of more than a fraction of a millisecond runs in a thread, but a thread alone does not protect the loop:
Python's threads take turns of 5 ms by default, and the kernel lets a thread finish a slice of some milliseconds
even while another one, just awakened, waits for the same core. So turns are short here, the loop's slices are
shorter than the other threads' (from Linux 6.12 on a thread that wakes up with a shorter slice goes first), and
the other threads have a slightly lower priority. Not a much lower one: on a machine without a free core, a thread
that holds the interpreter and gets no core would hold up the loop.
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

SWITCH_INTERVAL_S: Final = 0.0002
"""How long a thread may hold the interpreter while another waits for it."""
LOOP_SLICE_S: Final = 0.0005
"""Slice that the loop asks of the kernel, whose default is about 3 ms."""
NICENESS_STEP: Final = 5
"""Added to a background thread's niceness: it still gets a quarter of a core that is fully used."""
DEFAULT_THREADS: Final = 8


def prioritise_event_loop() -> None:
    """Gives the calling thread, which is to run the event loop, short turns and short slices."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _ask_for_slice(LOOP_SLICE_S)


def lower_thread_priority() -> None:
    """Lowers the priority of the calling thread.

    Changes nothing on systems other than Linux, which have no priority for a thread, and in a sandbox that
    forbids it.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        policy, now = os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
        if policy in (os.SCHED_FIFO, os.SCHED_RR):
            # Among real-time threads of the same priority none is preempted.
            os.sched_setscheduler(thread, policy, os.sched_param(max(now - 1, 1)))
        else:
            _ask_for_slice(0.0)
            niceness = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness + NICENESS_STEP, 19))


def pool(threads: int = DEFAULT_THREADS, *, name: str = "background") -> ThreadPoolExecutor:
    """An executor whose threads have a lower priority."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=lower_thread_priority)


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


_SYSCALLS: Final = {"x86_64": (314, 315), "aarch64": (274, 275)}
"""Numbers of sched_setattr and sched_getattr by architecture."""


def _ask_for_slice(seconds: float) -> None:
    """Asks the kernel for slices of that length for this thread; 0.0: its default.

    Kernels before 6.12 accept the call and ignore it.
    """
    calls = _SYSCALLS.get(platform.machine()) if sys.platform == "linux" else None
    if calls is None:
        return
    set_attributes, get_attributes = calls
    kernel, attributes = ctypes.CDLL(None), _Attributes()
    size, pointer = ctypes.sizeof(attributes), ctypes.byref(attributes)
    if kernel.syscall(get_attributes, 0, pointer, size, 0) == 0 and attributes.policy == 0:
        attributes.size, attributes.runtime = size, int(seconds * 1e9)
        kernel.syscall(set_attributes, 0, pointer, 0)
