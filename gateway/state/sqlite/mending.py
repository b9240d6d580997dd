"""What is done about damaged cells of a route: all that can be read stays, and the rest is computed again if it can be.

Numbers have columns of their own, so it is the packed parts that are damaged: a histogram of times, which the record
still tells, or what a sum has beyond its double, which no figure shows. A cell of sums over rows of features is packed
as a whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from gateway.clock import wall
from gateway.record.events import columns
from gateway.record.histogram import less_packed, pack, unpack
from gateway.record.page import BadPage
from gateway.state.base import Counts
from gateway.state.damage import CELL_FAULTS, Mended
from gateway.state.exact import ExactSums, Expansion
from gateway.state.folding import cell_width
from gateway.state.linear import ExactLinear
from gateway.state.sqlite import pages, sums, totals
from gateway.state.tally import TOTAL_START, add_counts, tally

_MAX_READ: Final = 100_000
"""Outcomes that are read again for one histogram at most: rewards wait meanwhile."""
_Row = tuple[object, ...]


def mend(connection: sqlite3.Connection, route: str) -> Mended:
    """Repair the cells of a route, and make its totals of them again."""
    found = Mended()
    for table, of_rests in (
        ("reward_cells", ("total_rest", "squares_rest")),
        ("units", ("total_rest",)),
    ):
        _drop_rests(connection, table, of_rests, route, found)
    _mend_times(connection, route, found)
    _drop_linear(connection, route, found)
    _mend_totals(connection, route, found)
    if found.repaired:
        sums.forget_changes(connection, route)
    return found


def routes(connection: sqlite3.Connection) -> list[str]:
    """All that have cells."""
    tables = ("outcome_totals", "reward_totals", "linear_cells")
    rows = connection.execute(" UNION ".join(f"SELECT route FROM {table}" for table in tables))
    return [route for (route,) in rows]


def _damaged(
    connection: sqlite3.Connection, select: str, route: str, read: Callable[[_Row], object]
) -> list[_Row]:
    """The rows that ``read`` fails for."""

    def fails(row: _Row) -> bool:
        try:
            read(row)
        except CELL_FAULTS:
            return True
        return False

    return [row for row in connection.execute(f"{select} WHERE route = ?", (route,)) if fails(row)]


def _drop_rests(
    connection: sqlite3.Connection, table: str, names: Sequence[str], route: str, found: Mended
) -> None:
    """What a rest adds to its sum is less than the last digit."""
    given = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[5]]
    key, places = ", ".join(given), len(given)
    select = f"SELECT {key}, {', '.join(names)} FROM {table}"

    def read(row: _Row) -> None:
        for rest in row[places:]:
            Expansion.joined(0.0, rest)  # type: ignore[arg-type]  # that is the question

    for row in _damaged(connection, select, route, read):
        cleared = ", ".join(f"{name} = NULL" for name in names)
        connection.execute(
            f"UPDATE {table} SET {cleared} WHERE ({key}) = ({', '.join('?' * places)})", row[:places]
        )
        found.repaired += 1


# Histograms ---------------------------------------------------------------------------------------
def _mend_times(connection: sqlite3.Connection, route: str, found: Mended) -> None:
    select = "SELECT start, epoch, variant, served, latency, gateway FROM outcome_cells"

    def read(row: _Row) -> None:
        unpack(row[4]), unpack(row[5])  # type: ignore[arg-type]

    for start, epoch, variant, served, _, _ in _damaged(connection, select, route, read):
        assert isinstance(start, int)
        key = route, start, epoch, variant
        connection.execute(
            "UPDATE outcome_cells SET latency = x'', gateway = x'' "
            "WHERE route = ? AND start = ? AND epoch = ? AND variant = ?",
            key,
        )
        # Emptied first, so that the sum of the others can be read.
        latency, gateway = _times(connection, route, start, str(variant), served) or (b"", b"")
        connection.execute(
            "UPDATE outcome_cells SET latency = ?, gateway = ? "
            "WHERE route = ? AND start = ? AND epoch = ? AND variant = ?",
            (latency, gateway, *key),
        )
        found.repaired += 1
        # Without responses there are no times that could be lost.
        if served and not latency:
            found.lost += 1
            found.last = max(found.last, float(start))


def _times(
    connection: sqlite3.Connection, route: str, start: int, variant: str, served: object
) -> tuple[bytes, bytes] | None:
    """The histograms of a cell: those of the record, less those of all other cells of its time; None if the record
    does not have all of its responses."""
    width = cell_width(wall() - start)
    low = start - start % width
    try:
        whole = _recorded(connection, route, low, low + width, variant)
    except BadPage:
        return None
    latency, gateway = pack(whole.latency), pack(whole.gateway)
    rows = connection.execute(
        "SELECT served, latency, gateway FROM outcome_cells "
        "WHERE route = ? AND start >= ? AND start < ? AND variant = ?",
        (route, low, low + width, variant),
    )
    for of_cell, times, own in rows:
        if times:
            whole.served -= of_cell
            latency, gateway = less_packed(latency, times), less_packed(gateway, own)
    return (latency, gateway) if whole.served == served else None


def _recorded(connection: sqlite3.Connection, route: str, low: int, high: int, variant: str) -> Counts:
    found, after = Counts(), b""
    for _ in range(0, _MAX_READ, 1000):
        outcomes = pages.oldest_first(connection, route=route, since=low, until=high, after=after, limit=1000)
        if not outcomes:
            break
        after = outcomes[-1].decision
        for key, counts in tally(columns(outcomes), lambda *_: None).counts.items():
            if key.variant == variant:
                add_counts(found, counts)
    return found


# Sums over rows of features -----------------------------------------------------------------------
_LINEAR: Final = "start, variant, metric, fingerprint"


def _drop_linear(connection: sqlite3.Connection, route: str, found: Mended) -> None:
    def read(row: _Row) -> ExactLinear:
        return ExactLinear.unpack(row[4])  # type: ignore[arg-type]

    for row in _damaged(connection, f"SELECT {_LINEAR}, data FROM linear_cells", route, read):
        start, *of = row[:4]
        assert isinstance(start, int)
        where = "route = ? AND variant = ? AND metric = ? AND fingerprint = ?"
        connection.execute(f"DELETE FROM linear_cells WHERE {where} AND start = ?", (route, *of, start))
        cells = connection.execute(
            f"SELECT data FROM linear_cells WHERE {where} AND start != {TOTAL_START}", (route, *of)
        )
        total: ExactLinear | None = None
        for (data,) in cells.fetchall():
            try:
                cell = ExactLinear.unpack(data)
            except CELL_FAULTS:
                continue  # its turn comes
            total = total or ExactLinear(cell.width)
            total.merge(cell)
        if total is not None:
            connection.execute(
                f"INSERT OR REPLACE INTO linear_cells (route, {_LINEAR}, data) VALUES (?,?,?,?,?,?)",
                (route, TOTAL_START, *of, total.pack()),
            )
        found.repaired += 1
        # A total is made of its cells again, so that nothing is lost with it.
        if start != TOTAL_START:
            found.lost += 1
            found.last = max(found.last, float(start))


# Totals -------------------------------------------------------------------------------------------
def _mend_totals(connection: sqlite3.Connection, route: str, found: Mended) -> None:
    damaged = [
        *_damaged(
            connection,
            "SELECT latency, gateway FROM outcome_totals",
            route,
            lambda row: (unpack(row[0]), unpack(row[1])),  # type: ignore[arg-type]
        ),
        *_damaged(connection, "SELECT data FROM reward_totals", route, lambda row: ExactSums.unpack(row[0])),  # type: ignore[arg-type]
    ]
    if damaged or found.repaired:
        found.repaired += len(damaged)
        totals.rebuild(connection, route)
