"""The pages of the record, gone through in order: of many routes together, and only those that may be wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from heapq import heappop, heappush
from itertools import compress
from typing import Any, Final, NamedTuple, TypeVar

from gateway.record.events import Outcome
from gateway.record.page import decode
from gateway.state.base import OutcomeFilter, StoreUnavailable
from gateway.state.paging import CLOCK_SLACK_MS, MAX_PAGE_SPAN_MS, milliseconds
from gateway.state.redis.link import Link
from gateway.state.redis.script import Script

T = TypeVar("T")
PAGES_PER_TRIP: Final = 16
"""Pages fetched in one round trip."""
_MAX_WINDOW: Final = 512
"""Entries of an index that are looked at together."""
_MAX_TRIES: Final = 50
"""Times that a read begins again because pages moved."""


REPLACE_PAGES: Final = Script.load("replace_pages")
KEPT_ASIDE_S: Final = 30 * 86_400


class Moved(Exception):
    """Pages were merged or forgotten while they were read."""


async def steadily(link: Link, routes: Sequence[str], read: Callable[[], Awaitable[T]]) -> T:
    """Return what ``read`` returns from pages of the routes that stay where they are; merging them is rare.

    Raises:
        StoreUnavailable: Pages were merged during each of several tries.
    """
    moved = [("GET", f"{link.of_route(route)}:moved") for route in routes]
    for _ in range(_MAX_TRIES):
        before = await link.commands(moved)
        try:
            found = await read()
        except Moved:
            continue
        if await link.commands(moved) == before:
            return found
    raise StoreUnavailable(f"The record in {link.shown} kept moving while it was read; try again.")


class Span(NamedTuple):
    """Milliseconds of decisions, both ends included."""

    low: int
    high: int


class Order(NamedTuple):
    """How to go through pages: by the place of their ``first`` or ``last`` decision, upwards (1) or downwards (-1)."""

    by: str
    sign: int


NEWEST_FIRST: Final = Order("last", -1)
OLDEST_FIRST: Final = Order("first", 1)
NEAREST_FIRST: Final = Order("last", 1)
"""Where the span is one decision: the first page is most often the one that has it."""
_ALWAYS_MS: Final = (1 << 48) - 1


def span_of(query: OutcomeFilter, after: bytes = b"") -> Span:
    """The decisions that may be wanted."""
    lows = [milliseconds(after) if after else 0]
    highs = [_ALWAYS_MS if query.before is None else milliseconds(query.before)]
    if query.since is not None:
        lows.append(int(query.since * 1000) - CLOCK_SLACK_MS)
    if query.until is not None:
        highs.append(int(query.until * 1000) + CLOCK_SLACK_MS)
    return Span(max(lows), min(highs))


async def in_order(
    link: Link, routes: Sequence[str], order: Order, span: Span, wanted: Callable[[Outcome], bool]
) -> AsyncGenerator[tuple[int, list[Outcome]]]:
    """The pages of all routes together that may have decisions in the span, in order: the place of each, and what is
    wanted of its outcomes."""
    known: list[tuple[int, str, bytes]] = []
    seen: set[tuple[str, bytes]] = set()
    asked, at, left = list(routes), dict.fromkeys(routes, 0), dict.fromkeys(routes, 0)
    size = 2
    while True:
        while asked:
            windows = [(route, at[route], min(max(2, at[route]), _MAX_WINDOW)) for route in asked]
            for (route, start, number), entries in zip(
                windows, await _entries(link, order, span, windows), strict=True
            ):
                at[route] = start + number
                # One that is written meanwhile shifts the others, so that some are named twice.
                new = [(order.sign * place, route, page) for place, page in entries.inside]
                new = [entry for entry in new if entry[1:] not in seen]
                seen.update(entry[1:] for entry in new)
                for entry in new:
                    heappush(known, entry)
                left[route] = len(new) if entries.more else -1
            asked = [route for route in asked if left[route] == 0]
        chosen = list[tuple[int, str, bytes]]()
        while known and not asked and len(chosen) < size:
            chosen.append(heappop(known))
            route = chosen[-1][1]
            left[route] -= 1
            asked = [route] if left[route] == 0 else []
        if not chosen:
            return
        for (place, _, _), outcomes in zip(chosen, await _read(link, chosen, wanted), strict=True):
            yield order.sign * place, outcomes
        size = min(2 * size, PAGES_PER_TRIP)


class _Entries(NamedTuple):
    """A part of the index of one route."""

    inside: list[tuple[int, bytes]]
    """Place and number of each page that may have decisions in the span."""
    more: bool


async def _entries(
    link: Link, order: Order, span: Span, windows: Sequence[tuple[str, int, int]]
) -> list[_Entries]:
    """The pages of each window (route, start, number), without reading them. Raises `Moved`."""
    by_first = order.by == "first"
    # A page spans an hour at most.
    limits = (
        (span.low - MAX_PAGE_SPAN_MS, span.high) if by_first else (span.low, span.high + MAX_PAGE_SPAN_MS)
    )
    command = ("ZRANGEBYSCORE", limits) if order.sign > 0 else ("ZREVRANGEBYSCORE", limits[::-1])
    bases = [link.of_route(route) for route, _, _ in windows]
    replies = await link.commands(
        [
            (command[0], f"{base}:{order.by}", *command[1], "WITHSCORES", "LIMIT", start, number)
            for base, (_, start, number) in zip(bases, windows, strict=True)
        ]
    )
    pairs = [_pairs(reply) for reply in replies]
    other = "last" if by_first else "first"
    ends = iter(
        await link.commands(
            [
                ("ZMSCORE", f"{base}:{other}", *(page for _, page in some))
                for base, some in zip(bases, pairs, strict=True)
                if some
            ]
        )
    )
    found = []
    for (_, _, number), some in zip(windows, pairs, strict=True):
        places = next(ends) if some else []
        if None in places:
            raise Moved
        within = [float(end) >= span.low if by_first else float(end) <= span.high for end in places]
        found.append(_Entries(list(compress(some, within)), len(some) == number))
    return found


async def _read(
    link: Link, chosen: Sequence[tuple[int, str, bytes]], wanted: Callable[[Outcome], bool]
) -> list[list[Outcome]]:
    """What is wanted of each page. Raises `Moved` when one was merged or forgotten meanwhile."""
    data = await link.commands([("HGET", f"{link.of_route(route)}:page", page) for _, route, page in chosen])
    if None in data:
        raise Moved
    with link.plainly():
        return await asyncio.to_thread(
            lambda: [
                list(filter(wanted, decode(page, place)))
                for (_, *place), page in zip(chosen, data, strict=True)
            ]
        )


async def set_aside(link: Link, route: str, number: bytes) -> float | None:
    """Keeps a damaged page, unread, for `KEPT_ASIDE_S`; its last time, None if it was set aside already."""
    base = link.of_route(route)
    page, last = await link.commands([("HGET", f"{base}:page", number), ("ZSCORE", f"{base}:last", number)])
    if page is None:
        return None
    await link.command("SET", f"{base}:damaged:{int(number)}", page, "EX", KEPT_ASIDE_S)
    return float(last or 0) / 1000 if await link.run(REPLACE_PAGES, base, 1, number) else None


def _pairs(scored: Sequence[Any]) -> list[tuple[int, bytes]]:
    """Scores and members, whichever form the client gives them."""
    if not scored or isinstance(scored[0], tuple | list):
        return [(int(float(score)), member) for member, score in scored]
    return [(int(float(score)), member) for member, score in zip(scored[::2], scored[1::2], strict=True)]
