"""The record of outcomes: pages written, looked up, listed."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final, NamedTuple

from gateway.record.events import Outcome, columns
from gateway.record.exposures import Exposure, exposures
from gateway.record.page import decode, encode_columns
from gateway.state.base import SCAN_PAGES, OutcomeFilter
from gateway.state.paging import (
    CLOCK_SLACK_MS,
    MARK_BYTES,
    MAX_PAGE_SPAN_MS,
    distinct,
    just_behind,
    marks,
    matches,
    milliseconds,
)

MAX_PASSED_PAGES: Final = 5000
"""Pages that one step of a scan passes over."""


class PageRow(NamedTuple):
    first: bytes
    last: bytes
    oldest: float
    newest: float
    rows: int
    errors: int
    routes: str
    merged: bool
    data: bytes


def write(connection: sqlite3.Connection, by_column: Any, *, merged: bool = False) -> None:
    """Adds one page of what `columns` made of a part; ``merged`` pages are compressed, and final."""
    decisions, errors = by_column.decision, by_column.error
    row = PageRow(
        first=decisions[0],
        last=decisions[-1],
        oldest=min(by_column.time),
        newest=max(by_column.time),
        rows=len(decisions),
        errors=len(errors) - errors.count(""),
        routes=json.dumps(sorted(set(by_column.route)), ensure_ascii=False),
        merged=merged,
        data=encode_columns(by_column, compress=merged),
    )
    connection.execute(
        "INSERT INTO pages (first, last, oldest, newest, rows, errors, routes, merged, data) "
        "VALUES (?,?,?,?,?,?,?,?,?)",
        row,
    )


def set_aside(connection: sqlite3.Connection, number: int) -> tuple[list[str], float] | None:
    """Keeps a damaged page in the file, unread; its routes and last time, None if it was set aside already."""
    row = connection.execute(
        # All queries ask for rows > 0, and upkeep merges no merged page.
        "UPDATE pages SET rows = 0, errors = 0, merged = 1 WHERE id = ? AND rows > 0 RETURNING routes, newest",
        (number,),
    ).fetchone()
    return (json.loads(row[0]), row[1]) if row is not None else None


def _latest_end(decision: bytes) -> bytes:
    """No page that holds the decision ends behind this."""
    return min(milliseconds(decision) + MAX_PAGE_SPAN_MS + 1, (1 << 48) - 1).to_bytes(6, "big") + b"\xff" * 10


def _earliest_start(decision: bytes) -> bytes:
    """No page that holds the decision begins before this."""
    return max(milliseconds(decision) - MAX_PAGE_SPAN_MS, 0).to_bytes(6, "big")


def moment(time: float) -> bytes:
    """The beginning of the decisions of a time in seconds since the epoch, by which an index finds their pages."""
    return int(min(max(time, 0.0), 2.0**38) * 1000).to_bytes(6, "big")


# What was seen ------------------------------------------------------------------------------------
def only_new(connection: sqlite3.Connection, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Those of at least one outcome that are not in the record yet; marks them as seen.

    A mark (see `Marks`) that is set already makes us look for the decision itself.
    """
    outcomes = distinct(outcomes)
    decisions = columns(outcomes).decision
    blocks, scattered = marks(decisions)
    doubtful, bits = False, {block: new.to_bytes(32, "little") for block, new in blocks.items()} | scattered
    for block, new in bits.items():
        row = connection.execute("SELECT bits FROM seen WHERE block = ?", (block,)).fetchone()
        if row is not None and block in blocks:
            before = int.from_bytes(row[0], "little")
            doubtful = doubtful or bool(before & blocks[block])
            bits[block] = (before | blocks[block]).to_bytes(32, "little")
        elif row is not None:
            old = set(memoryview(row[0]).cast("Q"))
            added = [mark for mark in memoryview(new).cast("Q") if mark not in old]
            doubtful = doubtful or len(added) * MARK_BYTES < len(new)
            bits[block] = row[0] + array("Q", added).tobytes()
    connection.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", bits.items())
    if doubtful:
        found = _present(connection, decisions)
        outcomes = [outcome for outcome in outcomes if outcome[0] not in found]
    return outcomes


