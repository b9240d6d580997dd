"""The index of request ids (`gateway.record.request_ids`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.record.request_ids import RequestKey


def index(connection: sqlite3.Connection, rows: Sequence[RequestKey], *, now: float, keep: float) -> None:
    """Adds entries; an id that two decisions share becomes ambiguous."""
    connection.executemany(
        "INSERT INTO request_ids (key, decision, until) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET decision = x'' WHERE decision != excluded.decision",
        [(row.key, row.decision, now + keep) for row in rows],
    )


def find(connection: sqlite3.Connection, route: str, keys: Sequence[bytes]) -> list[bytes | None]:
    """By key alone: it holds the route."""
    found = []
    for key in keys:
        row = connection.execute("SELECT decision FROM request_ids WHERE key = ?", (key,)).fetchone()
        found.append(None if row is None else bytes(row[0]))
    return found
