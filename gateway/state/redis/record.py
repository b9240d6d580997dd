"""The record of outcomes: pages, written by one script with all that they add to the aggregates."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from heapq import merge
from itertools import groupby, islice
from math import inf
from typing import Any, Final, TypeVar

from gateway.record.events import Outcome, Shadowed, columns
from gateway.record.exposures import Exposure, exposures
from gateway.record.page import decode, encode_columns
from gateway.state.base import SCAN_PAGES, OutcomeFilter, StoreUnavailable
from gateway.state.paging import (
    COARSE_BYTES,
    MAX_PAGE_SPAN_MS,
    just_behind,
    marks,
    matches,
    milliseconds,
    parts,
)
from gateway.state.redis.codec import cell_field, pack_counts, pack_shadowed
from gateway.state.redis.link import Link
from gateway.state.redis.script import Script
from gateway.state.tally import Shares, start_of, tally

T = TypeVar("T")
_APPEND: Final = Script.load("append")
_SHADOWED: Final = Script.load("shadowed")
_PAGES_PER_TRIP: Final = 16
"""Pages fetched in one round trip."""
_GROUP_BYTES: Final = COARSE_BYTES + 1
"""Of scattered marks, which are kept together in one field."""
_MAX_TRIES: Final = 50
"""Times that a read begins again because pages moved."""


async def append(link: Link, route: str, outcomes: Sequence[Outcome], shares: Shares) -> None:
    """Adds the outcomes of one route that are not there yet, page by page, each page atomically."""
    for part in parts({outcome[0]: outcome for outcome in outcomes}.values()):
        rows, expected = part, ""
        while rows:
            arguments = await asyncio.to_thread(_arguments, rows, expected, shares)
            number = int(await link.run(_APPEND, link.of_route(route), *arguments))
            if number > 0:
                break
            # Some may be there already (or another page came in between): look, and try again.
            known = await _steadily(link, route, partial(_known, link, route, part))
            rows, expected = [row for row in part if row[0] not in known], str(-number - 1)


def _arguments(rows: Sequence[Outcome], expected: str, shares: Shares) -> list[Any]:
    by_column = columns(rows)
    blocks, scattered = marks(by_column.decision)
    groups = [(start, list(group)) for start, group in groupby(scattered, lambda mark: mark[:_GROUP_BYTES])]
    arguments: list[Any] = [
        expected,
        milliseconds(rows[0][0]),
        milliseconds(rows[-1][0]),
        encode_columns(by_column),
        len(blocks),
        len(groups),
    ]
    for block, bits in blocks.items():
        arguments += (block[:COARSE_BYTES].hex(), block[COARSE_BYTES:], bits.to_bytes(32, "little"))
    for start, group in groups:
        rests = b"".join(mark[_GROUP_BYTES:] for mark in group)
        arguments += (start[:COARSE_BYTES].hex(), start[COARSE_BYTES:], rests)
    for key, counts in tally(by_column, shares).items():
        arguments += (key.start, cell_field(key.epoch, key.variant), pack_counts(counts))
    return arguments


async def _known(link: Link, route: str, rows: Sequence[Outcome]) -> set[bytes]:
    first, last = milliseconds(rows[0][0]), milliseconds(rows[-1][0])
    numbers = await link.command(
        "ZRANGEBYSCORE", f"{link.of_route(route)}:last", first, last + MAX_PAGE_SPAN_MS
    )
    pages = await _pages(link, route, numbers)
    return {outcome.decision for page in pages for outcome in page}


async def _pages(link: Link, route: str, numbers: Sequence[bytes]) -> list[list[Outcome]]:
    """The outcomes of each page; raises `_Moved` when one was merged or forgotten meanwhile."""
    if not numbers:
        return []
    data = await link.command("HMGET", f"{link.of_route(route)}:page", *numbers)
    if None in data:
        raise _Moved
    with link.plainly():
        return await asyncio.to_thread(lambda: [decode(page) for page in data])


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


def by_route(rows: Sequence[Any], place: int) -> Mapping[str, list[Any]]:
    """Rows by the route that stands at ``place`` of each."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row[place]].append(row)
    return found


class _Moved(Exception):
    """Pages were merged or forgotten while they were read."""


