"""Log lines about a store that is away: one line when it begins, one a minute while it lasts, one when it is over."""

from __future__ import annotations

import logging
from typing import Final

from gateway.clock import Clock, wall
from gateway.state.base import StoreUnavailable

log = logging.getLogger("turnout.store")

_REMINDER_S: Final = 60.0


class StoreOutage:
    """What all users of one store in one process report their failures and successes to."""

    def __init__(self, clock: Clock = wall) -> None:
        self._clock = clock
        self._failing: set[str] = set()
        self._since = 0.0
        self._told = 0.0

    @property
    def since(self) -> float | None:
        """When the first attempt failed, in seconds since the epoch; None while the store is available."""
        return self._since if self._failing else None

    def failed(self, user: str, error: StoreUnavailable) -> None:
        """``user`` could not reach the store."""
        now = self._clock()
        if not self._failing:
            self._since = self._told = now
            log.warning(
                "the store is unavailable: %s Requests continue; allocations and rollouts keep their state, "
                "rewards wait in the spool, outcomes in memory",
                error,
            )
        elif now - self._told >= _REMINDER_S:
            self._told = now
            users = ", ".join(sorted(self._failing | {user}))
            log.warning("the store has been unavailable for %.0f s (%s): %s", now - self._since, users, error)
        self._failing.add(user)

    def worked(self, user: str) -> None:
        """``user`` has reached the store, or had nothing to ask of it."""
        if user in self._failing:
            self._failing.remove(user)
            if not self._failing:
                log.info("the store is available again after %.0f s", self._clock() - self._since)
