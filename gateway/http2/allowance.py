"""What a peer may cost: token buckets that work refills and overhead empties."""

from __future__ import annotations

from gateway.http2.errors import ENHANCE_YOUR_CALM, ConnectionFault
from gateway.http2.limits import OVERHEAD_BURST, OVERHEAD_RATE, REMEMBERED_RESETS, RESET_BURST, RESET_RATE


class Allowance:
    """A token bucket; a peer that empties it is ended with ENHANCE_YOUR_CALM."""

    __slots__ = ("burst", "earned", "rate", "tokens", "updated")

    def __init__(self, burst: float, rate: float) -> None:
        """``burst``: tokens when full. ``rate``: tokens per second."""
        self.burst = burst
        self.rate = rate
        self.tokens = burst
        self.earned = 0.0
        """Tokens that useful work has put back since `spend` was last called; add to it."""
        self.updated = 0.0

    def spend(self, tokens: float, now: float) -> bool:
        """Take ``tokens``; False if there are not as many left. ``now``: seconds of a monotonic clock."""
        self.tokens = min(self.burst, self.tokens + self.earned)
        self.earned = 0.0
        if not self.updated:
            self.updated = now
        # Refilled only once it runs out: nearly all frames cost a subtraction.
        elif self.tokens < tokens:
            self.tokens = min(self.burst, self.tokens + (now - self.updated) * self.rate)
            self.updated = now
        self.tokens -= tokens
        return self.tokens >= 0


class Costs:
    """What the peer of one connection may cost; methods that `spend` raise ConnectionFault if it is too much."""

    __slots__ = ("overhead", "recent_resets", "resets")

    def __init__(self) -> None:
        self.overhead = Allowance(OVERHEAD_BURST, OVERHEAD_RATE)
        self.resets = Allowance(RESET_BURST, RESET_RATE)
        self.recent_resets: dict[int, None] = {}
        """Streams that we have reset, of which frames may be in flight."""

    def spend_overhead(self, now: float) -> None:
        if not self.overhead.spend(1.0, now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def spend_reset(self, tokens: float, now: float) -> None:
        if not self.resets.spend(tokens, now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many streams ended early")

    def note_reset(self, stream_id: int) -> None:
        self.recent_resets[stream_id] = None
        if len(self.recent_resets) > REMEMBERED_RESETS:
            del self.recent_resets[next(iter(self.recent_resets))]