def _present(connection: sqlite3.Connection, decisions: Sequence[bytes]) -> set[bytes]:
    """Those of the decisions, and perhaps others, that the record holds."""
    present: set[bytes] = set()
    decoded: set[int] = set()
    for decision in decisions:
        rows = connection.execute(
            "SELECT id FROM pages WHERE first BETWEEN ? AND ? AND last >= ? AND rows > 0",
            (_earliest_start(decision), decision, decision),
        ).fetchall()
        for (page,) in rows:
            if page not in decoded:
                decoded.add(page)
                (data,) = connection.execute("SELECT data FROM pages WHERE id = ?", (page,)).fetchone()
                present.update(outcome.decision for outcome in decode(data, page))
    return present


# Reading ------------------------------------------------------------------------------------------
def find(connection: sqlite3.Connection, decision: bytes) -> Outcome | None:
    """The outcome of one decision."""
    pages = connection.execute(
        "SELECT id, data FROM pages WHERE first BETWEEN ? AND ? AND last >= ? AND rows > 0",
        (_earliest_start(decision), decision, decision),
    )
    for page, data in pages:
        for outcome in decode(data, page):
            if outcome.decision == decision:
                return outcome
    return None


def scan(connection: sqlite3.Connection, query: OutcomeFilter) -> tuple[list[Outcome], bytes | None]:
    """A bounded step through the record, as `RecordStore.scan` returns it."""
    where, values = page_filter(replace(query, route=None))
    # A page without the route is only passed over, but of these too a step has a bounded number.
    pages = connection.execute(
        "SELECT id, last, CASE WHEN ?1 IS NULL OR instr(routes, ?1) > 0 THEN data END FROM pages "
        f"WHERE {where} ORDER BY last DESC",
        [None if query.route is None else json.dumps(query.route, ensure_ascii=False), *values],
    )
    found: list[Outcome] = []
    waiting: list[Outcome] = []
    read = 0
    for number, (page, last, data) in enumerate(pages):
        # Pages overlap: only what lies behind the end of this one and all that follow is certain.
        waiting.sort(reverse=True)
        certain = sum(o.decision > last for o in waiting)
        found += waiting[:certain]
        if len(found) >= query.limit:
            return found[: query.limit], found[query.limit - 1].decision
        behind = just_behind(last)
        enough = read >= SCAN_PAGES or number >= MAX_PASSED_PAGES
        # A step must move on, or the next one would begin where this one did.
        if enough and (query.before is None or behind < query.before):
            return found, behind
        waiting = waiting[certain:]
        if data is not None:
            waiting, read = waiting + [o for o in decode(data, page) if matches(o, query)], read + 1
    found += sorted(waiting, reverse=True)
    if len(found) > query.limit:
        return found[: query.limit], found[query.limit - 1].decision
    return found, None


def page_filter(query: OutcomeFilter) -> tuple[str, list[object]]:
    """A condition on pages that may hold what ``query`` lets through, and its values."""
    texts, values = ["rows > 0"], list[object]()
    if query.before is not None:
        texts += ["first < ?", "last <= ?"]
        values += [query.before, _latest_end(query.before)]
    if query.route is not None:
        texts.append("instr(routes, ?) > 0")
        values.append(json.dumps(query.route, ensure_ascii=False))
    if query.errors_only or query.error:
        texts.append("errors > 0")  # in the words of an index
    if query.since is not None:
        texts += ["newest >= ?", "last >= ?"]
        values += [query.since, moment(query.since - CLOCK_SLACK_MS / 1000)]
    if query.until is not None:
        texts += ["oldest < ?", "last <= ?"]
        values += [query.until, _latest_end(moment(query.until + CLOCK_SLACK_MS / 1000))]
    return " AND ".join(texts), values


