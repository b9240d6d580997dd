"""The aggregates: cells written and added up."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import fsum
from typing import Final, TypeVar

from gateway.record.histogram import merge_packed, pack, unpack
from gateway.runtime.collector import collector_paused
from gateway.state.base import Bucket, Counts
from gateway.state.exact import ExactSums, Expansion
from gateway.state.folding import Grouping, read_under
from gateway.state.sqlite import totals
from gateway.state.tally import KEPT_CHANGES, CellKey, ShadowCounts, ShadowKey, SumKey, start_of
from gateway.state.units import SEGMENT
from policies.types import RewardSums

T = TypeVar("T")
_ALWAYS: Final = 1 << 62
_NONE: Final = RewardSums()
_OF_SEGMENTS: Final = f" AND (instr(metric, '{SEGMENT}') > 0) = ?"
_Figures = tuple[int, int, int, int, float, bytes, bytes, int]


def add_cells(connection: sqlite3.Connection, cells: Mapping[CellKey, Counts]) -> None:
    """Adds to the counts of each cell."""
    rows = []
    for key, counts in cells.items():
        old = connection.execute(
            "SELECT latency, gateway FROM outcome_cells "
            "WHERE route = ? AND start = ? AND epoch = ? AND variant = ?",
            key,
        ).fetchone()
        # SQL adds the numbers; only the packed parts must be read first.
        latency, gateway = pack(counts.latency), pack(counts.gateway)
        if old is not None:
            latency, gateway = _joined(old[0], latency), _joined(old[1], gateway)
        numbers = (counts.assigned, counts.served, counts.errors, counts.fallbacks, counts.expected)
        rows.append((*key, *numbers, latency, gateway, counts.unseen))
    connection.executemany(
        "INSERT INTO outcome_cells VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET "
        "assigned = assigned + excluded.assigned, served = served + excluded.served, "
        "errors = errors + excluded.errors, fallbacks = fallbacks + excluded.fallbacks, "
        "expected = expected + excluded.expected, latency = excluded.latency, gateway = excluded.gateway, "
        "unseen = unseen + excluded.unseen",
        rows,
    )
    note_changes(connection, cells)


def note_changes(connection: sqlite3.Connection, cells: Iterable[CellKey | SumKey]) -> None:
    """Notes which buckets of the aggregates change."""
    by_route: defaultdict[str, set[int]] = defaultdict(set)
    for key in cells:
        by_route[key.route].add(key.start)
    for route, starts in by_route.items():
        version = _version(connection, route) + 1
        connection.executemany(
            "INSERT OR REPLACE INTO changed_cells VALUES (?,?,?)",
            [(route, start, version) for start in starts],
        )
        connection.execute(
            "DELETE FROM changed_cells WHERE route = ? AND version <= ?", (route, version - KEPT_CHANGES)
        )


def forget_changes(connection: sqlite3.Connection, route: str) -> None:
    """Makes every reader read all buckets of the aggregates again."""
    # Beyond what `changed_cells` remembers, so that every older version is unknown.
    version = _version(connection, route) + KEPT_CHANGES + 1
    connection.execute("DELETE FROM changed_cells WHERE route = ?", (route,))
    connection.execute("INSERT INTO changed_cells VALUES (?,?,?)", (route, 0, version))


def changed_cells(connection: sqlite3.Connection, route: str, *, since: int) -> tuple[int, list[int] | None]:
    """The version of the cells, and which buckets changed after ``since``; None if that is not known."""
    version = _version(connection, route)
    # A version to come is of a file that was put back from a backup.
    if not max(version - KEPT_CHANGES, 0) <= since <= version:
        return version, None
    rows = connection.execute(
        "SELECT start FROM changed_cells WHERE route = ? AND version > ?", (route, since)
    )
    return version, [start for (start,) in rows]


def _version(connection: sqlite3.Connection, route: str) -> int:
    row = connection.execute("SELECT MAX(version) FROM changed_cells WHERE route = ?", (route,)).fetchone()
    return row[0] or 0


def _joined(old: bytes, added: bytes) -> bytes:
    return merge_packed(old, added) if old and added else old or added


def add_sums(connection: sqlite3.Connection, cells: Mapping[SumKey, ExactSums]) -> None:
    """Adds to the sums of each cell, exactly."""
    rows = []
    for key, added in cells.items():
        old = connection.execute(
            "SELECT count, total, total_rest, squares, squares_rest FROM reward_cells "
            "WHERE route = ? AND start = ? AND epoch = ? AND variant = ? AND metric = ?",
            key,
        ).fetchone()
        sums = ExactSums()
        if old is not None:
            count, total, total_rest, squares, squares_rest = old
            sums = ExactSums(
                count, Expansion.joined(total, total_rest), Expansion.joined(squares, squares_rest)
            )
        sums.merge(added)
        total, total_rest = sums.total.split()
        squares, squares_rest = sums.squares.split()
        rows.append((*key, sums.count, total, squares, total_rest, squares_rest))
    connection.executemany("INSERT OR REPLACE INTO reward_cells VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
    note_changes(connection, cells)


def add_shadow_cells(connection: sqlite3.Connection, cells: Mapping[ShadowKey, ShadowCounts]) -> None:
    connection.executemany(
        "INSERT INTO shadow_cells VALUES (?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET "
        "answers = answers + excluded.answers, compared = compared + excluded.compared, "
        "agreeing = agreeing + excluded.agreeing, errors = errors + excluded.errors",
        [(*key, *counts) for key, counts in cells.items()],
    )


def cells_where(
    connection: sqlite3.Connection, where: str, parameters: Sequence[object]
) -> list[tuple[CellKey, Counts]]:
    """The cells of counts that the SQL condition ``where`` lets through."""
    rows = connection.execute(
        f"SELECT route, start, epoch, variant, {totals.FIGURES} FROM outcome_cells WHERE {where}", parameters
    )
    return [(CellKey(*row[:4]), totals.as_counts(*row[4:])) for row in rows]


def sums_where(
    connection: sqlite3.Connection, where: str, parameters: Sequence[object]
) -> list[tuple[SumKey, ExactSums]]:
    """The cells of sums that the SQL condition ``where`` lets through."""
    rows = connection.execute(
        "SELECT route, start, epoch, variant, metric, count, total, total_rest, squares, squares_rest "
        f"FROM reward_cells WHERE {where}",
        parameters,
    )
    return [
        (SumKey(*key), ExactSums(count, Expansion.joined(t, t_rest), Expansion.joined(s, s_rest)))
        for *key, count, t, t_rest, s, s_rest in rows
    ]


# Reading ------------------------------------------------------------------------------------------
def _range(route: str, since: float | None, until: float | None) -> tuple[str, float, float]:
    """Whole buckets: that in which ``since`` lies is the first, that which begins at ``until`` is out."""
    return route, -_ALWAYS if since is None else start_of(since), _ALWAYS if until is None else until


def counts(
    connection: sqlite3.Connection,
    route: str,
    *,
    since: float | None = None,
    until: float | None = None,
    epoch: int | None = None,
) -> dict[str, Counts]:
    """By variant."""
    if since is None and until is None and epoch is None:
        return totals.counts(connection, route)
    rows = connection.execute(
        "SELECT variant, assigned, served, errors, fallbacks, expected, latency, gateway, unseen FROM outcome_cells "
        "WHERE route = ? AND start >= ? AND start < ?" + (" AND epoch = ?" if epoch is not None else ""),
        (*_range(route, since, until), *([] if epoch is None else [epoch])),
    )
    by_variant: dict[str, list[_Figures]] = {}
    for variant, *figures in rows:
        by_variant.setdefault(variant, []).append(tuple(figures))
    return {variant: _summed(by_variant[variant]) for variant in sorted(by_variant)}


def decided(
    connection: sqlite3.Connection,
    route: str,
    *,
    since: float | None = None,
    until: float | None = None,
    epoch: int | None = None,
) -> dict[str, tuple[int, int, int]]:
    """Assigned, those whose response was seen, and errors, by variant."""
    # The totals less what is newer: old cells are many, new ones few.
    if since is None and epoch is None:
        found = totals.decided(connection, route)
        newer = {} if until is None else _decided(connection, (route, until, _ALWAYS))
        for variant, (assigned, seen, errors) in newer.items():
            before = found.get(variant, (0, 0, 0))
            found[variant] = before[0] - assigned, before[1] - seen, before[2] - errors
    else:
        found = _decided(connection, _range(route, since, until), epoch)
    return {variant: one for variant, one in found.items() if one[0] > 0}


def _decided(
    connection: sqlite3.Connection, limits: tuple[str, float, float], epoch: int | None = None
) -> dict[str, tuple[int, int, int]]:
    rows = connection.execute(
        "SELECT variant, SUM(assigned), SUM(assigned - unseen), SUM(errors) FROM outcome_cells "
        "WHERE route = ? AND start >= ? AND start < ?"
        + (" AND epoch = ?" if epoch is not None else "")
        + " GROUP BY variant ORDER BY variant",
        (*limits, *([] if epoch is None else [epoch])),
    )
    return {variant: (assigned, seen, errors) for variant, assigned, seen, errors in rows}


def _summed(rows: Sequence[_Figures]) -> Counts:
    assigned, served, errors, fallbacks, expected, latency, gateway, unseen = zip(*rows, strict=True)
    return Counts(
        assigned=sum(assigned),
        served=sum(served),
        errors=sum(errors),
        fallbacks=sum(fallbacks),
        latency=unpack(*latency),
        gateway=unpack(*gateway),
        expected=sum(expected),
        unseen=sum(unseen),
    )


def reward_sums(
    connection: sqlite3.Connection,
    route: str,
    *,
    since: float | None = None,
    until: float | None = None,
    epoch: int | None = None,
    segments: bool = False,
) -> dict[tuple[str, str], RewardSums]:
    """By (variant, metric); what is down to no values at all is left out."""
    if since is None and epoch is None:
        return _up_to(connection, route, until, segments)
    rows = connection.execute(
        "SELECT variant, metric, SUM(count), SUM(total), SUM(squares) FROM reward_cells "
        "WHERE route = ? AND start >= ? AND start < ?"
        + _OF_SEGMENTS
        + (" AND epoch = ?" if epoch is not None else "")
        + " GROUP BY variant, metric ORDER BY variant, metric",
        (*_range(route, since, until), segments, *([] if epoch is None else [epoch])),
    )
    return {(variant, metric): RewardSums(*sums) for variant, metric, *sums in rows if sums[0]}


def _up_to(
    connection: sqlite3.Connection, route: str, until: float | None, segments: bool
) -> dict[tuple[str, str], RewardSums]:
    """The totals without the cells since ``until``, exactly."""
    every = totals.sums(connection, route)
    found = {key: sums for key, sums in every.items() if (SEGMENT in key[1]) == segments}
    if until is None:
        return {key: sums.rounded for key, sums in found.items() if sums.count}
    parts = {key: (sums.count, sums.total.parts, sums.squares.parts) for key, sums in found.items()}
    rows = connection.execute(
        "SELECT variant, metric, count, total, squares, total_rest, squares_rest FROM reward_cells "
        "WHERE route = ? AND start >= ?" + _OF_SEGMENTS,
        (route, until, segments),
    )
    for variant, metric, count, total, squares, total_rest, squares_rest in rows:
        whole, totals_, squares_ = parts.get((variant, metric)) or (0, [], [])
        parts[variant, metric] = whole - count, totals_, squares_
        totals_.append(-total)
        squares_.append(-squares)
        if total_rest or squares_rest:
            # The rests too: without them a difference of equal sums would not be 0.
            totals_ += (-x for x in Expansion.joined(0.0, total_rest).parts)
            squares_ += (-x for x in Expansion.joined(0.0, squares_rest).parts)
    return {key: RewardSums(n, fsum(t), fsum(s)) for key, (n, t, s) in parts.items() if n}


def series(
    connection: sqlite3.Connection,
    route: str,
    *,
    since: float,
    until: float,
    step: float,
    epochs: Grouping = "each",
    histograms: bool = True,
    segments: bool = False,
) -> list[Bucket]:
    """Oldest first, then by variant and epoch."""
    limits = (int(step), *_range(route, since, until))
    by_epoch = "" if epochs == "together" else ", epoch"
    columns = (
        "epoch, assigned, served, errors, fallbacks, expected, latency, gateway, unseen"
        if histograms
        else "MAX(epoch), SUM(assigned), SUM(served), SUM(errors), SUM(fallbacks), SUM(expected), x'', x'', SUM(unseen)"
    )
    outcomes = connection.execute(
        f"SELECT start - start % ? AS begin, variant, {columns} FROM outcome_cells "
        "WHERE route = ? AND start >= ? AND start < ?"
        + ("" if histograms else f" GROUP BY begin, variant{by_epoch}"),
        limits,
    ).fetchall()
    rewards = connection.execute(
        "SELECT start - start % ? AS begin, variant, MAX(epoch), metric, SUM(count), SUM(total), SUM(squares) "
        f"FROM reward_cells WHERE route = ? AND start >= ? AND start < ?{_OF_SEGMENTS} "
        f"GROUP BY begin, variant, metric{by_epoch}",
        (*limits, segments),
    ).fetchall()
    under = read_under(
        epochs,
        ((start, epoch, variant, figures[0], figures[4]) for start, variant, epoch, *figures in outcomes),
        ((start, epoch) for start, _, epoch, *_ in rewards),
    )
    counted: dict[tuple[int, str, int], list[_Figures]] = {}
    rewarded: dict[tuple[int, str, int], dict[str, RewardSums]] = {}
    for start, variant, epoch, *figures in outcomes:
        counted.setdefault((start, variant, under[start, epoch]), []).append(tuple(figures))
    for start, variant, epoch, metric, *sums in rewards:
        mine = rewarded.setdefault((start, variant, under[start, epoch]), {})
        mine[metric] = mine.get(metric, _NONE) + RewardSums(*sums)
    return [
        Bucket(
            float(key[0]),
            key[1],
            key[2],
            _summed(counted[key]) if key in counted else Counts(),
            {metric: one for metric, one in rewarded.get(key, {}).items() if one != _NONE},
        )
        for key in sorted(counted.keys() | rewarded.keys())
    ]


@collector_paused
def reduced_series(
    connection: sqlite3.Connection,
    route: str,
    make: Callable[[list[Bucket]], T],
    *,
    since: float,
    until: float,
    step: float,
    epochs: Grouping = "alike",
    histograms: bool = False,
) -> T:
    """What ``make`` returns of the `series`."""
    return make(
        series(connection, route, since=since, until=until, step=step, epochs=epochs, histograms=histograms)
    )


def agreement(
    connection: sqlite3.Connection, route: str, *, since: float | None = None
) -> dict[str, tuple[int, int, int]]:
    rows = connection.execute(
        "SELECT shadow, SUM(answers), SUM(compared), SUM(agreeing) FROM shadow_cells "
        "WHERE route = ? AND start >= ? AND start < ? GROUP BY shadow ORDER BY shadow",
        _range(route, since, None),
    )
    return {shadow: (answers, compared, agreeing) for shadow, answers, compared, agreeing in rows}


def agreement_series(
    connection: sqlite3.Connection, route: str, *, since: float, until: float, step: float
) -> list[tuple[float, str, int, int]]:
    """Oldest first, then by shadow."""
    rows = connection.execute(
        "SELECT start - start % ? AS begin, shadow, SUM(compared), SUM(agreeing) FROM shadow_cells "
        "WHERE route = ? AND start >= ? AND start < ? GROUP BY begin, shadow ORDER BY begin, shadow",
        (int(step), *_range(route, since, until)),
    )
    return [(float(start), shadow, compared, agreeing) for start, shadow, compared, agreeing in rows]
