"""Keeps the store small: forgets what is too old, folds old aggregates, a bounded step at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.loops.allocation import Allocations
from gateway.state.base import Retention, Store, StoreUnavailable

log = logging.getLogger("turnout.upkeep")

EVERY: Final = 60.0
BREATH: Final = 0.5
"""Between two steps, so that rewards and outcomes get their turn at the store."""


async def keep_small(
    store: Store, allocations: Allocations, document: Callable[[], Document], clock: Clock
) -> None:
    """Runs for ever; only the leader prunes."""
    while True:
        await asyncio.sleep(EVERY)
        try:
            more = allocations.leads
            while more:
                more = await store.prune(retention(document()), now=clock())
                await asyncio.sleep(BREATH)
        except StoreUnavailable as error:
            log.warning("nothing is pruned while the store is away: %s", error)
        except Exception:
            log.exception("pruning failed once; it goes on")


def retention(document: Document) -> Retention:
    """`record.retention` bounds the outcomes; rewards are kept as long at least, or for their usual time."""
    kept = document.record.retention
    if kept is None:
        forever = float("inf")
        return Retention(outcomes=forever, rewards=forever)
    return Retention(outcomes=kept, rewards=max(kept, Retention().rewards))
