"""`Store` on one SQLite file in WAL mode.

Several processes may share the file on one machine (never over a network file system: WAL needs shared
memory). What is acknowledged is on the disk; only `append`, the record of requests, commits without an
fsync of its own, so a power cut may lose its last second or so (a crash of the process loses nothing
that was appended).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from gateway.record.events import Outcome, Reward, Shadowed, columns
from gateway.record.exposures import Exposure
from gateway.record.request_ids import RequestKey
from gateway.state.base import (
    Bucket,
    Counts,
    DecisionRecord,
    Event,
    OutcomeFilter,
    Published,
    Retention,
    Revision,
    RewardResult,
)
from gateway.state.paging import every_step, parts
from gateway.state.sqlite import control, linear, pages, request_ids, rewards, sums, upkeep
from gateway.state.sqlite.connect import check, connect, keep_private, plainly
from gateway.state.sqlite.readers import Readers
from gateway.state.sqlite.schema import migrate
from gateway.state.sqlite.writer import Work, Writer
from gateway.state.tally import tally
from policies.contextual.regression import LinearSums
from policies.types import RewardSums

T = TypeVar("T")
_MAX_SHARES: Final = 4096


class SqliteStore:
    """A `gateway.state.store.Store` in the file ``path``, which is made if absent; its directory is not."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.address = f"sqlite:///{path}"
        self.memory = None
        self.rates = None
        self._writer = Writer(self.path)
        self._readers = Readers(self.path, threads=3)
        self._walkers = Readers(self.path, threads=1)
        """For what reads many pages: nothing short waits behind it."""
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

    async def _touching(self, work: Work[T]) -> T:
        def both(connection: sqlite3.Connection) -> T:
            control.touch(connection)
            return work(connection)

        return await self._writer.run(both)

    async def secrets(self, name: str) -> tuple[bytes, ...]:
        found = await self._readers.run(partial(control.secrets, name=name))
        if not found:
            await self._writer.run(partial(control.make_secret, name=name))
            found = await self._readers.run(partial(control.secrets, name=name))
        return found

    # The record ---------------------------------------------------------------------------------
    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        await self._writer.run(partial(self._append, outcomes=outcomes, shadowed=shadowed), durable=False)

    def _append(
        self, connection: sqlite3.Connection, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed]
    ) -> None:
        shares = partial(self._published_shares, connection)
        for part in parts(pages.only_new(connection, outcomes)):
            by_column = columns(part)
            pages.write(connection, by_column)
            sums.add_cells(connection, tally(by_column, shares))
        if shadowed:
            rewards.add_shadowed(connection, shadowed)

    async def index_requests(self, rows: Sequence[RequestKey], *, now: float, keep: float) -> None:
        await self._writer.run(partial(request_ids.index, rows=rows, until=now + keep), durable=False)

    async def find_requests(self, route: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._readers.run(partial(request_ids.find, keys=keys))

    def _published_shares(
        self, connection: sqlite3.Connection, route: str, epoch: int
    ) -> Mapping[str, float] | None:
        """An epoch's probabilities never change once published, so they are asked for once."""
        found = self._shares.get((route, epoch)) or control.shares(connection, route, epoch)
        if found:
            if len(self._shares) >= _MAX_SHARES:
                self._shares.clear()
            self._shares[route, epoch] = found
        return found

    async def reward(self, rewards_: Sequence[Reward], *, replay: bool = False) -> list[RewardResult]:
        return await self._touching(partial(rewards.upsert, rewards=rewards_, replay=replay))

    async def outcomes(self, query: OutcomeFilter) -> list[Outcome]:
        return await every_step(self.scan, query)

    async def scan(self, query: OutcomeFilter) -> tuple[list[Outcome], bytes | None]:
        return await self._walkers.run(partial(pages.scan, query=query))

    async def decision(self, decision: bytes) -> DecisionRecord:
        return await self._readers.run(partial(_decision, decision=decision))

    async def records(
        self,
        *,
        route: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: bytes | None = None,
        limit: int = 1000,
    ) -> list[DecisionRecord]:
        work = partial(_records, route=route, since=since, until=until, after=after, limit=limit)
        return await self._walkers.run(work)

    async def exposures(self, route: str, *, since: float, until: float, below: int) -> list[Exposure]:
        work = partial(pages.exposures_of, route=route, since=since, until=until, below=below)
        return await self._walkers.run(work)

    async def metric_names(self) -> list[str]:
        return await self._readers.run(sums.metric_names)

    async def size(self) -> int:
        return await self._readers.run(upkeep.size)

    async def prune(self, retention: Retention, *, now: float) -> bool:
        return await self._writer.run(partial(upkeep.step, retention=retention, now=now), durable=False)

    # Aggregates ---------------------------------------------------------------------------------
    async def counts(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, Counts]:
        return await self._readers.run(
            partial(sums.counts, route=route, since=since, until=until, epoch=epoch)
        )

    async def decided(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[str, tuple[int, int]]:
        work = partial(sums.decided, route=route, since=since, until=until, epoch=epoch)
        return await self._readers.run(work)

    async def reward_sums(
        self, route: str, *, since: float | None = None, until: float | None = None, epoch: int | None = None
    ) -> dict[tuple[str, str], RewardSums]:
        work = partial(sums.reward_sums, route=route, since=since, until=until, epoch=epoch)
        return await self._readers.run(work)

    async def linear_sums(self, route: str, fingerprint: str) -> dict[tuple[str, str], LinearSums]:
        return await self._readers.run(partial(linear.totals, route=route, fingerprint=fingerprint))

    async def linear_series(
        self, route: str, fingerprint: str, *, since: float
    ) -> list[tuple[float, dict[tuple[str, str], LinearSums]]]:
        work = partial(linear.series, route=route, fingerprint=fingerprint, since=since)
        return await self._readers.run(work)

    async def series(
        self, route: str, *, since: float, until: float, step: float, epochs: bool = True
    ) -> list[Bucket]:
        work = partial(sums.series, route=route, since=since, until=until, step=step, epochs=epochs)
        return await self._readers.run(work)

    async def agreement(self, route: str, *, since: float | None = None) -> dict[str, tuple[int, int, int]]:
        return await self._readers.run(partial(sums.agreement, route=route, since=since))

    async def agreement_series(
        self, route: str, *, since: float, until: float, step: float
    ) -> list[tuple[float, str, int, int]]:
        work = partial(sums.agreement_series, route=route, since=since, until=until, step=step)
        return await self._readers.run(work)

    async def shadow_responses(
        self, route: str, shadow: str, *, since: float, limit: int = 1000, disagreeing: bool = False
    ) -> list[Shadowed]:
        return await self._readers.run(
            partial(
                rewards.shadow_responses,
                shown=(route, shadow),
                since=since,
                limit=limit,
                disagreeing=disagreeing,
            )
        )

    async def changed(self) -> int:
        return await self._readers.run(control.changed)

    # Control ------------------------------------------------------------------------------------
    async def publish(self, allocation: Published, ensemble: bytes = b"") -> bool:
        return await self._writer.run(partial(control.publish, allocation=allocation, ensemble=ensemble))

    async def ensemble(self, route: str, epoch: int) -> bytes | None:
        return await self._readers.run(partial(control.ensemble, route=route, epoch=epoch))

    async def published(self) -> dict[str, Published]:
        return await self._readers.run(control.published)

    async def allocation_history(self, route: str, *, limit: int = 1000) -> list[Published]:
        return await self._readers.run(partial(control.history, route=route, limit=limit))

    async def load(self, kind: str, name: str) -> tuple[int, str] | None:
        return (await self.load_all(kind, (name,))).get(name)

    async def load_all(self, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        return await self._readers.run(partial(control.load_all, kind=kind, names=names))

    async def save(self, kind: str, name: str, text: str, *, expected: int) -> bool:
        return await self._writer.run(
            partial(control.save, kind=kind, name=name, text=text, expected=expected)
        )

    async def add_revision(
        self, *, time: float, author: str, etag: str, document: str, origin: str = ""
    ) -> Revision:
        return await self._writer.run(
            partial(
                control.add_revision, time=time, author=author, etag=etag, document=document, origin=origin
            )
        )

    async def revisions(self, *, limit: int = 100) -> list[Revision]:
        return await self._readers.run(partial(control.revisions, limit=limit))

    async def add_event(self, *, time: float, kind: str, route: str, data: str) -> Event:
        return await self._writer.run(
            partial(control.add_event, time=time, kind=kind, route=route, data=data)
        )

    async def events(self, *, after: int = 0, limit: int = 1000, route: str | None = None) -> list[Event]:
        return await self._readers.run(partial(control.events, after=after, limit=limit, route=route))

    async def lease(self, name: str, owner: str, *, ttl: float, now: float) -> int | None:
        return await self._writer.run(partial(control.lease, name=name, owner=owner, ttl=ttl, now=now))

    async def release(self, name: str, owner: str) -> None:
        await self._writer.run(partial(control.release, name=name, owner=owner))


def _decision(connection: sqlite3.Connection, decision: bytes) -> DecisionRecord:
    return DecisionRecord(
        pages.find(connection, decision),
        tuple(rewards.between(connection, decision, decision)[decision]),
        tuple(rewards.shadows_between(connection, decision, decision)[decision]),
    )


def _records(
    connection: sqlite3.Connection,
    route: str | None,
    since: float | None,
    until: float | None,
    after: bytes | None,
    limit: int,
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