async def _steadily(link: Link, route: str, read: Callable[[], Awaitable[T]]) -> T:
    """What ``read`` returns from pages of the route that stay where they are; merging them is rare."""
    moved = f"{link.of_route(route)}:moved"
    for _ in range(_MAX_TRIES):
        before = await link.command("GET", moved)
        try:
            found = await read()
        except _Moved:
            continue
        if await link.command("GET", moved) == before:
            return found
    raise StoreUnavailable(
        f"The record of {route!r} in {link.shown} kept moving while it was read; try again."
    )


# Reading ------------------------------------------------------------------------------------------
async def find(link: Link, route: str, decision: bytes) -> Outcome | None:
    """The outcome of one decision, if the route has it."""
    return await _steadily(link, route, partial(_find, link, route, decision))


async def _find(link: Link, route: str, decision: bytes) -> Outcome | None:
    at = milliseconds(decision)
    numbers = await link.command("ZRANGEBYSCORE", f"{link.of_route(route)}:last", at, at + MAX_PAGE_SPAN_MS)
    for start in range(0, len(numbers), _PAGES_PER_TRIP):
        for page in await _pages(link, route, numbers[start : start + _PAGES_PER_TRIP]):
            for outcome in page:
                if outcome.decision == decision:
                    return outcome
    return None


async def scan(link: Link, routes: Sequence[str], query: OutcomeFilter) -> tuple[list[Outcome], bytes | None]:
    """A bounded step through the outcomes of ``routes``, as `RecordStore.scan` returns it."""
    steps = [await _steadily(link, route, partial(_scan_one, link, route, query)) for route in routes]
    # What is older than the place where some route's step ended, others may have more of.
    behind = max((end for _, end in steps if end is not None), default=b"")
    merged = merge(*(step for step, _ in steps), reverse=True)
    found = list(islice((o for o in merged if o.decision >= behind), query.limit))
    if len(found) == query.limit:
        return found, found[-1].decision
    return found, behind or None


async def _scan_one(link: Link, route: str, query: OutcomeFilter) -> tuple[list[Outcome], bytes | None]:
    top = "+inf" if query.before is None else milliseconds(query.before) + MAX_PAGE_SPAN_MS
    found: list[Outcome] = []
    waiting: list[Outcome] = []
    at, seen = 0, set[bytes]()
    while True:
        size, pages = await _window(link, route, "last", at, (top, "-inf"), seen)
        for last, page in pages:
            # Pages overlap: only what lies behind the end of this one and all that follow is certain.
            waiting.sort(reverse=True)
            certain = sum(milliseconds(o.decision) > last for o in waiting)
            found += waiting[:certain]
            if len(found) >= query.limit:
                return found, found[-1].decision
            behind = just_behind(last.to_bytes(6, "big") + b"\xff" * 10)
            if len(seen) > SCAN_PAGES and (query.before is None or behind < query.before):
                return found, behind
            waiting = waiting[certain:] + await asyncio.to_thread(_matching, page, query)
        if size < _PAGES_PER_TRIP:
            return found + sorted(waiting, reverse=True), None
        at += _PAGES_PER_TRIP


def _matching(page: Sequence[Outcome], query: OutcomeFilter) -> list[Outcome]:
    return [outcome for outcome in page if matches(outcome, query)]


async def _window(
    link: Link, route: str, index: str, at: int, limits: tuple[Any, Any], seen: set[bytes]
) -> tuple[int, list[tuple[int, list[Outcome]]]]:
    """Some pages by the milliseconds of their ``last`` (descending) or ``first`` decision (ascending).

    Returns how many the index named, and those not ``seen`` before: one that is written meanwhile
    shifts the others, so that some are named twice.
    """
    command = "ZREVRANGEBYSCORE" if index == "last" else "ZRANGEBYSCORE"
    scored = await link.command(
        command, f"{link.of_route(route)}:{index}", *limits, "WITHSCORES", "LIMIT", at, _PAGES_PER_TRIP
    )
    numbers, scores = _pairs(scored)
    new = [(number, score) for number, score in zip(numbers, scores, strict=True) if number not in seen]
    seen.update(numbers)
    pages = await _pages(link, route, [number for number, _ in new])
    return len(numbers), [(score, page) for (_, score), page in zip(new, pages, strict=True)]


