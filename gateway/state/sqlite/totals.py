"""The aggregates of each route over all time, kept with their cells in one transaction.

A bandit and an open dashboard read them each second, and the cells of a route are its whole history.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from gateway.record.histogram import is_packed, less_packed, merge_packed, pack, unpack
from gateway.state.base import Counts
from gateway.state.damage import CELL_FAULTS
from gateway.state.exact import ExactSums, Expansion
from gateway.state.tally import CellKey, SumKey, add_counts
from gateway.state.units import metric_of
from policies.types import CLIENT_ERROR_RATE

_MAX_MERGED: Final = 1000
"""Histograms that are held before they are merged."""

_MAX_LOOSE_BYTES: Final = 4000
"""Of histograms that stand one behind the other: each append writes them again. One of all buckets has 8,000."""


class MergedHistograms:
    """The SQL aggregate ``merged_histograms(packed)``, without damaged ones: they are mended once they are read."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []

    def step(self, packed: bytes) -> None:
        if is_packed(packed):
            self._packed.append(packed)
        if len(self._packed) >= _MAX_MERGED:
            self._packed = [merge_packed(*self._packed)]

    def finalize(self) -> bytes:
        return merge_packed(*self._packed)


class MergedSums:
    """The SQL aggregate ``merged_sums(count, total, total_rest, squares, squares_rest)``, without damaged rests."""

    def __init__(self) -> None:
        self._sums = ExactSums()

    def step(
        self, count: int, total: float, total_rest: bytes | None, squares: float, squares_rest: bytes | None
    ) -> None:
        self._sums.merge(ExactSums(count, _expansion(total, total_rest), _expansion(squares, squares_rest)))

    def finalize(self) -> bytes:
        return self._sums.pack()


def _expansion(rounded: float, rest: bytes | None) -> Expansion:
    try:
        return Expansion.joined(rounded, rest)
    except CELL_FAULTS:
        return Expansion.joined(rounded, None)


OF_OUTCOMES: Final = """
INSERT INTO outcome_totals SELECT
  route, variant, SUM(assigned), SUM(served), SUM(errors), SUM(fallbacks),
  SUM(expected), merged_histograms(latency), merged_histograms(gateway), SUM(unseen)
  FROM outcome_cells WHERE route = ? AND variant = ?
"""
"""The totals of one variant: grouping all variants would hold the histograms of all cells in memory."""

_OF_REWARDS: Final = """
INSERT INTO reward_totals SELECT
  route, variant, metric, merged_sums(count, total, total_rest, squares, squares_rest)
  FROM reward_cells WHERE route = ? GROUP BY variant, metric
"""


def fill(connection: sqlite3.Connection) -> None:
    """Make the totals of all routes."""
    routes = connection.execute("SELECT route FROM outcome_cells UNION SELECT route FROM reward_cells")
    for (route,) in routes.fetchall():
        rebuild(connection, route)


def rebuild(connection: sqlite3.Connection, route: str) -> None:
    """Make the totals of a route of its cells again."""
    add_aggregates(connection)
    for table in ("outcome_totals", "reward_totals"):
        connection.execute(f"DELETE FROM {table} WHERE route = ?", (route,))
    variants = connection.execute("SELECT DISTINCT variant FROM outcome_cells WHERE route = ?", (route,))
    connection.executemany(OF_OUTCOMES, [(route, variant) for (variant,) in variants.fetchall()])
    connection.execute(_OF_REWARDS, (route,))


def add_aggregates(connection: sqlite3.Connection) -> None:
    """Make known to ``connection`` the SQL aggregates that totals are made with."""
    connection.create_aggregate("merged_histograms", 1, MergedHistograms)  # type: ignore[arg-type]
    connection.create_aggregate("merged_sums", 5, MergedSums)  # type: ignore[arg-type]


