"""A second attempt at another address of the same backend; the first response wins.

Only where the route says ``hedge`` and the request may be sent twice. The loser is cancelled immediately, and the
record has one outcome, whose ``attempts`` name both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from gateway.dataplane.exchange.attempt import Attempt, AttemptOwner
from gateway.dataplane.exchange.states import WAITING
from gateway.dataplane.snapshot import HedgePlan
from gateway.transport.address import Address

MAX_CREDIT: Final = 10.0
"""Second attempts that may be saved up while none is needed."""
# Ten shares of 0.1 are a little less than 1.
ROUNDING: Final = 1e-9


class Hedge:
    """The clock of a second attempt, and that attempt once it is in flight."""

    __slots__ = ("_owner", "_plan", "_primary", "_timer", "_tried", "attempt")

    def __init__(
        self, owner: AttemptOwner, primary: Attempt, plan: HedgePlan, tried: Sequence[Address]
    ) -> None:
        """``primary``: a request that is whole and sent. ``tried``: addresses to avoid besides its own."""
        self._owner = owner
        self._primary = primary
        self._plan = plan
        self._tried = tried
        self.attempt: Attempt | None = None
        assert primary.address is not None
        self._timer: asyncio.TimerHandle = primary.address.loop.call_later(plan.after, self._start)
        # With each request: `share` bounds second attempts even while all requests are slow.
        plan.credit = min(plan.credit + plan.share, MAX_CREDIT)

    def _start(self) -> None:
        primary, plan = self._primary, self._plan
        backend = primary.plan.backend
        # A full backend is slow for want of places; a second attempt would take another.
        if primary.state != WAITING or plan.credit < 1.0 - ROUNDING or backend.limiter.full:
            return
        assert primary.address is not None
        address = backend.pick(perf_counter(), (*self._tried, primary.address))
        # `pick` falls back to an address that was tried where it has no other.
        if address is None or address is primary.address or address.stalled:
            return
        plan.credit -= 1.0
        self.attempt = Attempt(self._owner, primary.plan, primary.limits, primary.total_deadline)
        self.attempt.reserve(address)

    @property
    def under_way(self) -> bool:
        """Whether the second attempt has a connection."""
        return self.attempt is not None and self.attempt.connection is not None

    def cancel(self) -> None:
        """Ends it immediately; the attempt keeps its slot until `Attempt.leave`."""
        self._timer.cancel()
        if self.attempt is not None:
            self.attempt.cancel()
