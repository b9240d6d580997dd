"""Writes the record to the archive, an hour of a route at a time.

Each hour is written twice: soon after it ends, and finally when no reward can arrive for it any more. The store keeps
an hour until it was written finally.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import inf
from typing import Final

from gateway.archive.base import HOUR_S, Archive
from gateway.archive.open import open_archive
from gateway.archive.record import WholeRecord
from gateway.clock import Clock
from gateway.config.document import Document
from gateway.state import shapes
from gateway.state.base import StoreUnavailable, of_stored
from gateway.state.store import Store

log = logging.getLogger("turnout.archive")

KIND: Final = shapes.kind("archive", {"early?": int, "final?": int})
"""Kind of the documents that hold how far each route is written."""
ARCHIVE_S: Final = 60.0
SETTLE_S: Final = 600.0
"""Seconds for outcomes and spooled rewards to reach the store: after an hour, and after the store was unavailable."""
PAUSE_S: Final = 0.02
"""Between two pieces, so that rewards and outcomes get their turn at the store."""


@dataclass(frozen=True, slots=True)
class Written:
    """How far a route is written, in hours since the epoch."""

    early: int = 0
    """Hours before this one are in the archive, perhaps without their last rewards."""
    final: int = 0
    """Hours before this one do not change any more."""


class Archiving:
    """The archive of this process, which only the leader writes."""

    def __init__(
        self, store: Store, *, document: Callable[[], Document], leads: Callable[[], bool], clock: Clock
    ) -> None:
        self._store = store
        self._document = document
        self._leads = leads
        self._clock = clock
        self._since: float | None = None
        """Since when the store is available and this process leads."""
        self._unwritten: float | None = None
        self._problems: dict[str, str] = {}
        self._begin: dict[str, int] = {}
        """By route: hours before this one have nothing to write."""

    def keep_from(self) -> float:
        """The store must keep what was decided since then; -inf while that is not known."""
        if self._document().record.archive is None:
            return inf
        return -inf if self._unwritten is None else self._unwritten

    def troubles(self) -> dict[str, str]:
        """Code of an alarm → its message, empty if all is well."""
        problems = "; ".join(sorted(set(self._problems.values())))
        message = f"The record is not archived, and the store keeps it: {problems}." if problems else ""
        return {"archive_failed": message}

    async def step(self) -> None:
        """Write the hours that are due. Raises StoreUnavailable."""
        document = self._document()
        url, now = document.record.archive, self._clock()
        if url is None or not self._leads():
            self._since, self._unwritten, self._problems = None, None, {}
            return
        try:
            routes = document.routes.keys() | await self._store.published()
        except StoreUnavailable:
            self._since = None
            raise
        # The earlier one: with that of a clock that was ahead, nothing would be written until it is there again.
        self._since = now if self._since is None else min(self._since, now)
        # What the spools of other processes hold comes only once the store is back.
        if now < self._since + SETTLE_S:
            return
        since = {
            route: max((await self._written(route))[1].final, self._begin.get(route, 0)) for route in routes
        }
        first = await self._store.first_times({route: hour * HOUR_S for route, hour in since.items()})
        # What comes later than an hour's final writing is not archived: such hours need not be looked at again.
        over = int((now - self._window() - HOUR_S) // HOUR_S)
        hours = {route: int(time // HOUR_S) for route, time in first.items()}
        self._begin = {route: min(over, hours.get(route, over)) for route in routes}
        self._problems = {route: self._problems[route] for route in self._problems.keys() & hours.keys()}
        rest = [await self._route(url, route, hour) for route, hour in sorted(hours.items())]
        self._unwritten = min(rest, default=inf)

    def _window(self) -> float:
        """Seconds after a decision in which rewards may arrive."""
        return max((metric.window for metric in self._document().metrics.values()), default=0.0)

    async def _route(self, url: str, route: str, first: int) -> float:
        """Write what is due of a route, which has nothing before the hour ``first``; since when it must be kept."""
        version, written = await self._written(route)
        about = f"the record of {route}"
        try:
            archive = await asyncio.to_thread(open_archive, url)
            while (due := await self._due(route, written, first)) is not None:
                hour, final = due
                about = f"the hour from {datetime.fromtimestamp(hour * HOUR_S, UTC):%Y-%m-%d %H:%M} UTC of {route}"
                await self._write(archive, route, hour, final)
                after = Written(max(written.early, hour + 1), hour + 1 if final else written.final)
                text = json.dumps(asdict(after))
                # After the file is complete: a crash in between writes the hour again, and loses none.
                if not await self._store.save(KIND, f"route {route}", text, expected=version):
                    break  # another process leads now
                version, written = version + 1, after
            self._problems.pop(route, None)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - of whatever kind: it holds up no other route, and an alarm tells
            self._problems[route] = str(error).rstrip(".") or type(error).__name__
            log.warning("%s could not be archived: %s", about, error)
        oldest = await self._next(route, max(written.final, first))
        return inf if oldest is None else oldest * HOUR_S

    async def _written(self, route: str) -> tuple[int, Written]:
        stored = await self._store.load(KIND, f"route {route}")
        return (0, Written()) if stored is None else (stored[0], of_stored(Written, json.loads(stored[1])))

    async def _due(self, route: str, written: Written, first: int) -> tuple[int, bool] | None:
        """The next hour to write, and whether for the last time."""
        hour = await self._next(route, max(written.final, first))
        if hour is not None and (hour + 1) * HOUR_S + self._window() + HOUR_S <= self._clock():
            return hour, True
        hour = await self._next(route, max(written.early, first))
        if hour is not None and (hour + 1) * HOUR_S + SETTLE_S <= self._clock():
            return hour, False
        return None

    async def _next(self, route: str, hour: int) -> int | None:
        """The first hour from ``hour`` on with a decision."""
        found = await self._store.records(route=route, since=hour * HOUR_S, limit=1)
        if not found or found[0].outcome is None:
            return None
        return int(found[0].outcome.time // HOUR_S)

    async def _write(self, archive: Archive, route: str, hour: int, final: bool) -> None:
        writer = await asyncio.to_thread(archive.writer, route, hour, final=final)
        try:
            limits = {"since": hour * HOUR_S, "until": (hour + 1) * HOUR_S}
            async for records in WholeRecord(self._store).chunks(route=route, **limits):
                await asyncio.to_thread(writer.add, records)
                await asyncio.sleep(PAUSE_S)
            await asyncio.to_thread(writer.commit)
        except BaseException:
            # A cancellation must not leave a half-written file.
            await asyncio.shield(asyncio.to_thread(writer.abort))
            raise
