"""What the control plane keeps: allocations, documents, revisions, events, leases, secrets."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.state.base import (
    MAX_CLOCK_SKEW_S,
    MAX_REVISION_TEXTS,
    MAX_REVISIONS,
    Event,
    Published,
    Revision,
    RevisionEntry,
)


def touch(connection: sqlite3.Connection) -> None:
    """Moves the number that `Store.changed` returns."""
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'changed'")


def changed(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE name = 'changed'").fetchone()[0])


def touch_rewards(connection: sqlite3.Connection, routes: Iterable[str]) -> None:
    """Moves the numbers that `Store.rewards_version` returns."""
    connection.executemany(
        "INSERT INTO meta VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1",
        [(f"rewards {route}",) for route in routes],
    )


def rewards_version(connection: sqlite3.Connection, route: str) -> int:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (f"rewards {route}",)).fetchone()
    return int(row[0]) if row is not None else 0


def secrets(connection: sqlite3.Connection, name: str) -> tuple[bytes, ...]:
    """One, or none if none was made yet."""
    rows = connection.execute("SELECT value FROM secrets WHERE name = ?", (name,))
    return tuple(bytes(value) for (value,) in rows)


def make_secret(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, os.urandom(32)))


# Allocations --------------------------------------------------------------------------------------
_ALLOCATION: Final = "route, epoch, probabilities, bounds, owners, reason, time, evidence"


def publish(connection: sqlite3.Connection, allocation: Published, ensemble: bytes = b"") -> bool:
    newest = connection.execute(
        "SELECT MAX(epoch) FROM allocations WHERE route = ?", (allocation.route,)
    ).fetchone()[0]
    if newest is not None and allocation.epoch != newest + 1:
        return False
    connection.execute(
        f"INSERT INTO allocations ({_ALLOCATION}) VALUES (?,?,?,?,?,?,?,?)",
        (
            allocation.route,
            allocation.epoch,
            json.dumps(dict(allocation.probabilities)),
            json.dumps(allocation.bounds),
            json.dumps(allocation.owners),
            allocation.reason,
            allocation.time,
            allocation.evidence,
        ),
    )
    # The one before is kept too: a follower may be about to read it.
    old = (allocation.route, allocation.epoch - 1)
    connection.execute("DELETE FROM ensembles WHERE route = ? AND epoch < ?", old)
    if ensemble:
        row = (allocation.route, allocation.epoch, ensemble)
        connection.execute("INSERT INTO ensembles VALUES (?, ?, ?)", row)
    touch(connection)
    return True


def ensemble(connection: sqlite3.Connection, route: str, epoch: int) -> bytes | None:
    row = connection.execute(
        "SELECT data FROM ensembles WHERE route = ? AND epoch = ?", (route, epoch)
    ).fetchone()
    return None if row is None else bytes(row[0])


ROUTES: Final = (
    "WITH RECURSIVE routes(name) AS (SELECT MIN(route) FROM allocations UNION ALL "
    "SELECT (SELECT MIN(route) FROM allocations WHERE route > name) FROM routes WHERE name IS NOT NULL)"
)
"""The routes with an allocation, found from key to key: a bandit leaves a row for each of its allocations."""


def published(connection: sqlite3.Connection) -> dict[str, Published]:
    rows = connection.execute(
        f"{ROUTES} SELECT {_ALLOCATION} FROM routes JOIN allocations ON route = name "
        "AND epoch = (SELECT MAX(epoch) FROM allocations WHERE route = name) ORDER BY route"
    )
    return {row[0]: _allocation(row) for row in rows}


def allocation_history(connection: sqlite3.Connection, route: str, *, limit: int = 1000) -> list[Published]:
    rows = connection.execute(
        f"SELECT {_ALLOCATION} FROM allocations WHERE route = ? ORDER BY epoch DESC LIMIT ?", (route, limit)
    ).fetchall()
    return [_allocation(row) for row in reversed(rows)]


def shares(connection: sqlite3.Connection, route: str, epoch: int) -> Mapping[str, float] | None:
    """The published probabilities of one epoch."""
    row = connection.execute(
        "SELECT probabilities FROM allocations WHERE route = ? AND epoch = ?", (route, epoch)
    ).fetchone()
    return json.loads(row[0]) if row is not None else None


def _allocation(row: tuple[Any, ...]) -> Published:
    route, epoch, probabilities, bounds, owners, reason, time, evidence = row
    return Published(
        route=route,
        epoch=epoch,
        probabilities=json.loads(probabilities),
        bounds=tuple(json.loads(bounds)),
        owners=tuple(json.loads(owners)),
        reason=reason,
        time=time,
        evidence=evidence,
    )


# Documents ----------------------------------------------------------------------------------------
def load_all(connection: sqlite3.Connection, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    rows = connection.execute(
        "SELECT name, version, text FROM documents WHERE kind = ? AND name IN (SELECT value FROM json_each(?))",
        (kind, json.dumps(list(names))),
    )
    return {name: (version, text) for name, version, text in rows}


def save(connection: sqlite3.Connection, kind: str, name: str, text: str, *, expected: int) -> bool:
    if expected == 0:
        cursor = connection.execute("INSERT OR IGNORE INTO documents VALUES (?, ?, 1, ?)", (kind, name, text))
    else:
        cursor = connection.execute(
            "UPDATE documents SET version = version + 1, text = ? "
            "WHERE kind = ? AND name = ? AND version = ?",
            (text, kind, name, expected),
        )
    if cursor.rowcount != 1:
        return False
    touch(connection)
    return True


# Revisions and events -----------------------------------------------------------------------------
def add_revision(
    connection: sqlite3.Connection,
    *,
    time: float,
    author: str,
    etag: str,
    document: str,
    origin: str = "",
    after: int | None = None,
) -> Revision | None:
    if after is not None:
        (newer,) = connection.execute(
            "SELECT EXISTS(SELECT 1 FROM revisions WHERE revision > ?)", (after,)
        ).fetchone()
        if newer:
            return None
    cursor = connection.execute(
        "INSERT INTO revisions (time, author, etag, document, origin) VALUES (?, ?, ?, ?, ?)",
        (time, author, etag, document, origin),
    )
    number = cursor.lastrowid or 0
    connection.execute("DELETE FROM revisions WHERE revision <= ?", (number - MAX_REVISIONS,))
    connection.execute(
        "UPDATE revisions SET document = '' WHERE revision <= ? AND document != ''",
        (number - MAX_REVISION_TEXTS,),
    )
    touch(connection)
    return Revision(number, time, author, etag, origin, document=document)


def revisions(connection: sqlite3.Connection, *, limit: int = 20, until: int | None = None) -> list[Revision]:
    rows = connection.execute(
        "SELECT revision, time, author, etag, origin, document FROM revisions "
        "WHERE (?1 IS NULL OR revision <= ?1) AND revision > (SELECT MAX(revision) FROM revisions) - ?2 "
        "ORDER BY revision DESC LIMIT ?3",
        (until, MAX_REVISION_TEXTS, limit),
    )
    return [Revision(*entry, document=document) for *entry, document in rows]


def revision_entries(connection: sqlite3.Connection, *, limit: int = MAX_REVISIONS) -> list[RevisionEntry]:
    rows = connection.execute(
        "SELECT revision, time, author, etag, origin FROM revisions ORDER BY revision DESC LIMIT ?", (limit,)
    )
    return [RevisionEntry(*row) for row in rows]


def add_event(connection: sqlite3.Connection, *, time: float, kind: str, route: str, data: str) -> Event:
    cursor = connection.execute(
        "INSERT INTO events (time, kind, route, data) VALUES (?, ?, ?, ?)", (time, kind, route, data)
    )
    return Event(cursor.lastrowid or 0, time, kind, route, data)


def events(
    connection: sqlite3.Connection, *, after: int = 0, limit: int = 1000, route: str | None = None
) -> list[Event]:
    rows = connection.execute(
        "SELECT id, time, kind, route, data FROM events "
        "WHERE id > ? AND (? IS NULL OR route = ?) ORDER BY id LIMIT ?",
        (after, route, route, limit),
    )
    return [Event(*row) for row in rows]


# Leadership ---------------------------------------------------------------------------------------
def lease(connection: sqlite3.Connection, name: str, owner: str, *, ttl: float, now: float) -> int | None:
    row = connection.execute("SELECT owner, until, fence FROM leases WHERE name = ?", (name,)).fetchone()
    if row is None:
        fence = 1
    elif row[1] <= now or row[1] > now + ttl + MAX_CLOCK_SKEW_S:
        fence = row[2] + 1  # lapsed: even its last owner may have been followed by work of another
    elif row[0] == owner:
        fence = row[2]
    else:
        return None
    connection.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (name, owner, now + ttl, fence))
    return int(fence)


def release(connection: sqlite3.Connection, name: str, owner: str) -> None:
    """The fencing number stays, so that the next owner's is higher."""
    connection.execute("UPDATE leases SET until = 0, owner = '' WHERE name = ? AND owner = ?", (name, owner))
