"""The bound on what one backend is given by this process."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

SMOOTHING: Final = 16
"""Intervals over which `ConcurrencyLimiter.slot_interval` is averaged."""


class Waiter(Protocol):
    """A request in the queue of a backend."""

    def on_turn(self) -> None:
        """A slot is free; the waiter has left the queue."""
        ...


@dataclass(frozen=True, slots=True)
class Limit:
    """How much one backend is given by this process."""

    in_flight: int
    waiting: int
    wait: float
    """Seconds."""


class ConcurrencyLimiter:
    """Slots for requests in flight, and a bounded queue for those that wait for one.

    It also counts the retries in flight, which are bounded by a share of all requests in flight (Envoy's retry
    budget): if everything fails, retries must not double the load.
    """

    __slots__ = ("_last_free_at", "in_flight", "limit", "retrying", "slot_interval", "waiting")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.in_flight = 0
        self.retrying = 0
        self.waiting: deque[Waiter] = deque()
        self.slot_interval = 0.0
        """Seconds between two slots that became free while requests waited, smoothed."""
        self._last_free_at = 0.0

    def may_retry(self, share: float, least: int, *, again: bool = False) -> bool:
        """Whether another retry keeps within ``share`` of the requests in flight, or within ``least``.

        Args:
            share: Of the requests in flight.
            least: Retries that are always allowed.
            again: Whether it replaces a retry that has failed, and that still counts.
        """
        return self.retrying - again < max(least, share * self.in_flight)

    def drain_time(self) -> float:
        """Seconds until the queue is likely to be empty."""
        return len(self.waiting) * self.slot_interval

    def would_time_out(self) -> bool:
        """Whether a request that joins the queue now is likely to reach the limit of its wait."""
        return self.drain_time() > self.limit.wait

    @property
    def full(self) -> bool:
        return self.in_flight >= self.limit.in_flight

    @property
    def queue_full(self) -> bool:
        return len(self.waiting) >= self.limit.waiting

    def admit(self, now: float) -> None:
        """Gives a slot that became free to the first in the queue; ``now`` in seconds of a steady clock."""
        interval, self._last_free_at = now - self._last_free_at, now
        if interval < self.limit.wait:  # a longer one means that the queue was empty in between
            self.slot_interval += (interval - self.slot_interval) / SMOOTHING
        # More than one: a waiter may leave without taking the slot, if no address may be used.
        while self.waiting and not self.full:
            self.waiting.popleft().on_turn()
