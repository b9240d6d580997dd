"""The garbage collector, which holds up all threads while it looks at objects."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_LOCK = Lock()
_pauses = 0
_was_enabled = True


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect no garbage, in any thread, while many objects are made: each collection would look at all of them.

    For work of a moment, since requests leave garbage meanwhile. It may be entered by several threads and tasks.
    """
    global _pauses, _was_enabled
    with _LOCK:
        if not _pauses:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _LOCK:
            _pauses -= 1
            if not _pauses and _was_enabled:
                gc.enable()
