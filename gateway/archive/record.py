"""The whole record: what the archive has, and what the store has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import reduce
from math import inf
from typing import Final

from gateway.archive.base import HOUR_S, Archive, HourFile, attached
from gateway.state.base import DecisionRecord
from gateway.state.store import RecordStore

CHUNK_ROWS: Final = 2000
"""Records read together from the store."""

Chunk = list[DecisionRecord]
Chunks = AsyncIterator[Chunk]


class WholeRecord:
    """Reads an archive, a store, or both as one. Methods raise StoreUnavailable, OSError and ValueError."""

    def __init__(self, store: RecordStore | None, archive: Archive | None = None) -> None:
        self._store = store
        self._archive = archive

    async def metric_names(
        self, *, route: str | None = None, since: float | None = None, until: float | None = None
    ) -> list[str]:
        """Metrics with a reward, in alphabetical order: all of the store; without one, those of these decisions."""
        if self._store is not None:
            return await self._store.metric_names()
        assert self._archive is not None
        files = await asyncio.to_thread(self._archive.files, route, since, until)
        return await asyncio.to_thread(self._archive.metric_names, files)

    async def chunks(
        self, *, route: str | None = None, since: float | None = None, until: float | None = None
    ) -> Chunks:
        """All records in bounded pieces, oldest first, each decision once."""
        if self._archive is None:
            async for chunk in self._stored(route, since, until):
                yield chunk
            return
        files = await asyncio.to_thread(self._archive.files, route, since, until)
        start = -inf if since is None else since
        for hour in sorted({file.hour for file in files}):
            begin, end = hour * HOUR_S, (hour + 1) * HOUR_S
            async for chunk in self._stored(route, start, min(begin, inf if until is None else until)):
                yield chunk  # hours that were not archived yet
            of_hour = [file for file in files if file.hour == hour]
            async for chunk in self._hour(of_hour, route, begin, end):
                inside = [one for one in chunk if _inside(one, since, until)]
                if inside:
                    yield inside
            start = max(start, end)
        async for chunk in self._stored(route, start, until):
            yield chunk

    async def _hour(self, files: Sequence[HourFile], route: str | None, begin: float, end: float) -> Chunks:
        """What archive and store have of one hour. A file that is not final is older than the store's rows."""
        assert self._archive is not None
        final, early = list[Chunks](), list[Chunks]()
        for file in files:
            is_final = await asyncio.to_thread(self._archive.is_final, file)
            (final if is_final else early).append(_in_thread(self._archive.read(file)))
        streams = [*final, self._stored(route, begin, end), *early]
        async for chunk in reduce(merged, streams):
            yield chunk

    async def _stored(self, route: str | None, since: float | None, until: float | None) -> Chunks:
        if self._store is None or (since is not None and until is not None and since >= until):
            return
        after: bytes | None = None
        while True:
            found = await self._store.records(
                route=route, since=since, until=until, after=after, limit=CHUNK_ROWS
            )
            if not found:
                return
            yield found
            outcome = found[-1].outcome
            assert outcome is not None
            after = outcome.decision


async def merged(first: Chunks, second: Chunks) -> Chunks:
    """Two streams, each ordered by decision, as one; of a decision that both have, the one of ``first``, unless it has
    less attached."""
    one, two = await anext(first, None), await anext(second, None)
    while one and two:
        last = min(_decision(one[-1]), _decision(two[-1]))
        chosen = {_decision(record): record for record in two if _decision(record) <= last}
        for record in one:
            decision = _decision(record)
            if decision <= last and attached(record) >= attached(chosen.get(decision, record)):
                chosen[decision] = record
        yield [chosen[decision] for decision in sorted(chosen)]
        one = [record for record in one if _decision(record) > last] or await anext(first, None)
        two = [record for record in two if _decision(record) > last] or await anext(second, None)
    for left, stream in ((one, first), (two, second)):
        if left:
            yield left
            async for chunk in stream:
                yield chunk


def _decision(record: DecisionRecord) -> bytes:
    assert record.outcome is not None
    return record.outcome.decision


def _inside(record: DecisionRecord, since: float | None, until: float | None) -> bool:
    assert record.outcome is not None
    time = record.outcome.time
    return (since is None or time >= since) and (until is None or time < until)


async def _in_thread(chunks: Iterator[Chunk]) -> Chunks:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
