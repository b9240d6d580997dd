"""The load of an event loop's thread: the share of time in which it computes, or waits for a core."""

from __future__ import annotations

import threading
from pathlib import Path
from time import thread_time


class Load:
    """Measures over the time between two calls of `measure`, which the loop's own thread makes."""

    def __init__(self) -> None:
        self.busy = 0.0
        """Share of the last interval in which the thread computed, or (on Linux) was ready to compute while others
        had the core; 1.0: never idle."""
        self._spent = 0.0
        self._since = 0.0
        self._file: Path | None = None

    def measure(self, now: float) -> None:
        """End an interval and begin the next; ``now`` in seconds of a steady clock."""
        if self._file is None:
            self._file = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        spent = self._time()
        if self._since:
            self.busy = (spent - self._spent) / (now - self._since)
        self._spent, self._since = spent, now

    def _time(self) -> float:
        """Seconds computing and waiting so far, from schedstat (proc(5)), which has both in nanoseconds."""
        assert self._file is not None
        try:
            computing, waiting, _ = self._file.read_text().split()
        except (OSError, ValueError):
            return thread_time()
        return (int(computing) + int(waiting)) / 1e9
