"""Forgetting what is too old, and folding old aggregates and pages together, a bounded step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import inf
from typing import Any, Final, NamedTuple

from gateway.record.events import Outcome
from gateway.record.page import decode, encode_columns
from gateway.state.base import ALLOCATION, Retention
from gateway.state.folding import LADDER, LINEAR_LADDER, PAGE_AGE_S, merged_epochs, share_steps
from gateway.state.paging import MAX_PAGE_ROWS, milliseconds, parts
from gateway.state.redis import linear
from gateway.state.redis.codec import cell_parts, stored_event, unpack_published, unpack_shares
from gateway.state.redis.link import Link
from gateway.state.redis.pages import REPLACE_PAGES
from gateway.state.redis.script import Script

_DUE: Final = Script.load("due")
_FOLD: Final = Script.load("fold")
_FOLD_SHADOWS: Final = Script.load("fold_shadows")
_FORGET_CELLS: Final = Script.load("forget_cells")
_SAMPLED_HOURS: Final = 32
"""Hours of rewards that are measured to estimate all."""
_MAX_STEP_KEYS: Final = 200
"""Keys or fields that one step touches at most, so that rewards never wait long behind it."""
_MAX_STEP_EVENTS: Final = 1000
"""Events that one step looks at."""
_NEXT_BUCKETS: Final = 8
"""Neighbours of a coarse bucket that one command lists. Nearly always the first of them has outcomes."""


async def step(
    link: Link, routes: Sequence[str], due: Sequence[str] | None, retention: Retention, now: float
) -> tuple[bool, list[str] | None]:
    """One bounded step for each route of ``due``; for all if it is None, or if the record is too large.

    Returns whether there is more to do, and the routes of the next step.
    """
    given, retention = retention, await _within_size(link, routes, retention, now)
    more = await _forget_events(link, now - retention.events) or retention is not given
    more = await _forget_allocation_events(link, retention.events_with_allocations) or more
    asked = routes if due is None or retention is not given else due
    left = [route for route in asked if await _step_route(link, route, retention, now)]
    more = more or bool(left)
    return more, left if more else None


async def _step_route(link: Link, route: str, retention: Retention, now: float) -> bool:
    base = link.of_route(route)
    due = _Due._make(await link.run(_DUE, base, *_limits(retention, now)))
    return bool(
        (due.forget and await _forget(link, base, retention, now))
        or (due.width and await _fold(link, base, due.cells, due.width))
        or (due.shadow_width and await _fold_shadows(link, base, due.shadows, due.shadow_width))
        or (due.linear and await linear.fold(link, base, now))
        or (due.pages and await _merge_pages(link, route, now))
    )


class _Due(NamedTuple):
    """What `due.lua` returns."""

    forget: int
    cells: int
    """The start of the next coarse bucket of cells, if it has a width; the same of shadows."""
    width: int
    shadows: int
    shadow_width: int
    linear: int
    pages: int


def _limits(retention: Retention, now: float) -> list[float]:
    found = [
        (now - retention.outcomes) * 1000,
        _hours_before(now - retention.rewards),
        _hours_before(now - retention.outcomes),
        now - retention.aggregates,
        now - retention.allocations,
        _merged_before(now),
        retention.allocations_per_route,
    ]
    for ladder in (LADDER, LINEAR_LADDER):
        found += [
            len(ladder),
            *(limit for age, width in ladder for limit in (_edge(now - age, width), width)),
        ]
    return found


def _hours_before(limit: float) -> float:
    return limit / 3600 - 1


def _merged_before(now: float) -> int:
    """In milliseconds."""
    return int(max(now - PAGE_AGE_S, 0) // 3600) * 3_600_000


def _edge(before: float, width: int) -> int:
    return int(before // width) * width


async def size(link: Link, routes: Sequence[str]) -> int:
    """Bytes of memory of pages, rewards and shadow responses, estimated from samples."""
    total = 0.0
    for base in map(link.of_route, routes):
        total += await _memory(link, [f"{base}:page"])
        for kind, index in (("rewards", "reward_hours"), ("shadowed", "shadowed_hours")):
            hours = await link.command("ZRANGE", f"{base}:{index}", 0, -1)
            # MEMORY USAGE is a command for each key; hours are alike enough to be estimated from some.
            sample = hours[:: max(1, len(hours) // _SAMPLED_HOURS)]
            if sample:
                memory = await _memory(link, [f"{base}:{kind}:{int(hour)}" for hour in sample])
                total += memory * len(hours) / len(sample)
    return round(total)


async def _memory(link: Link, keys: Sequence[str]) -> int:
    return sum(int(n or 0) for n in await link.commands([("MEMORY USAGE", key) for key in keys]))


async def _within_size(link: Link, routes: Sequence[str], retention: Retention, now: float) -> Retention:
    """The retention that also forgets the oldest pages or rewards, where the record is too large."""
    if retention.max_bytes == inf or await size(link, routes) <= retention.max_bytes:
        return retention
    outcomes, rewards = [], []
    for base in map(link.of_route, routes):
        pages = await _oldest(link, f"{base}:last")
        outcomes += [score / 1000 for score in pages[-1:]]
        hours = await _oldest(link, f"{base}:reward_hours")
        rewards += [(hour + 1) * 3600.0 for hour in hours[-1:]]
    return retention.shortened(now, outcomes=min(outcomes, default=None), rewards=min(rewards, default=None))


async def _oldest(link: Link, index: str) -> list[float]:
    """The scores of the oldest twentieth of an index."""
    number = int(await link.command("ZCARD", index)) // 20
    pairs = await link.command("ZRANGE", index, 0, min(number, _MAX_STEP_KEYS - 1), "WITHSCORES")
    if pairs and isinstance(pairs[0], tuple | list):  # whichever form the client gives them
        return [float(score) for _, score in pairs]
    return [float(score) for score in pairs[1::2]]


async def _forget(link: Link, base: str, retention: Retention, now: float) -> bool:
    more = await _forget_pages(link, base, (now - retention.outcomes) * 1000)
    for name, age in (("reward", retention.rewards), ("shadowed", retention.outcomes)):
        key = "rewards" if name == "reward" else name
        hours = await _below(link, f"{base}:{name}_hours", _hours_before(now - age))
        for hour in hours:
            # Before the index: a key without an entry would never be found again.
            await link.command("UNLINK", f"{base}:{key}:{int(hour)}")
            await link.command("ZREM", f"{base}:{name}_hours", hour)
        more = more or len(hours) == _MAX_STEP_KEYS
    cells = await _below(link, f"{base}:cells", now - retention.aggregates)
    if cells:
        await link.run(_FORGET_CELLS, base, *cells)
    shadows = await _below(link, f"{base}:shadow_cells", now - retention.aggregates)
    if shadows:
        await link.run(_FOLD_SHADOWS, base, "", *shadows)
    more = await _forget_allocations(link, base, retention, now) or more
    more = await linear.forget(link, base, now - retention.aggregates) or more
    return more or len(cells) == _MAX_STEP_KEYS or len(shadows) == _MAX_STEP_KEYS


async def _below(link: Link, key: str, limit: float) -> list[bytes]:
    found: list[bytes] = await link.command(
        "ZRANGEBYSCORE", key, "-inf", f"({limit!r}", "LIMIT", 0, _MAX_STEP_KEYS
    )
    return found


async def _forget_pages(link: Link, base: str, limit: float) -> bool:
    numbers = await _below(link, f"{base}:last", limit)
    if numbers:
        await link.run(REPLACE_PAGES, base, len(numbers), *numbers)
    return len(numbers) == _MAX_STEP_KEYS


async def _forget_allocations(link: Link, base: str, retention: Retention, now: float) -> bool:
    """Epochs follow one another in time, so only the lowest need to be looked at."""
    # But for the newest: it is in force, however old.
    epochs = sorted(map(int, await link.command("HKEYS", f"{base}:allocations")))[:-1]
    most = retention.allocations_per_route - 1
    old = epochs[: max(len(epochs) - most, 0)][:_MAX_STEP_KEYS]
    if not old and epochs:
        lowest = epochs[:_MAX_STEP_KEYS]
        rows = await link.command("HMGET", f"{base}:allocations", *lowest)
        limit = now - retention.allocations
        old = [e for e, row in zip(lowest, rows, strict=True) if row is None or _published_before(row, limit)]
    if old:
        await link.command("HDEL", f"{base}:allocations", *old)
    return len(old) == _MAX_STEP_KEYS


def _published_before(row: bytes, limit: float) -> bool:
    """Whether an allocation is older than ``limit``, or damaged."""
    try:
        return unpack_published(row).time < limit
    except ValueError:
        return True


async def _forget_events(link: Link, limit: float) -> bool:
    key = f"{link.of_all}:events"
    entries = await link.command("XRANGE", key, "-", "+", "COUNT", _MAX_STEP_KEYS)
    old = [number for number, fields in entries if stored_event(number, fields).time < limit]
    if old:
        await link.command("XDEL", key, *old)
    return len(old) == _MAX_STEP_KEYS


async def _forget_allocation_events(link: Link, kept: int) -> bool:
    """Each event is looked at one time, when it is no longer among the newest ``kept``."""
    base = link.of_all
    newest, swept = await link.commands([("GET", f"{base}:event"), ("GET", f"{base}:events_swept")])
    first, last = int(swept or 0) + 1, int(newest or 0) - kept
    if first > last:
        return False
    end = min(last, first + _MAX_STEP_EVENTS - 1)
    entries = await link.command("XRANGE", f"{base}:events", f"{first}-0", f"{end}-9")
    old = [number for number, fields in entries if stored_event(number, fields).kind == ALLOCATION]
    if old:
        await link.command("XDEL", f"{base}:events", *old)
    await link.command("SET", f"{base}:events_swept", end)
    return end < last


# Aggregates ---------------------------------------------------------------------------------------
async def _fold(link: Link, base: str, coarse: int, width: int) -> bool:
    """Folds the buckets of a coarse one. True."""
    end = coarse + width
    inside = await link.command("ZRANGEBYSCORE", f"{base}:cells", coarse, f"({end}")
    under = merged_epochs(
        await _epochs(link, base, inside, "cs"),
        max(await _next_epochs(link, base, "ZREVRANGEBYSCORE", f"({coarse}", "-inf"), default=None),
        min(await _next_epochs(link, base, "ZRANGEBYSCORE", end, "+inf"), default=None),
        share_steps(await _shares(link, base, inside)),
    )
    pairs = [str(number) for item in under.items() for number in item]
    await link.run(_FOLD, base, coarse, len(inside), *inside, *pairs)
    return True


async def _next_epochs(link: Link, base: str, command: str, *limits: int | str) -> set[int]:
    """The epochs of the first bucket with outcomes. One with rewards alone may hold an epoch that was merged."""
    for at in count(step=_NEXT_BUCKETS):
        starts = await link.command(command, f"{base}:cells", *limits, "LIMIT", at, _NEXT_BUCKETS)
        for start in starts:
            if found := await _epochs(link, base, [start], "c"):
                return found
        if len(starts) < _NEXT_BUCKETS:
            break
    return set()


async def _epochs(link: Link, base: str, starts: Sequence[bytes], letters: str) -> set[int]:
    keys = [("HKEYS", f"{base}:{letter}:{int(start)}") for start in starts for letter in letters]
    return {cell_parts(field)[0] for fields in await link.commands(keys) for field in fields}


async def _shares(link: Link, base: str, starts: Sequence[bytes]) -> list[tuple[int, str, float, float]]:
    """Epoch, variant, decisions assigned and decisions expected of each cell."""
    found: list[tuple[int, str, float, float]] = []
    for cells in await link.commands([("HGETALL", f"{base}:c:{int(start)}") for start in starts]):
        given = cells if isinstance(cells, dict) else dict(zip(cells[::2], cells[1::2], strict=True))
        for field, cell in given.items():
            epoch, variant, _ = cell_parts(field)
            found.append((epoch, variant, *unpack_shares(cell)))
    return found


async def _fold_shadows(link: Link, base: str, coarse: int, width: int) -> bool:
    """Folds the buckets of a coarse one. True."""
    inside = await link.command("ZRANGEBYSCORE", f"{base}:shadow_cells", f"({coarse}", f"({coarse + width}")
    await link.run(_FOLD_SHADOWS, base, coarse, *inside)
    return True


# Pages --------------------------------------------------------------------------------------------
async def _merge_pages(link: Link, route: str, now: float) -> bool:
    """Makes one full, compressed page of the oldest small ones of past hours; False when there is none."""
    base = link.of_route(route)
    numbers = (await _below(link, f"{base}:small", _merged_before(now)))[:64]
    if not numbers:
        return False
    pages = await link.command("HMGET", f"{base}:page", *numbers)
    chosen: list[bytes] = []
    rows: list[Outcome] = []
    with link.plainly():
        for number, page in zip(numbers, pages, strict=True):
            outcomes = decode(page, (route, number)) if page else []
            if chosen and len(rows) + len(outcomes) > MAX_PAGE_ROWS:
                break
            chosen.append(number)
            rows += outcomes
    made: list[Any] = []
    for part in parts(rows):
        decisions = part.columns.decision
        page = encode_columns(part.columns, compress=True)
        made += (milliseconds(decisions[0]), milliseconds(decisions[-1]), page)
    await link.run(REPLACE_PAGES, base, len(chosen), *chosen, *made)
    return True
