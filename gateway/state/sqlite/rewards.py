"""Rewards and shadow responses: rows, upserted."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from gateway.record.context import has_row
from gateway.record.events import Reward, Shadowed
from gateway.state.base import RewardResult
from gateway.state.sqlite import linear, totals, units
from gateway.state.sqlite.sums import add_shadow_cells, add_sums
from gateway.state.tally import counted_value, tally_shadows
from gateway.state.units import Counting

_COLUMNS: Final = ", ".join(Reward._fields)
_INTO: Final = f"INTO rewards ({_COLUMNS}, counted) VALUES ({','.join('?' * (len(Reward._fields) + 1))})"
_UNIT: Final = Reward._fields.index("unit")

_Change = tuple[Reward, float | None, float | None, str]
"""A reward, what it counted as before and what it counts as now, and the period it was counted under."""


def upsert(
    connection: sqlite3.Connection, rewards: Sequence[Reward], *, replay: bool = False
) -> list[RewardResult]:
    """Upserts on (decision, metric), as `RecordStore.reward` describes."""
    # Nearly all batches are new: one statement for all; only if a row was there, back, and one by one.
    connection.execute("SAVEPOINT rewards")
    before = connection.total_changes
    rows = [_to_row(reward, counted_value(reward)) for reward in rewards]
    connection.executemany(f"INSERT OR IGNORE {_INTO}", rows)
    if connection.total_changes - before == len(rows):
        connection.execute("RELEASE rewards")
        _count(connection, [(reward, None, row[-1], "") for reward, row in zip(rewards, rows, strict=True)])
        return ["accepted"] * len(rewards)
    connection.execute("ROLLBACK TO rewards")
    connection.execute("RELEASE rewards")
    return _upsert_slowly(connection, rewards, replay=replay)


def _upsert_slowly(
    connection: sqlite3.Connection, rewards: Sequence[Reward], *, replay: bool
) -> list[RewardResult]:
    """The way for batches in which something was reported before."""
    results: list[RewardResult] = []
    changes: list[_Change] = []
    known: dict[tuple[bytes, str], tuple[float | None, float, float | None, str] | None] = {}
    for reward in rewards:
        key = (reward.decision, reward.metric)
        if key not in known:
            known[key] = connection.execute(
                "SELECT value, time, counted, period FROM rewards WHERE decision = ? AND metric = ?", key
            ).fetchone()
        old = known[key]
        # A replay from the spool may be older than what has been reported since.
        if old is not None and (old[0] == reward.value or (replay and reward.time < old[1])):
            results.append("duplicate")
            continue
        counted = counted_value(reward)
        changes.append((reward, *((old[2], counted, old[3]) if old is not None else (None, counted, ""))))
        known[key] = (reward.value, reward.time, counted, reward.period)
        results.append("accepted" if old is None else "updated")
    connection.executemany(
        f"INSERT OR REPLACE {_INTO}", [_to_row(reward, counted) for reward, _, counted, _ in changes]
    )
    _count(connection, changes)
    return results


def _count(connection: sqlite3.Connection, changes: Sequence[_Change]) -> None:
    """Moves the sums, and the observations of units, from what each reward counted as to what it counts as."""
    counting = Counting(units.Known(connection))
    rows: list[tuple[Reward, float | None, float | None]] = []
    for reward, before, after, period in changes:
        if before is not None or after is not None:
            counting.change(reward, before, after, period)
            if has_row(reward.context):
                rows.append((reward, before, after))
    add_sums(connection, counting.cells)
    totals.add(connection, counting.cells)
    units.keep(connection, counting.known)
    if rows:
        linear.add(connection, linear.changed_cells(rows))


def _to_row(reward: Reward, counted: float | None) -> tuple[Any, ...]:
    return (*reward[:_UNIT], units.signed(reward.unit), *reward[_UNIT + 1 :], counted)


def _from_row(row: tuple[Any, ...]) -> Reward:
    made = Reward(*row)
    return made._replace(unit=made.unit & 0xFFFF_FFFF_FFFF_FFFF, forced=bool(made.forced))


def between(connection: sqlite3.Connection, first: bytes, last: bytes) -> defaultdict[bytes, list[Reward]]:
    """Those of a span of decisions, by decision and then metric; a retracted one has no value."""
    found: defaultdict[bytes, list[Reward]] = defaultdict(list)
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM rewards WHERE decision BETWEEN ? AND ? ORDER BY decision, metric",
        (first, last),
    )
    for row in rows:
        found[row[0]].append(_from_row(row))
    return found


# Shadows ------------------------------------------------------------------------------------------
_SHADOWED_PLACES: Final = ",".join("?" * 12)


def add_shadowed(connection: sqlite3.Connection, shadowed: Sequence[Shadowed]) -> None:
    """Adds those that are not there yet, and what they count for."""
    new: dict[tuple[bytes, str], Shadowed] = {}
    for one in shadowed:
        key = (one.decision, one.shadow)
        found = connection.execute("SELECT 1 FROM shadowed WHERE decision = ? AND shadow = ?", key).fetchone()
        if found is None:
            new.setdefault(key, one)
    rows = [(s.decision, s.shadow, s.time, s.route, *s[4:]) for s in new.values()]
    connection.executemany(f"INSERT INTO shadowed VALUES ({_SHADOWED_PLACES})", rows)
    add_shadow_cells(connection, tally_shadows(list(new.values())))


def shadows_between(
    connection: sqlite3.Connection, first: bytes, last: bytes
) -> defaultdict[bytes, list[Shadowed]]:
    """Those of a span of decisions, by decision and then shadow."""
    found: defaultdict[bytes, list[Shadowed]] = defaultdict(list)
    rows = connection.execute(
        "SELECT decision, time, route, shadow, primary_variant, status, error, latency_ms, primary_ms, "
        "agrees, difference, detail FROM shadowed WHERE decision BETWEEN ? AND ? ORDER BY decision, shadow",
        (first, last),
    )
    for row in rows:
        agrees = None if row[9] is None else bool(row[9])
        found[row[0]].append(Shadowed._make((*row[:9], agrees, *row[10:])))
    return found


def shadow_responses(
    connection: sqlite3.Connection,
    route: str,
    shadow: str,
    *,
    since: float,
    limit: int = 1000,
    disagreeing: bool = False,
) -> list[Shadowed]:
    """Newest first."""
    first = max(0, int(since * 1000)).to_bytes(6, "big")
    rows = connection.execute(
        "SELECT decision, time, route, shadow, primary_variant, status, error, latency_ms, primary_ms, "
        f"agrees, difference, detail FROM shadowed {'INDEXED BY shadowed_disagreeing ' if disagreeing else ''}"
        "WHERE decision >= ? AND route = ? AND shadow = ? "
        f"{'AND agrees = 0 ' if disagreeing else ''}ORDER BY decision DESC LIMIT ?",
        (first, route, shadow, limit),
    )
    return [Shadowed._make((*row[:9], None if row[9] is None else bool(row[9]), *row[10:])) for row in rows]
