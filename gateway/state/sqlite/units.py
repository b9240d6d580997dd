"""The observations of sticky units: rows, read when first asked for and written when a batch is counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from gateway.state.exact import Expansion
from gateway.state.units import UnitKey, UnitState

_KEY = "route = ? AND unit = ? AND period = ? AND variant = ? AND metric = ?"


class Known(dict[UnitKey, UnitState | None]):
    """The units that a batch touches; None for one that there is not (any more)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    def get(self, key: UnitKey, default: Any = None) -> Any:
        if key not in self:
            row = self._connection.execute(
                f"SELECT count, total, total_rest, mean, start, epoch, last FROM units WHERE {_KEY}",
                _places(key),
            ).fetchone()
            self[key] = None if row is None else UnitState(row[0], Expansion.joined(row[1], row[2]), *row[3:])
        return self[key]


def keep(connection: sqlite3.Connection, known: Mapping[UnitKey, UnitState | None]) -> None:
    """Writes the units as a batch has left them."""
    if not known:
        return
    connection.executemany(
        "INSERT OR REPLACE INTO units VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
        [
            (*_places(key), u.count, *u.total.split(), u.mean, u.start, u.epoch, u.last)
            for key, u in known.items()
            if u is not None
        ],
    )
    gone = [_places(key) for key, u in known.items() if u is None]
    connection.executemany(f"DELETE FROM units WHERE {_KEY}", gone)


def signed(unit: int) -> int:
    """The 64 bits as SQLite holds them."""
    return unit - (1 << 64) if unit >= 1 << 63 else unit


def _places(key: UnitKey) -> tuple[object, ...]:
    return (key.route, signed(key.unit), key.period, key.variant, key.metric)
