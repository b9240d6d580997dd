"""Keeps the store small: forgets what is too old, folds old aggregates, a bounded step at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.loops.allocation import Allocations
from gateway.state.base import MAX_CLOCK_SKEW_S, Retention
from gateway.state.store import RecordStore

log = logging.getLogger("turnout.loops")

PRUNE_S: Final = 60.0
CLOCK_SKEW_S: Final = 60.0
REST: Final = 9.0
"""Seconds of pause after each second of work, so that rewards and outcomes get their turn at the store."""
MIN_PAUSE_S: Final = 0.01
MAX_PAUSE_S: Final = 0.5


SETTLED_S: Final = 3600.0
"""Seconds for which a clock that was set ahead stays so before it decides what is too old."""


class Believed:
    """A clock that goes on as before when the real one is set ahead, until that has stayed so for `SETTLED_S`.

    What is forgotten by a clock that is wrong for a moment does not come back.
    """

    def __init__(self, clock: Clock, steady: Clock) -> None:
        """``steady``: seconds of a clock that is never set."""
        self._clock = clock
        self._steady = steady
        self._ahead = clock() - steady()
        self._set: float | None = None
        """How far the real clock is ahead of the steady one since `_since`; None while it is believed."""
        self._since = 0.0

    def __call__(self) -> float:
        steady, now = self._steady(), self._clock()
        ahead = now - steady
        if ahead - self._ahead > MAX_CLOCK_SKEW_S:
            if self._set is None or ahead - self._set > MAX_CLOCK_SKEW_S:
                self._set, self._since = ahead, steady
                log.warning("the clock was set ahead; nothing is forgotten by it for %g s", SETTLED_S)
            if steady - self._since < SETTLED_S:
                return steady + self._ahead
        self._ahead, self._set = ahead, None
        return now


async def prune_store(
    store: RecordStore,
    allocations: Allocations,
    document: Callable[[], Document],
    clock: Clock,
    keep_from: Callable[[], float],
) -> None:
    """Prunes as long as there is something to prune, and this process is the leader.

    ``keep_from``: what was decided since then is not in the archive yet, in seconds since the epoch. What it and
    ``document`` say may change meanwhile.
    """
    more = True
    while more and allocations.leads:
        began = clock()
        more = await store.prune(retention(document(), began - keep_from()), now=began)
        await asyncio.sleep(min(MAX_PAUSE_S, max(MIN_PAUSE_S, REST * (clock() - began))))


def retention(document: Document, unarchived: float = -inf) -> Retention:
    """`record.retention` bounds the outcomes; rewards are kept as long at least.

    Without an archive they are kept for their usual time; with one, outcomes are kept for ``unarchived`` seconds.
    """
    record, usual = document.record, Retention().rewards
    kept = max(inf if record.retention is None else record.retention, unarchived)
    min_rewards = max((metric.window for metric in document.metrics.values()), default=0.0) + CLOCK_SKEW_S
    return Retention(
        outcomes=kept,
        # A page of outcomes may stay for an hour longer than its rows.
        rewards=max(kept + 7200.0, min_rewards, usual if record.archive is None else 0.0),
        max_bytes=inf if record.max_size is None else record.max_size,
        min_rewards=min_rewards,
    )
