"""Keeps the store small: forgets what is too old, folds old aggregates, a bounded step at a time."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.loops.allocation import Allocations
from gateway.state.base import Retention
from gateway.state.store import RecordStore

PRUNE_S: Final = 60.0
CLOCK_SKEW_S: Final = 60.0
PAUSE_S: Final = 0.5
"""Between two steps, so that rewards and outcomes get their turn at the store."""


async def prune_store(store: RecordStore, allocations: Allocations, document: Document, clock: Clock) -> None:
    """Prunes as long as there is something to prune, if this process is the leader."""
    more = allocations.leads
    while more:
        more = await store.prune(retention(document), now=clock())
        await asyncio.sleep(PAUSE_S)


def retention(document: Document) -> Retention:
    """`record.retention` bounds the outcomes; rewards are kept as long at least, or for their usual time."""
    kept = inf if document.record.retention is None else document.record.retention
    windows = (metric.window for metric in document.metrics.values())
    return Retention(
        outcomes=kept,
        rewards=max(kept, Retention().rewards),
        max_bytes=inf if document.record.max_size is None else document.record.max_size,
        min_rewards=max(windows, default=0.0) + CLOCK_SKEW_S,
    )
