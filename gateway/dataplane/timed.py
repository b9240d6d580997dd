"""Work in flight that may take too long: checked by the worker's tick instead of by a timer each."""

from __future__ import annotations

from typing import Final, Protocol

from gateway.transport.address import Address

NEVER: Final = float("inf")
"""The deadline of what has none."""


class Timed(Protocol):
    """Inherited explicitly, so that compiled code calls its methods through a table."""

    __slots__ = ()

    deadline: float
    """`perf_counter` when `expire` is due."""
    state: int
    """One of `gateway.dataplane.exchange.states`."""

    def expire(self, now: float) -> None:
        """Ends or moves on what has passed its deadline."""

    def waits_at(self, address: Address, since: float) -> int:
        """Requests that wait for a byte from ``address``: itself, and those queued behind it.

        0 unless it has waited there since before ``since``, through no fault of its client.
        """
        return 0

    def on_silence(self) -> None:
        """Handles a stall of the address that it waits for."""
        return
