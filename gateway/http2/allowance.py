"""What a peer may cost: token buckets that work refills and overhead empties."""

from __future__ import annotations


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
