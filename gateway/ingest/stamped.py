"""Requests that other proxies served: their decision ids do not say the unit, the record does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.ingest.metric_values import RejectedItem
from gateway.record.decision_id import Opened
from gateway.state.base import StoreUnavailable
from gateway.state.store import RecordStore

NODE_FLUSH_S: Final = 0.25
"""How long a node keeps its rows."""
_UNKNOWN: Final = "No row of this request has arrived from its node; report the value again in some seconds."


@dataclass(slots=True)
class StampedUnits:
    """Looks up the rows of requests, where a route has units or its engine's ids are joined."""

    store: RecordStore
    has_unit: Callable[[str], bool]
    joined: Callable[[str], bool]
    """Whether a reward of the route counts only with the row of its request."""
    flush: Callable[[], float]
    """Seconds between two writes of the record."""

    async def found(self, opened: Sequence[Opened]) -> list[Opened | RejectedItem]:
        """The same with their units. A reward may precede its row: what is missing is looked up a second time.

        What is missing then stays as it is, and its reward is an observation of its own; joined, it is rejected. Raises
        StoreUnavailable if the store is away and a joined one could not be looked up.
        """
        found: list[Opened | RejectedItem] = list(opened)
        wanted = [
            (n, one) for n, one in enumerate(opened) if self.has_unit(one.route) or self.joined(one.route)
        ]
        try:
            missing = await self._look_up(found, wanted)
            if missing:
                await asyncio.sleep(NODE_FLUSH_S + 2 * self.flush())
                missing = await self._look_up(found, missing)
        except StoreUnavailable:
            if any(self.joined(one.route) for _, one in wanted):
                raise
            return found
        for place, one in missing:
            if self.joined(one.route):
                found[place] = RejectedItem("unknown_request", _UNKNOWN)
        return found

    async def _look_up(
        self, found: list[Opened | RejectedItem], wanted: Sequence[tuple[int, Opened]]
    ) -> list[tuple[int, Opened]]:
        """Replace what the record knows; return the rest."""
        missing = []
        for place, one in wanted:
            row = (await self.store.decision(one.decision, one.route)).outcome
            if row is None or (row.route, row.assigned, row.epoch) != (one.route, one.assigned, one.epoch):
                missing.append((place, one))
            else:  # what the node says of itself: the holder of an id could write another name at its end
                found[place] = one._replace(unit=row.unit & 0xFFFF_FFFF_FFFF_FFFF, served=row.served)
        return missing