def oldest_first(
    connection: sqlite3.Connection,
    *,
    route: str | None = None,
    since: float | None = None,
    until: float | None = None,
    after: bytes | None = None,
    limit: int = 1000,
) -> list[Outcome]:
    """The outcomes behind ``after``, ordered by decision."""
    query = OutcomeFilter(route=route, since=since, until=until, limit=limit)
    where, values = page_filter(query)
    floor = after or b""
    pages = connection.execute(
        f"SELECT id, first, data FROM pages WHERE first >= ? AND last > ? AND {where} ORDER BY first",
        [_earliest_start(floor), floor, *values],
    )
    found: list[Outcome] = []
    waiting: list[Outcome] = []
    for page, first, data in pages:
        # The mirror of `scan`: what lies before the start of this page is certain.
        waiting.sort()
        certain = sum(o.decision < first for o in waiting)
        found += waiting[:certain]
        if len(found) >= limit:
            return found[:limit]
        chosen = (o for o in decode(data, page) if o.decision > floor and matches(o, query))
        waiting = [*waiting[certain:], *chosen]
    waiting.sort()
    return (found + waiting)[:limit]


def first_times(connection: sqlite3.Connection, since: Mapping[str, float]) -> dict[str, float]:
    """Times of first decisions, as `RecordStore.first_times` returns them: all routes in one walk, however rare."""
    start = min(since.values(), default=inf)
    rows = connection.execute(
        "SELECT id, first, newest, routes FROM pages WHERE first >= ? AND newest >= ? AND rows > 0 ORDER BY first",
        (_earliest_start(moment(start - CLOCK_SLACK_MS / 1000)), start),
    )
    found: dict[str, Outcome] = {}
    for page, first, newest, routes in rows:
        # Pages overlap: one that begins before what was found may have an earlier decision.
        open_ = [
            route
            for route in since.keys() & json.loads(routes)
            if newest >= since[route] and (route not in found or first < found[route].decision)
        ]
        if open_:
            (data,) = connection.execute("SELECT data FROM pages WHERE id = ?", (page,)).fetchone()
            for outcome in decode(data, page):
                route = outcome.route
                if route in open_ and outcome.time >= since[route]:
                    found[route] = min(outcome, found.get(route, outcome))
        # No page from here on can hold an earlier decision of any route.
        elif len(found) == len(since) and first > max(found.values()).decision:
            break
    return {route: outcome.time for route, outcome in found.items()}


def exposures_of(
    connection: sqlite3.Connection, route: str, *, since: float, until: float, below: int
) -> list[Exposure]:
    """Decisions of the units below ``below``, as `RecordStore.exposures` returns them."""
    where, values = page_filter(OutcomeFilter(route=route, since=since, until=until))
    rows = connection.execute(f"SELECT id, data FROM pages WHERE {where}", values)
    return exposures(rows, route, since=since, until=until, below=below)


def page_numbers(connection: sqlite3.Connection, route: str, *, since: float) -> list[int]:
    """Numbers of pages, as `RecordStore.page_numbers` returns them."""
    where, values = page_filter(OutcomeFilter(route=route, since=since))
    return [number for (number,) in connection.execute(f"SELECT id FROM pages WHERE {where}", values)]


def page_exposures(
    connection: sqlite3.Connection, route: str, numbers: Sequence[int], *, since: float, below: int
) -> list[Exposure]:
    """Decisions in pages, as `RecordStore.page_exposures` returns them."""
    wanted = ",".join("?" * len(numbers))
    rows = connection.execute(
        f"SELECT id, data FROM pages WHERE rows > 0 AND id IN ({wanted})", list(numbers)
    )
    return exposures(rows, route, since=since, until=inf, below=below)
