"""The garbage collector, which holds up all threads while it looks at objects."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_LOCK = Lock()
_pauses = 0
_was_enabled = True


def collector_paused(work: Callable[P, T]) -> Callable[P, T]:
    """``work`` without collections of garbage, in any thread, until it returns: each would look at all that it makes.

    For work of a moment that makes many objects, since requests leave garbage meanwhile. Several threads may do so at
    once. It takes a function, not a block: one in which a task waits would leave the collector off for as long as a
    store is slow, and for good if the task is dropped.
    """

    @wraps(work)
    def paused(*args: P.args, **kwargs: P.kwargs) -> T:
        global _pauses, _was_enabled
        with _LOCK:
            if not _pauses:
                _was_enabled = gc.isenabled()
                gc.disable()
            _pauses += 1
        try:
            return work(*args, **kwargs)
        finally:
            with _LOCK:
                _pauses -= 1
                if not _pauses and _was_enabled:
                    gc.enable()

    return paused