def _pairs(scored: Sequence[Any]) -> tuple[list[bytes], list[int]]:
    """Members and scores, whichever form the client gives them."""
    if scored and isinstance(scored[0], tuple | list):
        return [member for member, _ in scored], [int(float(score)) for _, score in scored]
    return list(scored[::2]), [int(float(score)) for score in scored[1::2]]


async def oldest_first(
    link: Link, routes: Sequence[str], query: OutcomeFilter, after: bytes
) -> list[Outcome]:
    """The outcomes behind ``after``, ordered by decision."""
    found = [
        await _steadily(link, route, partial(_oldest_of_one, link, route, query, after)) for route in routes
    ]
    return list(islice(merge(*found), query.limit))


async def _oldest_of_one(link: Link, route: str, query: OutcomeFilter, after: bytes) -> list[Outcome]:
    bottom = milliseconds(after) - MAX_PAGE_SPAN_MS if after else "-inf"
    found: list[Outcome] = []
    waiting: list[Outcome] = []
    at, seen = 0, set[bytes]()
    while True:
        size, pages = await _window(link, route, "first", at, (bottom, "+inf"), seen)
        for first, page in pages:
            # The mirror of `_scan_one`: what lies before the start of this page is certain.
            waiting.sort()
            certain = sum(milliseconds(o.decision) < first for o in waiting)
            found += waiting[:certain]
            if len(found) >= query.limit:
                return found[: query.limit]
            waiting = waiting[certain:] + [o for o in page if o.decision > after and matches(o, query)]
        if size < _PAGES_PER_TRIP:
            return (found + sorted(waiting))[: query.limit]
        at += _PAGES_PER_TRIP


async def exposures_of(link: Link, route: str, *, since: float, until: float, below: int) -> list[Exposure]:
    """Decisions of the units below ``below``, as `RecordStore.exposures` returns them."""
    return await _steadily(link, route, partial(_exposures, link, route, since, until, below))


async def _exposures(link: Link, route: str, since: float, until: float, below: int) -> list[Exposure]:
    # A page spans an hour at most; its place is known to the millisecond.
    numbers = await _ended(link, route, int(since * 1000) - 1, int(until * 1000) + MAX_PAGE_SPAN_MS + 1)
    firsts = await link.command("ZMSCORE", f"{link.of_route(route)}:first", *numbers) if numbers else []
    if None in firsts:
        raise _Moved
    begun = [n for n, first in zip(numbers, firsts, strict=True) if float(first) <= until * 1000]
    found: list[Exposure] = []
    for start in range(0, len(begun), _PAGES_PER_TRIP):
        pages = await _page_data(link, route, begun[start : start + _PAGES_PER_TRIP])
        if None in pages:
            raise _Moved
        found += await _exposures_in(link, pages, route, since, until, below)
    return sorted(found)


async def page_numbers(link: Link, route: str, *, since: float) -> list[int]:
    """Numbers of pages, as `RecordStore.page_numbers` returns them."""
    return [int(number) for number in await _ended(link, route, int(since * 1000) - 1, "+inf")]


async def page_exposures(
    link: Link, route: str, numbers: Sequence[int], *, since: float, below: int
) -> list[Exposure]:
    """Decisions in pages, as `RecordStore.page_exposures` returns them."""
    pages = await _page_data(link, route, numbers)
    return await _exposures_in(link, pages, route, since, inf, below)


async def _ended(link: Link, route: str, least: int, most: int | str) -> list[bytes]:
    """Numbers of the pages whose last decision is in these milliseconds."""
    found: list[bytes] = await link.command("ZRANGEBYSCORE", f"{link.of_route(route)}:last", least, most)
    return found


async def _page_data(link: Link, route: str, numbers: Sequence[bytes | int]) -> list[bytes | None]:
    """The pages; None for one that is gone."""
    found: list[bytes | None] = await link.command("HMGET", f"{link.of_route(route)}:page", *numbers)
    return found


async def _exposures_in(
    link: Link, pages: Iterable[bytes | None], route: str, since: float, until: float, below: int
) -> list[Exposure]:
    kept = [page for page in pages if page is not None]
    with link.plainly():
        return await asyncio.to_thread(exposures, kept, route, since=since, until=until, below=below)
