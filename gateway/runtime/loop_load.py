"""How busy an event loop's thread is: computing, or ready to and waiting for a core."""

from __future__ import annotations

import threading
from pathlib import Path
from time import thread_time


class Load:
    """Measured over the time between two calls of `measure`, which belong on the loop's thread."""

    def __init__(self) -> None:
        self.busy = 0.0
        """The share of the last interval in which the thread was not idle: computing, or (on Linux) ready to
        compute while others had the core. 1.0 means that there is always something left to do."""
        self._spent = 0.0
        self._since = 0.0
        self._file: Path | None = None

    def measure(self, now: float) -> None:
        """``now``: seconds of a steady clock."""
        if self._file is None:
            self._file = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        spent = self._time()
        if self._since:
            self.busy = (spent - self._spent) / (now - self._since)
        self._spent, self._since = spent, now

    def _time(self) -> float:
        """Seconds so far; see proc(5) on schedstat: nanoseconds computing, nanoseconds waiting for a core."""
        assert self._file is not None
        try:
            computing, waiting, _ = self._file.read_text().split()
        except (OSError, ValueError):
            return thread_time()
        return (int(computing) + int(waiting)) / 1e9
