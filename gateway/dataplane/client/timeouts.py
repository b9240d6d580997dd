"""How fast a client sends a body and takes a response: checked every second instead of by a timer each."""

from __future__ import annotations

from time import perf_counter

from gateway.dataplane.snapshot import Limits


class BodyProgress:
    """Bytes of the body that is arriving, against the rate that `Limits` asks for."""

    __slots__ = ("read", "since")

    def __init__(self) -> None:
        self.read = 0
        self.since = 0.0
        """When the body began, later by the time for which it was not being read."""

    def too_slow(self, now: float, last_read: float, limits: Limits) -> bool:
        """Whether the body comes too slowly. ``last_read``: when bytes last came."""
        # The whole body, not the last second: a client that stops and goes may be as fast on average.
        earned = limits.body_min_rate * (now - self.since - limits.body_grace)
        return self.read < earned or now - last_read > limits.body_timeout


class WriteProgress:
    """Bytes of responses: written, and taken by the client."""

    __slots__ = ("taken", "taken_at", "written")

    def __init__(self) -> None:
        self.written = 0
        self.taken = 0
        self.taken_at = perf_counter()
        """When the client last took any."""

    def stuck(self, unsent: int, now: float, timeout: float) -> bool:
        """Whether the client has taken none of the ``unsent`` bytes for more than ``timeout`` seconds."""
        taken = self.written - unsent
        if not unsent or taken > self.taken:
            self.taken, self.taken_at = taken, now
            return False
        return now - self.taken_at > timeout
