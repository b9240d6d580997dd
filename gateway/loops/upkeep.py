"""Keeps the store small: forgets what is too old, folds old aggregates, a bounded step at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.loops.allocation import Allocations
from gateway.state.base import Retention
from gateway.state.store import RecordStore

PRUNE_S: Final = 60.0
CLOCK_SKEW_S: Final = 60.0
REST: Final = 9.0
"""Seconds of pause after each second of work, so that rewards and outcomes get their turn at the store."""
MIN_PAUSE_S: Final = 0.01
MAX_PAUSE_S: Final = 0.5


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
