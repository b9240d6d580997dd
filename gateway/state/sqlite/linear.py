"""Sums over rows of features: cells written, added up and folded."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.record.context import unpack
from gateway.record.events import Reward
from gateway.state.linear import ExactLinear, summed
from gateway.state.tally import TOTAL_START, LinearKey, linear_keys
from policies.contextual.regression import LinearSums

_MAX_STEP_CELLS: Final = 50
"""Cells that one step of upkeep touches at most: one may have five thousand bytes."""
_WHERE: Final = "route = ? AND start = ? AND variant = ? AND metric = ? AND fingerprint = ?"
_KEY: Final = "route, start, variant, metric, fingerprint"


def changed_cells(
    changes: Sequence[tuple[Reward, float | None, float | None]],
) -> dict[LinearKey, ExactLinear]:
    """What to add to each cell: rewards with what each counted as before and counts as now."""
    cells: dict[LinearKey, ExactLinear] = {}
    for reward, before, after in changes:
        row = unpack(bytes.fromhex(reward.context))
        for key in linear_keys(reward, row.fingerprint):
            cell = cells.setdefault(key, ExactLinear(row.width))
            if before is not None:
                cell.retract(row, before)
            if after is not None:
                cell.report(row, after)
    return cells


def add(connection: sqlite3.Connection, cells: Mapping[LinearKey, ExactLinear]) -> None:
    """Adds to each cell, exactly."""
    rows = []
    for key, added in cells.items():
        old = connection.execute(f"SELECT data FROM linear_cells WHERE {_WHERE}", key).fetchone()
        if old is not None:
            added.merge(ExactLinear.unpack(old[0]))
        rows.append((*key, added.pack()))
    connection.executemany(f"INSERT OR REPLACE INTO linear_cells ({_KEY}, data) VALUES (?,?,?,?,?,?)", rows)


# Reading ------------------------------------------------------------------------------------------
def totals(connection: sqlite3.Connection, route: str, fingerprint: str) -> dict[tuple[str, str], LinearSums]:
    """By (variant, metric); what is down to no rows at all is left out."""
    rows = connection.execute(
        "SELECT variant, metric, data FROM linear_cells WHERE route = ? AND fingerprint = ? AND start = ? "
        "ORDER BY variant, metric",
        (route, fingerprint, TOTAL_START),
    )
    found = {(variant, metric): summed([data]) for variant, metric, data in rows}
    return {key: sums for key, sums in found.items() if sums.count}


def series(
    connection: sqlite3.Connection, route: str, fingerprint: str, *, since: float
) -> list[tuple[float, dict[tuple[str, str], LinearSums]]]:
    """Oldest first."""
    rows = connection.execute(
        "SELECT start, variant, metric, data FROM linear_cells WHERE route = ? AND fingerprint = ? "
        "AND start >= ? AND start != ? ORDER BY start, variant, metric",
        (route, fingerprint, since, TOTAL_START),
    )
    found: dict[float, dict[tuple[str, str], LinearSums]] = {}
    for start, variant, metric, data in rows:
        found.setdefault(float(start), {})[variant, metric] = summed([data])
    return list(found.items())


# Upkeep -------------------------------------------------------------------------------------------
def fold(connection: sqlite3.Connection, before: float, width: int) -> bool:
    """Makes coarser the oldest cells of the past of ``before`` that are finer than ``width`` seconds."""
    edge = int(before // width) * width
    rows = connection.execute(
        f"SELECT {_KEY}, data FROM linear_cells WHERE start >= 0 AND start < ? AND start % {width} != 0 "
        f"LIMIT {_MAX_STEP_CELLS}",
        (edge,),
    ).fetchall()
    cells: dict[LinearKey, ExactLinear] = {}
    for *key, data in rows:
        fine, sums = LinearKey(*key), ExactLinear.unpack(data)
        coarse = fine._replace(start=fine.start - fine.start % width)
        cells.setdefault(coarse, ExactLinear(sums.width)).merge(sums)
        connection.execute(f"DELETE FROM linear_cells WHERE {_WHERE}", fine)
    add(connection, cells)
    return bool(rows)


def forget(connection: sqlite3.Connection, before: float) -> bool:
    """Takes cells that begin before ``before`` out of the totals too; True while there is more to do."""
    rows = connection.execute(
        f"SELECT {_KEY}, data FROM linear_cells WHERE start >= 0 AND start < ? LIMIT {_MAX_STEP_CELLS}",
        (before,),
    ).fetchall()
    cells: dict[LinearKey, ExactLinear] = {}
    for *key, data in rows:
        old, sums = LinearKey(*key), ExactLinear.unpack(data)
        cells.setdefault(old._replace(start=TOTAL_START), ExactLinear(sums.width)).merge(sums, -1)
        connection.execute(f"DELETE FROM linear_cells WHERE {_WHERE}", old)
    add(connection, cells)
    return len(rows) == _MAX_STEP_CELLS
