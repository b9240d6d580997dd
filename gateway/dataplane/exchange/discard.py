"""Responses that are no longer wanted: read to their end within bounds, or awaited as a sign of life."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from gateway.dataplane.exchange.attempt import Attempt, AttemptOwner, ResponseSink
from gateway.dataplane.timed import Timed
from gateway.transport.base import ResponseHead

MAX_DISCARD_BYTES: Final = 65_536
"""A longer response costs its connection."""
MAX_DISCARD_S: Final = 1.0
MAX_STRAGGLERS: Final = 4
"""Attempts that are left with a stalled address, to see whether it still responds."""


class Discard(ResponseSink, AttemptOwner):
    """Reads the rest of a response within bounds, so that its connection can serve again.

    Of a straggler (an attempt whose client got another response, at an address that has stalled) whatever happens
    shows that something has changed there: the next request may try that address immediately.
    """

    __slots__ = ("_active", "_attempt", "_bytes_left", "_straggler")

    def __init__(self, attempt: Attempt, active: set[Timed], *, straggler: bool) -> None:
        self._attempt = attempt
        self._active = active
        self._bytes_left = MAX_DISCARD_BYTES
        self._straggler = straggler
        attempt.owner = self

    @staticmethod
    def response(attempt: Attempt, active: set[Timed]) -> None:
        """Drops a response whose head has come; the attempt stays in ``active`` until it is over."""
        Discard(attempt, active, straggler=False)._accept(attempt)

    @staticmethod
    def straggler(attempt: Attempt, active: set[Timed]) -> bool:
        """Leaves an attempt with its stalled address, if it was sent and there are few such attempts."""
        address = attempt.address
        if attempt.connection is None or address is None or address.stragglers >= MAX_STRAGGLERS:
            return False
        address.stragglers += 1
        Discard(attempt, active, straggler=True)
        return True

    def _accept(self, attempt: Attempt) -> None:
        attempt.accept(self)
        attempt.deadline = perf_counter() + MAX_DISCARD_S

    def on_head(self, attempt: Attempt, response: ResponseHead) -> None:
        assert attempt.address is not None
        # It responds, if late: the next request may find out whether it is well again.
        attempt.address.last_byte_at = attempt.address.next_probe_at = perf_counter()
        self._accept(attempt)

    def on_data(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._cut()

    def flush(self) -> bool:
        return False

    def on_end(self, attempt: Attempt, trailers: bytes) -> None:
        self._over()

    def on_failure(self, attempt: Attempt, code: str, detail: str, *, idle_close: bool) -> None:
        if self._straggler and attempt.address is not None:
            attempt.address.next_probe_at = perf_counter()
        self._over()

    def on_expired(self, attempt: Attempt, code: str) -> None:
        self._cut()

    def on_tunnel(self, attempt: Attempt, response: ResponseHead, data: bytes) -> None:
        self._cut()

    def _cut(self) -> None:
        self._attempt.cancel()
        self._over()

    def _over(self) -> None:
        attempt = self._attempt
        self._active.remove(attempt)
        if self._straggler and attempt.address is not None:
            attempt.address.stragglers -= 1
        attempt.leave()
