"""`Store` on one SQLite file in WAL mode.

Several processes may share the file on one machine (never over a network file system: WAL needs shared
memory). What is acknowledged is on the disk; only `append`, the record of requests, commits without an
fsync of its own, so a power cut may lose its last second or so (a crash of the process loses nothing
that was appended).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from gateway.clock import wall
from gateway.record.events import Outcome, Reward, Shadowed
from gateway.record.page import DamagedPage
from gateway.state import damage
from gateway.state.base import Counts, DecisionRecord, OutcomeFilter, Retention, RewardResult
from gateway.state.exact import ExactSums
from gateway.state.paging import MAX_PAGE_ROWS, every_step, parts
from gateway.state.sqlite import control, linear, mending, pages, request_ids, rewards, sums, totals, upkeep
from gateway.state.sqlite.connect import check, connect, keep_private, plainly
from gateway.state.sqlite.readers import Readers
from gateway.state.sqlite.schema import migrate
from gateway.state.sqlite.writer import Writer
from gateway.state.tally import CellKey, SumKey, add_counts, tally

P = ParamSpec("P")
T = TypeVar("T")
_Query = Callable[Concatenate[sqlite3.Connection, P], T]
_Method = Callable[Concatenate["SqliteStore", P], Coroutine[Any, Any, T]]
_MAX_SHARES: Final = 4096


def _of_cells(
    query: Callable[Concatenate[sqlite3.Connection, str, P], T],
) -> Callable[Concatenate[sqlite3.Connection, str, P], T]:
    """``query`` on the cells of a route, which raises `DamagedCells` for one that it can't read."""

    @wraps(query)
    def run(connection: sqlite3.Connection, route: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with damage.cells_of((route,)):
            return query(connection, route, *args, **kwargs)

    return run


def _reads(query: _Query[P, T], *, many_pages: bool = False) -> _Method[P, T]:
    """The method of the store that runs ``query``; nothing short waits behind one that reads many pages."""

    @wraps(query)
    async def method(store: SqliteStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        readers = store._walkers if many_pages else store._readers
        return await store._around_damage(
            lambda: readers.run(lambda connection: query(connection, *args, **kwargs))
        )

    return method


def _writes(query: _Query[P, T], *, durable: bool = True) -> _Method[P, T]:
    """The method of the store that runs ``query`` on the writer; if ``durable``, its result is on disk."""

    @wraps(query)
    async def method(store: SqliteStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store._writer.run(lambda connection: query(connection, *args, **kwargs), durable=durable)

    return method


def _reward(
    connection: sqlite3.Connection, given: Sequence[Reward], *, replay: bool = False
) -> list[RewardResult]:
    routes = {reward.route for reward in given}
    control.touch(connection)
    control.touch_rewards(connection, routes)
    with damage.cells_of(routes):
        return rewards.upsert(connection, given, replay=replay)


def _metric_names(connection: sqlite3.Connection) -> list[str]:
    with damage.cells_of():
        return totals.metric_names(connection)


def _decision(connection: sqlite3.Connection, decision: bytes, route: str | None = None) -> DecisionRecord:
    """``route`` would not make it faster."""
    return DecisionRecord(
        pages.find(connection, decision),
        tuple(rewards.between(connection, decision, decision)[decision]),
        tuple(rewards.shadows_between(connection, decision, decision)[decision]),
    )


def _records(
    connection: sqlite3.Connection,
    *,
    route: str | None = None,
    since: float | None = None,
    until: float | None = None,
    after: bytes | None = None,
    limit: int = 1000,
) -> list[DecisionRecord]:
    found = pages.oldest_first(connection, route=route, since=since, until=until, after=after, limit=limit)
    if not found:
        return []
    span = found[0].decision, found[-1].decision
    reports, shadows = rewards.between(connection, *span), rewards.shadows_between(connection, *span)
    return [
        DecisionRecord(outcome, tuple(reports[outcome.decision]), tuple(shadows[outcome.decision]))
        for outcome in found
    ]


class SqliteStore:
    """A `gateway.state.store.Store` in the file ``path``, which is made if absent; its directory is not."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.address = f"sqlite:///{path}"
        self.memory = None
        self.rates = None
        self._writer = Writer(self.path)
        self._readers = Readers(self.path, self._writer.moved, threads=3)
        self._walkers = Readers(self.path, self._writer.moved, threads=1)
        self._upkeep = upkeep.Upkeep()
        self._shares: dict[tuple[str, int], Mapping[str, float]] = {}

    async def open(self) -> None:
        """Makes or migrates the file. Raises StoreUnavailable."""
        await asyncio.get_running_loop().run_in_executor(None, self._prepare)
        self._writer.start()

    def _prepare(self) -> None:
        with plainly(self.path):
            keep_private(self.path)
            connection = connect(self.path)
            try:
                check(connection, self.path)
                migrate(connection)
            finally:
                connection.close()

    async def close(self) -> None:
        """Finishes what waits to be written."""
        await self._writer.close()
        await self._readers.close()
        await self._walkers.close()

    async def secrets(self, name: str) -> tuple[bytes, ...]:
        found = await self._readers.run(partial(control.secrets, name=name))
        if not found:
            await self._writer.run(partial(control.make_secret, name=name))
            found = await self._readers.run(partial(control.secrets, name=name))
        return found

    # The record ---------------------------------------------------------------------------------
    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        work = partial(self._append, outcomes=outcomes, shadowed=shadowed)
        await self._around_damage(lambda: self._writer.run(work, durable=False))

    def _append(
        self, connection: sqlite3.Connection, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed]
    ) -> None:
        shares = partial(self._published_shares, connection)
        cells, found = dict[CellKey, Counts](), dict[SumKey, ExactSums]()
        new = pages.only_new(connection, outcomes) if outcomes else ()
        for start in range(0, len(new), MAX_PAGE_ROWS):  # a longer step would hold up the event loop
            for part in parts(new[start : start + MAX_PAGE_ROWS]):
                pages.write(connection, part.columns)
                added = tally(part.columns, shares)
                for key, counts in added.counts.items():
                    add_counts(cells.setdefault(key, Counts()), counts)
                for of, one in added.sums.items():
                    found.setdefault(of, ExactSums()).merge(one)
        if cells:
            with damage.cells_of({cell.route for cell in cells}):
                sums.add_cells(connection, cells)
                totals.count(connection, cells)
                sums.add_sums(connection, found)
                totals.add(connection, found)
        if shadowed:
            rewards.add_shadowed(connection, shadowed)

    def _published_shares(
        self, connection: sqlite3.Connection, route: str, epoch: int
    ) -> Mapping[str, float] | None:
        """An epoch's probabilities never change once published, so they are asked for once."""
        found = self._shares.get((route, epoch))
        if found is None and (stored := control.allocation(connection, route, epoch)) is not None:
            found = stored.probabilities
            if len(self._shares) >= _MAX_SHARES:
                self._shares.clear()
            self._shares[route, epoch] = found
        return found

    async def outcomes(self, query: OutcomeFilter) -> list[Outcome]:
        return await every_step(self.scan, query)

    async def reward(self, rewards_: Sequence[Reward], *, replay: bool = False) -> list[RewardResult]:
        work = partial(_reward, given=rewards_, replay=replay)
        return await self._around_damage(lambda: self._writer.run(work))

    index_requests = _writes(request_ids.index, durable=False)
    find_requests = _reads(request_ids.find)
    scan = _reads(pages.scan, many_pages=True)
    decision = _reads(_decision)
    records = _reads(_records, many_pages=True)
    first_times = _reads(pages.first_times, many_pages=True)
    exposures = _reads(pages.exposures_of, many_pages=True)
    page_numbers = _reads(pages.page_numbers)
    page_exposures = _reads(pages.page_exposures, many_pages=True)
    shadow_responses = _reads(rewards.shadow_responses)
    metric_names = _reads(_metric_names)
    size = _reads(upkeep.size)

    async def prune(self, retention: Retention, *, now: float) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            with damage.cells_of():
                return self._upkeep.step(connection, retention, now=now)

        return await self._around_damage(lambda: self._writer.run(work, durable=False))

    def _around_damage(self, run: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        return damage.around(run, self._set_aside, self._mend)

    async def _set_aside(self, page: DamagedPage) -> None:
        found = await self._writer.run(partial(pages.set_aside, number=cast("int", page.place)))
        routes, last = found or ((), 0.0)
        for route in routes:
            await damage.note(self, route, page, last)

    async def _mend(self, routes: Collection[str]) -> bool:
        """Whether something was damaged."""
        repaired = False
        for route in routes or await self._readers.run(mending.routes):
            mended = await self._writer.run(partial(mending.mend, route=route))
            if mended.repaired:
                repaired = True
                await damage.note_cells(self, route, mended)
        return repaired

    # Aggregates ---------------------------------------------------------------------------------
    counts = _reads(_of_cells(sums.counts))
    decided = _reads(_of_cells(sums.decided))
    reward_sums = _reads(_of_cells(sums.reward_sums))
    rewards_version = _reads(control.rewards_version)
    changed_cells = _reads(sums.changed_cells)
    linear_sums = _reads(_of_cells(linear.totals))
    linear_series = _reads(_of_cells(linear.series))
    series = _reads(_of_cells(sums.series))
    reduced_series = _reads(_of_cells(sums.reduced_series))
    agreement = _reads(sums.agreement)
    agreement_series = _reads(sums.agreement_series)

    # Control ------------------------------------------------------------------------------------
    async def load(self, kind: str, name: str) -> tuple[int, str] | None:
        return (await self.load_all(kind, (name,))).get(name)

    async def load_all(self, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        found, damaged = await self._readers.run(partial(control.load_all, kind=kind, names=names))
        for name, text in damaged.items():
            remove = partial(control.remove_damaged, kind=kind, name=name, text=text, now=wall())
            await self._writer.run(remove)
        return found

    changed = _reads(control.changed)
    publish = _writes(control.publish)
    ensemble = _reads(control.ensemble)
    published = _reads(control.published)
    allocation = _reads(control.allocation)
    allocation_history = _reads(control.allocation_history)
    save = _writes(control.save)
    save_with_events = _writes(control.save_with_events)
    add_revision = _writes(control.add_revision)
    revisions = _reads(control.revisions)
    revision_entries = _reads(control.revision_entries)
    add_event = _writes(control.add_event)
    events = _reads(control.events)
    lease = _writes(control.lease)
    release = _writes(control.release)
