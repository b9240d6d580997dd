"""Look-up of requests by request id, for rewards of clients that do not see response headers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.record.decision_id import Opened
from gateway.record.events import Outcome
from gateway.record.request_ids import AMBIGUOUS, keys_of, request_key
from gateway.state.base import DecisionRecord
from gateway.state.store import RecordStore

MAX_TOGETHER: Final = 32
"""Decisions that one call looks up at the same time."""
SLACK_S: Final = 60.0
"""Time that an entry outlives the longest window of a metric, because clocks differ."""


@dataclass(frozen=True, slots=True)
class Found:
    """The request behind an id."""

    opened: Opened
    """Contents of its sealed decision id."""
    principal: str
    """Id of the API key that made the request."""


@dataclass(slots=True)
class RequestIds:
    """Indexes requests and looks them up, if the configuration enables it."""

    store: RecordStore
    document: Callable[[], Document]
    clock: Clock
    context: Callable[[str, str], bytes]
    """(route, features of the outcome as JSON) → the packed row of a sealed id."""

    @property
    def enabled(self) -> bool:
        return self.document().record.request_ids

    async def index(self, outcomes: Sequence[Outcome]) -> None:
        """Index the requests of a batch until no reward is accepted any more. Raises StoreUnavailable."""
        if self.enabled:
            windows = [metric.window for metric in self.document().metrics.values()]
            keep = max(windows, default=0.0) + SLACK_S
            await self.store.index_requests(keys_of(outcomes), now=self.clock(), keep=keep)

    async def find(
        self, wanted: Sequence[tuple[str, str]], principal: str = "", *, of_others: bool = True
    ) -> list[Found | bytes | None]:
        """For each (route, request id): the request, `AMBIGUOUS`, or None if unknown.

        A reward may arrive before the record is written, so unknown ids are looked up a second time.

        Args:
            wanted: Routes and request ids.
            principal: Who asks. Its own request comes before those of others with the same id.
            of_others: Whether requests of others are found too.

        Raises:
            StoreUnavailable: The store is away.
        """
        found: list[Found | bytes | None] = [None] * len(wanted)
        for delay in (0.0, 2 * self.document().record.flush):
            for entries_of in dict.fromkeys((principal, "")):
                missing = [place for place, one in enumerate(found) if one is None]
                if not missing:
                    return found
                await asyncio.sleep(delay)
                delay = 0.0
                each = await self._find([wanted[place] for place in missing], entries_of)
                for place, one in zip(missing, each, strict=True):
                    # In the common entry too: an earlier release wrote no other.
                    own = entries_of == principal or (isinstance(one, Found) and one.principal == principal)
                    found[place] = one if own or of_others else None
        return found

    async def _find(self, wanted: Sequence[tuple[str, str]], entries_of: str) -> list[Found | bytes | None]:
        by_route: dict[str, list[int]] = {}
        for place, (route, _) in enumerate(wanted):
            by_route.setdefault(route, []).append(place)
        found: list[Found | bytes | None] = [None] * len(wanted)
        for route, places in by_route.items():
            keys = [request_key(route, wanted[place][1], entries_of) for place in places]
            decisions = await self.store.find_requests(route, keys)
            known = [(p, d) for p, d in zip(places, decisions, strict=True) if d is not None]
            for at in range(0, len(known), MAX_TOGETHER):
                some = known[at : at + MAX_TOGETHER]
                each = await asyncio.gather(*(self._opened(d, *wanted[p]) for p, d in some))
                for (place, _), one in zip(some, each, strict=True):
                    found[place] = one
        return found

    async def _opened(self, decision: bytes, route: str, request_id: str) -> Found | bytes | None:
        if decision == AMBIGUOUS:
            return AMBIGUOUS
        found = await self.store.decision(decision, route)
        outcome = found.outcome
        if outcome is None or (outcome.route, outcome.request_id) != (route, request_id):
            return None  # not written yet, or pruned
        opened = Opened(
            decision=decision,
            decided=int.from_bytes(decision[:6], "big") / 1000.0,
            unit=outcome.unit & 0xFFFF_FFFF_FFFF_FFFF,
            route=route,
            assigned=outcome.assigned,
            served=outcome.rewarded_as,
            epoch=outcome.epoch,
            propensity=outcome.propensity,
            forced=outcome.forced,
            context=self._context(found, outcome),
        )
        return Found(opened, outcome.principal)

    def _context(self, found: DecisionRecord, outcome: Outcome) -> bytes:
        """The packed features; those of the first report if there was one, so that a correction after an edit of the
        declaration moves the sums that the report moved."""
        if found.rewards:
            return bytes.fromhex(found.rewards[0].context)
        return self.context(outcome.route, outcome.features) if outcome.features else b""
