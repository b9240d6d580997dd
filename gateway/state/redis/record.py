"""The record of outcomes: pages, written by one script with all that they add to the aggregates."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from math import inf
from typing import Any, Final

from gateway.record.events import Batch, Outcome, Shadowed, columns, same
from gateway.record.exposures import Exposure, exposures
from gateway.record.page import encode_columns
from gateway.state.base import SCAN_PAGES, OutcomeFilter
from gateway.state.paging import (
    COARSE_BYTES,
    MAX_PAGE_SPAN_MS,
    distinct,
    just_behind,
    marks,
    matches,
    milliseconds,
    parts,
)
from gateway.state.redis.codec import cell_field, pack_counts, pack_shadowed
from gateway.state.redis.link import Link
from gateway.state.redis.pages import (
    NEAREST_FIRST,
    NEWEST_FIRST,
    OLDEST_FIRST,
    PAGES_PER_TRIP,
    Moved,
    Span,
    in_order,
    span_of,
    steadily,
)
from gateway.state.redis.script import Script
from gateway.state.tally import Shares, start_of, tally

_APPEND: Final = Script.load("append")
_SHADOWED: Final = Script.load("shadowed")


async def append(link: Link, route: str, outcomes: Sequence[Outcome], shares: Shares) -> None:
    """Adds the outcomes of one route that are not there yet, page by page, each page atomically."""
    for part in parts(distinct(outcomes)):
        rows: Sequence[Outcome] = part
        expected = ""
        while rows:
            arguments = await asyncio.to_thread(_arguments, rows, expected, shares)
            number = int(await link.run(_APPEND, link.of_route(route), *arguments))
            if number > 0:
                break
            # Some may be there already (or another page came in between): look, and try again.
            known = await steadily(link, [route], partial(_known, link, route, part))
            rows, expected = [row for row in part if row[0] not in known], str(-number - 1)


def _arguments(rows: Sequence[Outcome], expected: str, shares: Shares) -> list[Any]:
    by_column = columns(rows)
    blocks, scattered = marks(by_column.decision)
    arguments: list[Any] = [
        expected,
        milliseconds(by_column.decision[0]),
        milliseconds(by_column.decision[-1]),
        encode_columns(by_column),
        len(blocks),
        len(scattered),
    ]
    for block, bits in blocks.items():
        arguments += (block[:COARSE_BYTES].hex(), block[COARSE_BYTES:], bits.to_bytes(32, "little"))
    for time, found in scattered.items():
        arguments += (time[:COARSE_BYTES].hex(), time[COARSE_BYTES:], found)
    added = tally(by_column, shares)
    for key, counts in added.counts.items():
        arguments += ("c", key.start, cell_field(key.epoch, key.variant), pack_counts(counts))
    for of, one in added.sums.items():
        arguments += ("s", of.start, cell_field(of.epoch, of.variant, of.metric), one.pack())
    return arguments


async def _known(link: Link, route: str, rows: Sequence[Outcome]) -> set[bytes]:
    decisions = columns(rows).decision
    span = Span(milliseconds(decisions[0]), milliseconds(decisions[-1]))
    found: set[bytes] = set()
    async with aclosing(in_order(link, [route], OLDEST_FIRST, span, lambda _: True)) as pages:
        async for _, outcomes in pages:
            found.update(outcome.decision for outcome in outcomes)
    return found


async def add_shadowed(link: Link, route: str, shadowed: Sequence[Shadowed]) -> None:
    arguments: list[Any] = []
    for one in shadowed:
        shadow = one.shadow.encode()
        arguments += (
            hour_of(one.decision),
            one.decision + shadow,
            one.decision,
            shadow,
            pack_shadowed(one),
            start_of(one.time),
            int(one.agrees is not None),
            int(one.agrees is True),
            int(one.error != ""),
        )
    await link.run(_SHADOWED, link.of_route(route), *arguments)


def hour_of(decision: bytes) -> int:
    """Where what belongs to a decision is kept: hours since the epoch."""
    return milliseconds(decision) // 3_600_000


def by_route(rows: Sequence[Any], place: int) -> Mapping[str, Sequence[Any]]:
    """Rows by the route that stands at ``place`` of each."""
    if isinstance(rows, Batch) and same(rows.columns[place]):
        return {rows.columns[place][0]: rows}
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row[place]].append(row)
    return {route: Batch(own) for route, own in found.items()} if isinstance(rows, Batch) else found


# Reading ------------------------------------------------------------------------------------------
async def find(link: Link, route: str, decision: bytes) -> Outcome | None:
    """The outcome of one decision, if the route has it."""
    return await steadily(link, [route], partial(_find, link, route, decision))


async def _find(link: Link, route: str, decision: bytes) -> Outcome | None:
    span = Span(milliseconds(decision), milliseconds(decision))
    async with aclosing(
        in_order(link, [route], NEAREST_FIRST, span, lambda o: o.decision == decision)
    ) as pages:
        async for _, found in pages:
            if found:
                return found[0]
    return None


async def scan(link: Link, routes: Sequence[str], query: OutcomeFilter) -> tuple[list[Outcome], bytes | None]:
    """A bounded step through the outcomes of ``routes``, as `RecordStore.scan` returns it."""
    return await steadily(link, routes, partial(_scan, link, routes, query))


async def _scan(
    link: Link, routes: Sequence[str], query: OutcomeFilter
) -> tuple[list[Outcome], bytes | None]:
    found: list[Outcome] = []
    waiting: list[Outcome] = []
    wanted = partial(matches, query=query)
    async with aclosing(in_order(link, routes, NEWEST_FIRST, span_of(query), wanted)) as pages:
        read = 0
        async for last, outcomes in pages:
            # Pages overlap: only what lies behind the end of this one and all that follow is certain.
            waiting.sort(reverse=True)
            certain = sum(milliseconds(o.decision) > last for o in waiting)
            found += waiting[:certain]
            if len(found) >= query.limit:
                return found[: query.limit], found[query.limit - 1].decision
            behind = just_behind(last.to_bytes(6, "big") + b"\xff" * 10)
            if read >= SCAN_PAGES and (query.before is None or behind < query.before):
                return found, behind
            waiting, read = waiting[certain:] + outcomes, read + 1
    found += sorted(waiting, reverse=True)
    if len(found) > query.limit:
        return found[: query.limit], found[query.limit - 1].decision
    return found, None


async def oldest_first(
    link: Link, routes: Sequence[str], query: OutcomeFilter, after: bytes
) -> list[Outcome]:
    """The outcomes behind ``after``, ordered by decision."""
    return await steadily(link, routes, partial(_oldest_first, link, routes, query, after))


async def _oldest_first(
    link: Link, routes: Sequence[str], query: OutcomeFilter, after: bytes
) -> list[Outcome]:
    found: list[Outcome] = []
    waiting: list[Outcome] = []

    def wanted(outcome: Outcome) -> bool:
        return outcome.decision > after and matches(outcome, query)

    async with aclosing(in_order(link, routes, OLDEST_FIRST, span_of(query, after), wanted)) as pages:
        async for first, outcomes in pages:
            # The mirror of `_scan`: what lies before the start of this page is certain.
            waiting.sort()
            certain = sum(milliseconds(o.decision) < first for o in waiting)
            found += waiting[:certain]
            if len(found) >= query.limit:
                return found[: query.limit]
            waiting = waiting[certain:] + outcomes
    return (found + sorted(waiting))[: query.limit]


async def exposures_of(link: Link, route: str, *, since: float, until: float, below: int) -> list[Exposure]:
    """Decisions of the units below ``below``, as `RecordStore.exposures` returns them."""
    return await steadily(link, [route], partial(_exposures, link, route, since, until, below))


async def _exposures(link: Link, route: str, since: float, until: float, below: int) -> list[Exposure]:
    # A page spans an hour at most; its place is known to the millisecond.
    numbers = await _ended(link, route, int(since * 1000) - 1, int(until * 1000) + MAX_PAGE_SPAN_MS + 1)
    firsts = await link.command("ZMSCORE", f"{link.of_route(route)}:first", *numbers) if numbers else []
    if None in firsts:
        raise Moved
    # An index can be asked for one end of a page only.
    begun = [n for n, first in zip(numbers, firsts, strict=True) if float(first) <= until * 1000]
    found: list[Exposure] = []
    for start in range(0, len(begun), PAGES_PER_TRIP):
        pages = await _page_data(link, route, begun[start : start + PAGES_PER_TRIP])
        if None in pages:
            raise Moved
        found += await _exposures_in(
            link, begun[start : start + PAGES_PER_TRIP], pages, route, since, until, below
        )
    return sorted(found)


async def page_numbers(link: Link, route: str, *, since: float) -> list[int]:
    """Numbers of pages, as `RecordStore.page_numbers` returns them."""
    return [int(number) for number in await _ended(link, route, int(since * 1000) - 1, "+inf")]


async def page_exposures(
    link: Link, route: str, numbers: Sequence[int], *, since: float, below: int
) -> list[Exposure]:
    """Decisions in pages, as `RecordStore.page_exposures` returns them."""
    pages = await _page_data(link, route, numbers)
    return await _exposures_in(link, numbers, pages, route, since, inf, below)


async def _ended(link: Link, route: str, least: int, most: int | str) -> list[bytes]:
    """Numbers of the pages whose last decision is in these milliseconds."""
    found: list[bytes] = await link.command("ZRANGEBYSCORE", f"{link.of_route(route)}:last", least, most)
    return found


async def _page_data(link: Link, route: str, numbers: Sequence[bytes | int]) -> list[bytes | None]:
    """The pages; None for one that is gone."""
    found: list[bytes | None] = await link.command("HMGET", f"{link.of_route(route)}:page", *numbers)
    return found


async def _exposures_in(
    link: Link,
    numbers: Iterable[bytes | int],
    pages: Iterable[bytes | None],
    route: str,
    since: float,
    until: float,
    below: int,
) -> list[Exposure]:
    kept = [((route, n), page) for n, page in zip(numbers, pages, strict=True) if page is not None]
    with link.plainly():
        return await asyncio.to_thread(exposures, kept, route, since=since, until=until, below=below)