def count(connection: sqlite3.Connection, cells: Mapping[CellKey, Counts], sign: int = 1) -> None:
    """Add cells to the totals of their routes; with -1 take them away."""
    by_variant: dict[tuple[str, str], Counts] = {}
    for key, counts in cells.items():
        add_counts(by_variant.setdefault((key.route, key.variant), Counts()), counts)
    rows = []
    for of, counts in by_variant.items():
        old = connection.execute(
            "SELECT latency, gateway FROM outcome_totals WHERE route = ? AND variant = ?", of
        ).fetchone()
        combine = _joined if sign > 0 else less_packed
        latency, gateway = (
            combine(before, pack(now))
            for before, now in zip(old or (b"", b""), (counts.latency, counts.gateway), strict=True)
        )
        numbers = counts.assigned, counts.served, counts.errors, counts.fallbacks, counts.expected
        rows.append((*of, *(sign * n for n in numbers), latency, gateway, sign * counts.unseen))
    connection.executemany(
        "INSERT INTO outcome_totals VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET "
        "assigned = assigned + excluded.assigned, served = served + excluded.served, "
        "errors = errors + excluded.errors, fallbacks = fallbacks + excluded.fallbacks, "
        "expected = expected + excluded.expected, latency = excluded.latency, gateway = excluded.gateway, "
        "unseen = unseen + excluded.unseen",
        rows,
    )
    if sign < 0:
        connection.executemany(
            # Other cells may still expect requests: less than half a one is what adding doubles leaves.
            "DELETE FROM outcome_totals "
            "WHERE route = ? AND variant = ? AND assigned = 0 AND served = 0 AND expected < 0.5",
            list(by_variant),
        )


def _joined(old: bytes, added: bytes) -> bytes:
    """The sum of two histograms: packed ones that stand one behind the other are that, and merging costs ten times."""
    both = old + added
    return both if len(both) <= _MAX_LOOSE_BYTES else merge_packed(both)


def add(connection: sqlite3.Connection, cells: Mapping[SumKey, ExactSums], sign: int = 1) -> None:
    """Add cells to the totals of their routes, exactly; with -1 take them away."""
    by_metric: dict[tuple[str, str, str], ExactSums] = {}
    for key, sums in cells.items():
        by_metric.setdefault((key.route, key.variant, key.metric), ExactSums()).merge(sums, sign)
    for of, sums in by_metric.items():
        old = connection.execute(
            "SELECT data FROM reward_totals WHERE route = ? AND variant = ? AND metric = ?", of
        ).fetchone()
        if old is not None:
            sums.merge(ExactSums.unpack(old[0]))
    connection.executemany(
        "INSERT OR REPLACE INTO reward_totals VALUES (?,?,?,?)",
        [(*of, sums.pack()) for of, sums in by_metric.items()],
    )
    if sign < 0:
        connection.executemany(
            "DELETE FROM reward_totals WHERE route = ? AND variant = ? AND metric = ?",
            [of for of, sums in by_metric.items() if sums == ExactSums()],
        )


FIGURES: Final = "assigned, served, errors, fallbacks, latency, gateway, expected, unseen"
"""The columns of counts, as `as_counts` takes them."""


def as_counts(
    assigned: int,
    served: int,
    errors: int,
    fallbacks: int,
    latency: bytes,
    gateway: bytes,
    expected: float,
    unseen: int,
) -> Counts:
    """The counts of a row of cells or totals."""
    return Counts(assigned, served, errors, fallbacks, unpack(latency), unpack(gateway), expected, unseen)


# Reading ------------------------------------------------------------------------------------------
def counts(connection: sqlite3.Connection, route: str) -> dict[str, Counts]:
    """By variant."""
    rows = connection.execute(
        f"SELECT variant, {FIGURES} FROM outcome_totals WHERE route = ? ORDER BY variant", (route,)
    )
    return {variant: as_counts(*figures) for variant, *figures in rows}


def decided(connection: sqlite3.Connection, route: str) -> dict[str, tuple[int, int, int]]:
    """Assigned, those whose response was seen, and errors, by variant."""
    rows = connection.execute(
        "SELECT variant, assigned, assigned - unseen, errors FROM outcome_totals WHERE route = ? ORDER BY variant",
        (route,),
    )
    return {variant: (assigned, seen, errors) for variant, assigned, seen, errors in rows}


def sums(connection: sqlite3.Connection, route: str) -> dict[tuple[str, str], ExactSums]:
    """By (variant, metric)."""
    rows = connection.execute(
        "SELECT variant, metric, data FROM reward_totals WHERE route = ? ORDER BY variant, metric", (route,)
    )
    return {(variant, metric): ExactSums.unpack(data) for variant, metric, data in rows}


def metric_names(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT metric, data FROM reward_totals")
    names = {metric_of(name) for name, data in rows if ExactSums.unpack(data).count}
    return sorted(names - {CLIENT_ERROR_RATE})
