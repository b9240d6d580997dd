"""What the control plane keeps: allocations, documents, revisions, events, leases, secrets."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any, Final

from gateway.state import shapes
from gateway.state.base import (
    MAX_CLOCK_SKEW_S,
    MAX_REVISION_TEXTS,
    MAX_REVISIONS,
    Event,
    NewEvent,
    Published,
    Revision,
    RevisionEntry,
)

log = logging.getLogger("turnout.store")

_MAX_DAMAGED_ALLOCATIONS: Final = 20
"""How far the newest allocation that can be read is looked for."""


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
    # Another process may have been faster: all must use one secret.
    connection.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, os.urandom(32)))


# Allocations --------------------------------------------------------------------------------------
_ALLOCATION: Final = "route, epoch, probabilities, bounds, owners, reason, time, evidence"
_READ_ALLOCATION: Final = (
    "route, epoch, CAST(probabilities AS BLOB), CAST(bounds AS BLOB), CAST(owners AS BLOB), CAST(reason AS BLOB), "
    "time, CAST(evidence AS BLOB)"
)
"""As bytes: one damaged text would otherwise fail the whole query."""


def publish(connection: sqlite3.Connection, allocation: Published, ensemble: bytes = b"") -> bool:
    newest = connection.execute(
        "SELECT MAX(epoch) FROM allocations WHERE route = ?", (allocation.route,)
    ).fetchone()[0]
    # Under the write lock: of two leaders at most one publishes an epoch.
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
    """A damaged newest allocation is replaced by the one before it, under the number of the newest."""
    rows = connection.execute(
        f"{ROUTES} SELECT {_READ_ALLOCATION} FROM routes JOIN allocations ON route = name "
        "AND epoch = (SELECT MAX(epoch) FROM allocations WHERE route = name) ORDER BY route"
    )
    found = {}
    for row in rows.fetchall():
        newest = _allocation(row) or _before(connection, *row[:2])
        if newest is not None:
            found[newest.route] = newest
    return found


def _before(connection: sqlite3.Connection, route: str, epoch: int) -> Published | None:
    earlier = allocation_history(connection, route, limit=_MAX_DAMAGED_ALLOCATIONS)
    return replace(earlier[-1], epoch=epoch) if earlier else None


def allocation_history(connection: sqlite3.Connection, route: str, *, limit: int = 1000) -> list[Published]:
    rows = connection.execute(
        f"SELECT {_READ_ALLOCATION} FROM allocations WHERE route = ? ORDER BY epoch DESC LIMIT ?",
        (route, limit),
    ).fetchall()
    found = map(_allocation, reversed(rows))
    return [one for one in found if one is not None]


def allocation(connection: sqlite3.Connection, route: str, epoch: int) -> Published | None:
    row = connection.execute(
        f"SELECT {_READ_ALLOCATION} FROM allocations WHERE route = ? AND epoch = ?", (route, epoch)
    ).fetchone()
    return None if row is None else _allocation(row)


def _allocation(row: tuple[Any, ...]) -> Published | None:
    """The allocation of a row; None if it is damaged, which the log says."""
    route, epoch, probabilities, bounds, owners, reason, time, evidence = row
    try:
        return shapes.published_of(
            {
                "route": route,
                "epoch": epoch,
                "probabilities": json.loads(probabilities),
                "bounds": json.loads(bounds),
                "owners": json.loads(owners),
                "reason": reason.decode(),
                "time": time,
                "evidence": evidence.decode(),
            }
        )
    except (ValueError, RecursionError) as error:
        _tell_damaged(route, epoch, str(error))
        return None


@lru_cache(maxsize=1000)
def _tell_damaged(route: str, epoch: int, error: str) -> None:
    """Once: it is read each second."""
    log.error("allocation %d of the route %s is damaged and is left out: %s", epoch, route, error)


# Documents ----------------------------------------------------------------------------------------
def load_all(
    connection: sqlite3.Connection, kind: str, names: Sequence[str]
) -> tuple[dict[str, tuple[int, str]], dict[str, bytes]]:
    """By name, version and text of those that can be read, and the text of those that are damaged."""
    rows = connection.execute(
        "SELECT name, version, CAST(text AS BLOB) FROM documents "
        # One parameter for any number of names: SQLite limits how many a statement has.
        "WHERE kind = ? AND name IN (SELECT value FROM json_each(?))",
        (kind, json.dumps(list(names))),
    )
    found, damaged = dict[str, tuple[int, str]](), dict[str, bytes]()
    for name, version, row in rows:
        try:
            text = row.decode()
            shapes.check_document(kind, text)
            found[name] = version, text
        except ValueError:
            damaged[name] = row
    return found, damaged


def remove_damaged(connection: sqlite3.Connection, kind: str, name: str, text: bytes, *, now: float) -> None:
    """Removes a document if it still has the damaged text, and adds the event of an alarm."""
    removed = connection.execute(
        "DELETE FROM documents WHERE kind = ? AND name = ? AND CAST(text AS BLOB) = ?", (kind, name, text)
    )
    if removed.rowcount:
        message = (
            f"The document {kind} {name!r} of the store was damaged and was removed. The state of a route is stored "
            "again. See that the disk is sound."
        )
        log.error("%s", message)
        data = json.dumps({"code": "store_lost_data", "message": message})
        add_event(connection, time=now, kind="alarm", route="", data=data)
        touch(connection)


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


def save_with_events(
    connection: sqlite3.Connection,
    kind: str,
    name: str,
    text: str,
    *,
    expected: int,
    events: Sequence[NewEvent],
) -> list[Event] | None:
    if not save(connection, kind, name, text, expected=expected):
        return None
    return [add_event(connection, **asdict(event)) for event in events]


# Revisions and events -----------------------------------------------------------------------------
_ENTRY: Final = "revision, time, CAST(author AS BLOB), CAST(etag AS BLOB), CAST(origin AS BLOB)"
"""As bytes: one damaged text would otherwise fail the whole query. `gateway.compile` compares texts with their tags."""


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
        f"SELECT {_ENTRY}, CAST(document AS BLOB) FROM revisions "
        "WHERE (?1 IS NULL OR revision <= ?1) AND revision > (SELECT MAX(revision) FROM revisions) - ?2 "
        "ORDER BY revision DESC LIMIT ?3",
        (until, MAX_REVISION_TEXTS, limit),
    )
    return [_entry(row).with_text(row[-1].decode(errors="replace")) for row in rows]


def revision_entries(connection: sqlite3.Connection, *, limit: int = MAX_REVISIONS) -> list[RevisionEntry]:
    rows = connection.execute(f"SELECT {_ENTRY} FROM revisions ORDER BY revision DESC LIMIT ?", (limit,))
    return list(map(_entry, rows))


def _entry(row: tuple[Any, ...]) -> RevisionEntry:
    number, time, *texts = row
    author, etag, origin = (text.decode(errors="replace") for text in texts[:3])
    return RevisionEntry(number, time, author, etag, origin)


def add_event(connection: sqlite3.Connection, *, time: float, kind: str, route: str, data: str) -> Event:
    # Numbered under the write lock, so in the order of commits: who reads behind a number misses none that comes later.
    cursor = connection.execute(
        "INSERT INTO events (time, kind, route, data) VALUES (?, ?, ?, ?)", (time, kind, route, data)
    )
    return Event(cursor.lastrowid or 0, time, kind, route, data)


def events(
    connection: sqlite3.Connection, *, after: int = 0, limit: int = 1000, route: str | None = None
) -> list[Event]:
    # Texts as bytes, for the reason above: webhooks and streams would never get past a damaged one.
    rows = connection.execute(
        "SELECT id, time, CAST(kind AS BLOB), CAST(route AS BLOB), CAST(data AS BLOB) FROM events "
        "WHERE id > ? AND (? IS NULL OR route = ?) ORDER BY id LIMIT ?",
        (after, route, route, limit),
    )
    return [
        Event(number, shapes.event_time(time), *(text.decode(errors="replace") for text in texts))
        for number, time, *texts in rows
    ]


# Leadership ---------------------------------------------------------------------------------------
def lease(connection: sqlite3.Connection, name: str, owner: str, *, ttl: float, now: float) -> int | None:
    row = connection.execute("SELECT owner, until, fence FROM leases WHERE name = ?", (name,)).fetchone()
    if row is None:
        fence = 1
    # An end further off than any lease was written before the clock was set back.
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
