"""Forgetting what is too old, and folding old aggregates and pages together, a bounded step at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from gateway.record.events import Outcome
from gateway.record.page import decode
from gateway.state.base import ALLOCATION, Counts, Retention
from gateway.state.exact import ExactSums
from gateway.state.folding import LADDER, LINEAR_LADDER, PAGE_AGE_S, merged_epochs, share_steps
from gateway.state.paging import COARSE_BYTES, MAX_PAGE_ROWS, parts
from gateway.state.sqlite import linear, pages, totals
from gateway.state.sqlite.control import ROUTES
from gateway.state.sqlite.pages import moment
from gateway.state.sqlite.sums import add_cells, add_sums, cells_where, note_changes, sums_where
from gateway.state.tally import CellKey, SumKey, add_counts
from gateway.state.units import UNIT_REST_S

_UNIT: Final = "route, unit, period, variant, metric"
_FIRST_UNIT: Final = ("", -(2**63), "", "", "")
_MAX_STEP_ROWS: Final = 2000
"""Rows that one step touches at most, so that rewards never wait long behind it."""


class Upkeep:
    """The upkeep of one store. No step reads a whole table: rewards wait behind it."""

    def __init__(self) -> None:
        self._unit: tuple[object, ...] = _FIRST_UNIT
        """The key of the last unit that was looked at."""

    def step(self, connection: sqlite3.Connection, retention: Retention, *, now: float) -> bool:
        """One bounded step; True while there is more to do."""
        bounded = _within_size(connection, retention, now)
        self._forget_units(connection, now - UNIT_REST_S)
        return (
            _forget(connection, bounded, now)
            or bounded is not retention
            or any(_fold(connection, now - age, width) for age, width in LADDER)
            or any(linear.fold(connection, now - age, width) for age, width in LINEAR_LADDER)
            or _merge_pages(connection, now)
        )

    def _forget_units(self, connection: sqlite3.Connection, before: float) -> None:
        """Look at the next units, after the last from the first again; an index would cost each reward more."""
        units = connection.execute(
            f"SELECT {_UNIT}, last FROM units WHERE ({_UNIT}) > (?, ?, ?, ?, ?) ORDER BY {_UNIT} "
            f"LIMIT {_MAX_STEP_ROWS}",
            self._unit,
        ).fetchall()
        self._unit = units[-1][:-1] if len(units) == _MAX_STEP_ROWS else _FIRST_UNIT
        connection.executemany(
            f"DELETE FROM units WHERE ({_UNIT}) = (?, ?, ?, ?, ?)",
            [unit[:-1] for unit in units if unit[-1] < before],
        )


def size(connection: sqlite3.Connection) -> int:
    """Bytes of the file without its free pages, which are used again."""
    pages, free, each = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * each


def _within_size(connection: sqlite3.Connection, retention: Retention, now: float) -> Retention:
    """The retention that also forgets the oldest pages or rewards, where the record is too large."""
    if size(connection) <= retention.max_bytes:
        return retention
    outcomes = connection.execute(
        # A twentieth at a time: the record stays near its limit instead of being halved.
        "SELECT MAX(newest) FROM (SELECT newest FROM pages ORDER BY last "
        "LIMIT MIN(?, 1 + (SELECT COUNT(*) / 20 FROM pages)))",
        (_MAX_STEP_ROWS,),
    ).fetchone()[0]
    rewards = connection.execute(
        "SELECT MAX(decided) FROM (SELECT decided FROM rewards ORDER BY decision LIMIT ?)", (_MAX_STEP_ROWS,)
    ).fetchone()[0]
    return retention.shortened(now, outcomes=outcomes, rewards=rewards)


def _forget(connection: sqlite3.Connection, retention: Retention, now: float) -> bool:
    outcomes = moment(now - retention.outcomes)
    aggregates = now - retention.aggregates
    newest_event = connection.execute("SELECT MAX(id) FROM events").fetchone()[0] or 0
    deletions = (
        ("pages", "id", "last < ?", outcomes),
        ("seen", "block", "block < ?", outcomes[:COARSE_BYTES]),
        ("shadowed", "decision, shadow", "decision < ?", outcomes),
        ("rewards", "decision, metric", "decision < ?", moment(now - retention.rewards)),
        ("request_ids", "key", "until < ?", now),
        ("events", "id", "time < ?", now - retention.events),
        (
            "events",
            "id",
            f"kind = '{ALLOCATION}' AND id <= ?",  # in the words of the index
            newest_event - retention.events_with_allocations,
        ),
        (
            "allocations",
            "route, epoch",
            # However old, the newest allocation of a route is in force.
            "time < ? AND epoch < (SELECT MAX(epoch) FROM allocations AS a WHERE a.route = allocations.route)",
            now - retention.allocations,
        ),
        ("shadow_cells", "route, start, shadow", "start < ?", aggregates),
    )
    more = linear.forget(connection, aggregates)
    # Each kind has its step before the result is known: none may starve behind another.
    more = _forget_surplus_allocations(connection, retention) or more
    more = _forget_cells(connection, aggregates) or more
    for one in deletions:
        more = _delete(connection, *one) or more
    return more


def _forget_surplus_allocations(connection: sqlite3.Connection, retention: Retention) -> bool:
    cursor = connection.execute(
        f"DELETE FROM allocations WHERE (route, epoch) IN ({ROUTES} "
        "SELECT route, epoch FROM routes JOIN allocations ON route = name "
        "AND epoch <= (SELECT MAX(epoch) FROM allocations WHERE route = name) - ? "
        f"LIMIT {_MAX_STEP_ROWS})",
        (retention.allocations_per_route,),
    )
    return cursor.rowcount == _MAX_STEP_ROWS


def _forget_cells(connection: sqlite3.Connection, before: float) -> bool:
    """Takes cells that begin before ``before`` out of the totals too; True while there is more to do."""
    where, parameters = f"start < ? LIMIT {_MAX_STEP_ROWS}", (before,)
    counted = dict(cells_where(connection, where, parameters))
    summed = dict(sums_where(connection, where, parameters))
    totals.count(connection, counted, -1)
    totals.add(connection, summed, -1)
    note_changes(connection, [*counted, *summed])
    for table, key, cells in (("outcome_cells", CellKey, counted), ("reward_cells", SumKey, summed)):
        matches = " AND ".join(f"{column} = ?" for column in key._fields)
        connection.executemany(f"DELETE FROM {table} WHERE {matches}", list(cells))
    return _MAX_STEP_ROWS in (len(counted), len(summed))


def _delete(connection: sqlite3.Connection, table: str, key: str, where: str, value: object) -> bool:
    cursor = connection.execute(
        f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {where} LIMIT {_MAX_STEP_ROWS})",
        (value,),
    )
    return cursor.rowcount == _MAX_STEP_ROWS


# Aggregates ---------------------------------------------------------------------------------------
class _Coarse(NamedTuple):
    """A bucket of the width that its age allows."""

    route: str
    start: int
    end: int


def _fold(connection: sqlite3.Connection, before: float, width: int) -> bool:
    """Folds the oldest coarse bucket, wholly in the past of ``before``, that is not folded yet."""
    cells = _oldest(connection, ("outcome_cells", "reward_cells"), before, width)
    if cells is not None:
        epochs = _merged_epochs(connection, cells)
        _fold_counts(connection, cells, epochs)
        _fold_sums(connection, cells, epochs)
        return True
    shadows = _oldest(connection, ("shadow_cells",), before, width)
    if shadows is not None:
        _fold_shadows(connection, shadows)
    return shadows is not None


def _oldest(
    connection: sqlite3.Connection, tables: Sequence[str], before: float, width: int
) -> _Coarse | None:
    """The oldest coarse bucket with finer ones in any of ``tables``."""
    finer = " UNION ALL ".join(
        f"SELECT * FROM (SELECT start, route FROM {table} WHERE start < :edge AND start % {width} != 0 "
        "ORDER BY start LIMIT 1)"
        for table in tables
    )
    edge = {"edge": int(before // width) * width}
    row = connection.execute(f"SELECT start, route FROM ({finer}) ORDER BY start LIMIT 1", edge).fetchone()
    if row is None:
        return None
    start = row[0] - row[0] % width
    return _Coarse(row[1], start, start + width)


def _merged_epochs(connection: sqlite3.Connection, coarse: _Coarse) -> dict[int, int]:
    """From each epoch inside ``coarse`` to the one that it is counted under (`merged_epochs`)."""
    union = (
        "SELECT route, start, epoch FROM outcome_cells UNION ALL SELECT route, start, epoch FROM reward_cells"
    )
    inside = {
        row[0]
        for row in connection.execute(
            f"SELECT DISTINCT epoch FROM ({union}) WHERE route = ? AND start >= ? AND start < ?", coarse
        )
    }
    if not inside:
        return {}
    before = connection.execute(
        "SELECT epoch FROM outcome_cells WHERE route = ? AND start < ? "
        "ORDER BY start DESC, epoch DESC LIMIT 1",
        (coarse.route, coarse.start),
    ).fetchone()
    after = connection.execute(
        "SELECT epoch FROM outcome_cells WHERE route = ? AND start >= ? ORDER BY start, epoch LIMIT 1",
        (coarse.route, coarse.end),
    ).fetchone()
    shares = connection.execute(
        "SELECT epoch, variant, SUM(assigned), SUM(expected) FROM outcome_cells "
        "WHERE route = ? AND start >= ? AND start < ? GROUP BY epoch, variant",
        coarse,
    )
    return merged_epochs(inside, before and before[0], after and after[0], share_steps(shares))


_INSIDE: Final = "route = ? AND start >= ? AND start < ?"


def _fold_counts(connection: sqlite3.Connection, coarse: _Coarse, epochs: Mapping[int, int]) -> None:
    cells: dict[CellKey, Counts] = {}
    for fine, counts in cells_where(connection, _INSIDE, coarse):
        key = fine._replace(start=coarse.start, epoch=epochs[fine.epoch])
        add_counts(cells.setdefault(key, Counts()), counts)
    _clear(connection, "outcome_cells", coarse)
    add_cells(connection, cells)


def _fold_sums(connection: sqlite3.Connection, coarse: _Coarse, epochs: Mapping[int, int]) -> None:
    cells: dict[SumKey, ExactSums] = {}
    for fine, sums in sums_where(connection, _INSIDE, coarse):
        key = fine._replace(start=coarse.start, epoch=epochs[fine.epoch])
        cells.setdefault(key, ExactSums()).merge(sums)
    _clear(connection, "reward_cells", coarse)
    add_sums(connection, cells)


def _fold_shadows(connection: sqlite3.Connection, coarse: _Coarse) -> None:
    rows = connection.execute(
        "SELECT shadow, SUM(answers), SUM(compared), SUM(agreeing), SUM(errors) FROM shadow_cells "
        "WHERE route = ? AND start >= ? AND start < ? GROUP BY shadow",
        coarse,
    ).fetchall()
    _clear(connection, "shadow_cells", coarse)
    connection.executemany(
        "INSERT INTO shadow_cells VALUES (?,?,?,?,?,?,?)",
        [(coarse.route, coarse.start, *row) for row in rows],
    )


def _clear(connection: sqlite3.Connection, table: str, coarse: _Coarse) -> None:
    connection.execute(f"DELETE FROM {table} WHERE {_INSIDE}", coarse)


# Pages --------------------------------------------------------------------------------------------
def _merge_pages(connection: sqlite3.Connection, now: float) -> bool:
    """Makes one full, compressed page of the oldest small ones of past hours; False when there is none."""
    edge = int(max(now - PAGE_AGE_S, 0) // 3600) * 3_600_000
    small = connection.execute(
        "SELECT id, rows FROM pages WHERE merged = 0 AND first < ? AND last < ? ORDER BY first LIMIT 256",
        (edge.to_bytes(6, "big"),) * 2,
    ).fetchall()
    chosen: list[int] = []
    total = 0
    for page, rows in small:
        if chosen and total + rows > MAX_PAGE_ROWS:
            break
        chosen.append(page)
        total += rows
    outcomes: list[Outcome] = []
    for page in chosen:
        (data,) = connection.execute("SELECT data FROM pages WHERE id = ?", (page,)).fetchone()
        outcomes += decode(data, page)
        connection.execute("DELETE FROM pages WHERE id = ?", (page,))
    for part in parts(outcomes):
        pages.write(connection, part.columns, merged=True)
    return bool(chosen)
