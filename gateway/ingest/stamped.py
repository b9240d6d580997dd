"""Units of requests that other proxies served: their decision ids do not say the unit, the record does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.record.decision_id import Opened
from gateway.state.base import StoreUnavailable
from gateway.state.store import RecordStore

NODE_FLUSH_S: Final = 0.25
"""How long a node keeps its rows."""


@dataclass(slots=True)
class StampedUnits:
    """Looks up units, if the route has any."""

    store: RecordStore
    has_unit: Callable[[str], bool]
    flush: Callable[[], float]
    """Seconds between two writes of the record."""

    async def found(self, opened: Sequence[Opened]) -> list[Opened]:
        """The same with their units. A reward may precede its row: what is missing is looked up a second time.

        What is missing then, or while the store is away, stays as it is, and its reward is an observation of its own.
        """
        found = list(opened)
        with suppress(StoreUnavailable):
            missing = await self._look_up(found, range(len(found)))
            if missing:
                await asyncio.sleep(NODE_FLUSH_S + 2 * self.flush())
                await self._look_up(found, missing)
        return found

    async def _look_up(self, found: list[Opened], places: Sequence[int]) -> list[int]:
        """Replace what the record knows; the places that it does not."""
        missing = []
        for place in places:
            one = found[place]
            if not self.has_unit(one.route):
                continue
            outcome = (await self.store.decision(one.decision)).outcome
            if outcome is None:
                missing.append(place)
            elif outcome.route == one.route:
                found[place] = one._replace(unit=outcome.unit & 0xFFFF_FFFF_FFFF_FFFF)
        return missing
