"""The tables, and how a file of an earlier release becomes one of this."""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from gateway.state.sqlite import totals

log = logging.getLogger("turnout.store")

_FIRST: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('changed', 0);
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- The record. Outcomes are kept by the page (gateway.record.page): 1 us each, where a row each costs 8.
CREATE TABLE pages (
  id INTEGER PRIMARY KEY,
  first BLOB NOT NULL, last BLOB NOT NULL,      -- decisions; last is at most an hour after first
  oldest REAL NOT NULL, newest REAL NOT NULL,   -- times
  rows INTEGER NOT NULL, errors INTEGER NOT NULL,
  routes TEXT NOT NULL,                         -- JSON
  merged INTEGER NOT NULL,                      -- whether it was made of small pages
  data BLOB NOT NULL);
CREATE INDEX pages_to_merge ON pages (first) WHERE merged = 0;
CREATE INDEX pages_by_last ON pages (last, first);
CREATE INDEX pages_by_first ON pages (first, last);
-- A mark for each decision that a page holds (gateway.state.paging.Marks), so that repeating a batch changes nothing:
-- a bit of its block, or 64 bits among those of its slice of time.
CREATE TABLE seen (block BLOB PRIMARY KEY, bits BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE shadowed (
  decision BLOB, shadow TEXT, time REAL NOT NULL, route TEXT NOT NULL, primary_variant TEXT NOT NULL,
  status INTEGER NOT NULL, error TEXT NOT NULL, latency_ms REAL NOT NULL, primary_ms REAL NOT NULL,
  agrees INTEGER, difference REAL, detail TEXT NOT NULL,
  PRIMARY KEY (decision, shadow)) WITHOUT ROWID;
CREATE TABLE rewards (
  decision BLOB, metric TEXT, value REAL, time REAL NOT NULL, decided REAL NOT NULL, route TEXT NOT NULL,
  assigned TEXT NOT NULL, served TEXT NOT NULL, epoch INTEGER NOT NULL, propensity REAL NOT NULL,
  unit INTEGER NOT NULL,                        -- the 64 bits, as a signed number
  forced INTEGER NOT NULL, worst REAL, tags TEXT NOT NULL,
  counted REAL,                                 -- what the sums hold for it
  PRIMARY KEY (decision, metric)) WITHOUT ROWID;

-- Aggregates. start is in seconds; histograms are packed as gateway.record.histogram says.
CREATE TABLE outcome_cells (
  route TEXT, start INTEGER, epoch INTEGER, variant TEXT,
  assigned INTEGER NOT NULL, served INTEGER NOT NULL, errors INTEGER NOT NULL, fallbacks INTEGER NOT NULL,
  expected REAL NOT NULL, latency BLOB NOT NULL, gateway BLOB NOT NULL,
  PRIMARY KEY (route, start, epoch, variant)) WITHOUT ROWID;
CREATE TABLE reward_cells (
  route TEXT, start INTEGER, epoch INTEGER, variant TEXT, metric TEXT,
  count INTEGER NOT NULL, total REAL NOT NULL, squares REAL NOT NULL,
  total_rest BLOB, squares_rest BLOB,           -- what is missing to the exact sum (gateway.state.exact)
  PRIMARY KEY (route, start, epoch, variant, metric)) WITHOUT ROWID;
CREATE TABLE shadow_cells (
  route TEXT, start INTEGER, shadow TEXT,
  answers INTEGER NOT NULL, compared INTEGER NOT NULL, agreeing INTEGER NOT NULL, errors INTEGER NOT NULL,
  PRIMARY KEY (route, start, shadow)) WITHOUT ROWID;

CREATE TABLE allocations (
  route TEXT, epoch INTEGER, probabilities TEXT NOT NULL, bounds TEXT NOT NULL, owners TEXT NOT NULL,
  reason TEXT NOT NULL, time REAL NOT NULL, evidence TEXT NOT NULL,
  PRIMARY KEY (route, epoch)) WITHOUT ROWID;
CREATE TABLE documents (
  kind TEXT, name TEXT, version INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE revisions (
  revision INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, author TEXT NOT NULL, etag TEXT NOT NULL,
  document TEXT NOT NULL);
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, kind TEXT NOT NULL, route TEXT NOT NULL,
  data TEXT NOT NULL);
CREATE TABLE leases (
  name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL, fence INTEGER NOT NULL) WITHOUT ROWID;
"""

_FEATURES: Final = """
ALTER TABLE rewards ADD COLUMN context TEXT NOT NULL DEFAULT '';
-- Sums over rows of features (gateway.state.linear). start is a minute's, or -1 in the total over all times.
CREATE TABLE linear_cells (
  route TEXT, start INTEGER, variant TEXT, metric TEXT, fingerprint TEXT, data BLOB NOT NULL,
  PRIMARY KEY (route, fingerprint, start, variant, metric)) WITHOUT ROWID;
CREATE INDEX linear_by_start ON linear_cells (start);
CREATE TABLE ensembles (
  route TEXT, epoch INTEGER, data BLOB NOT NULL, PRIMARY KEY (route, epoch)) WITHOUT ROWID;
"""

_UNITS: Final = """
ALTER TABLE rewards ADD COLUMN period TEXT NOT NULL DEFAULT '';
-- What the rewards of one sticky unit count as (gateway.state.units).
CREATE TABLE units (
  route TEXT, unit INTEGER, period TEXT, variant TEXT, metric TEXT,
  count INTEGER NOT NULL, total REAL NOT NULL, total_rest BLOB, mean REAL NOT NULL,
  start INTEGER NOT NULL, epoch INTEGER NOT NULL, last REAL NOT NULL,
  PRIMARY KEY (route, unit, period, variant, metric)) WITHOUT ROWID;
"""

_ORIGIN: Final = """
ALTER TABLE revisions ADD COLUMN origin TEXT NOT NULL DEFAULT '';
"""

_REQUEST_IDS: Final = """
CREATE TABLE request_ids (
  key BLOB PRIMARY KEY, decision BLOB NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX request_ids_by_end ON request_ids (until);
"""

_UNSEEN: Final = """
ALTER TABLE outcome_cells ADD COLUMN unseen INTEGER NOT NULL DEFAULT 0;
"""

_INDEXES: Final = """
-- For gateway.state.sqlite.upkeep: what is too old, and by level the buckets that are finer than it.
CREATE INDEX events_by_time ON events (time);
CREATE INDEX events_of_allocations ON events (id) WHERE kind = 'allocation';
CREATE INDEX allocations_by_time ON allocations (time);
CREATE INDEX outcome_cells_by_start ON outcome_cells (start);
CREATE INDEX outcome_cells_to_minutes ON outcome_cells (start) WHERE start % 60 != 0;
CREATE INDEX outcome_cells_to_hours ON outcome_cells (start) WHERE start % 3600 != 0;
CREATE INDEX outcome_cells_to_days ON outcome_cells (start) WHERE start % 86400 != 0;
CREATE INDEX reward_cells_by_start ON reward_cells (start);
CREATE INDEX reward_cells_to_minutes ON reward_cells (start) WHERE start % 60 != 0;
CREATE INDEX reward_cells_to_hours ON reward_cells (start) WHERE start % 3600 != 0;
CREATE INDEX reward_cells_to_days ON reward_cells (start) WHERE start % 86400 != 0;
CREATE INDEX shadow_cells_by_start ON shadow_cells (start);
CREATE INDEX shadow_cells_to_minutes ON shadow_cells (start) WHERE start % 60 != 0;
CREATE INDEX shadow_cells_to_hours ON shadow_cells (start) WHERE start % 3600 != 0;
CREATE INDEX shadow_cells_to_days ON shadow_cells (start) WHERE start % 86400 != 0;
-- For lists of what is rare.
CREATE INDEX pages_with_errors ON pages (last, first) WHERE errors > 0;
CREATE INDEX shadowed_disagreeing ON shadowed (route, shadow, decision) WHERE agrees = 0;
"""

_TOTALS: Final = """
-- All cells of a route together, which `totals.fill` adds up.
CREATE TABLE outcome_totals (
  route TEXT, variant TEXT,
  assigned INTEGER NOT NULL, served INTEGER NOT NULL, errors INTEGER NOT NULL, fallbacks INTEGER NOT NULL,
  expected REAL NOT NULL, latency BLOB NOT NULL, gateway BLOB NOT NULL, unseen INTEGER NOT NULL,
  PRIMARY KEY (route, variant)) WITHOUT ROWID;
CREATE TABLE reward_totals (
  route TEXT, variant TEXT, metric TEXT, data BLOB NOT NULL, PRIMARY KEY (route, variant, metric)) WITHOUT ROWID;
"""

_SHADOWS: Final = """
-- A list of a route's shadow responses read those of all other routes.
CREATE INDEX shadowed_by_route ON shadowed (route, shadow, decision);
"""

_CHANGES: Final = """
-- Which buckets of the aggregates changed lately (gateway.state.sqlite.sums.note_changes).
CREATE TABLE changed_cells (
  route TEXT, start INTEGER, version INTEGER NOT NULL, PRIMARY KEY (route, start)) WITHOUT ROWID;
CREATE INDEX changed_cells_by_version ON changed_cells (route, version);
"""

MIGRATIONS: Final[tuple[str, ...]] = (
    _FIRST,
    _FEATURES,
    _UNITS,
    _ORIGIN,
    _REQUEST_IDS,
    _UNSEEN,
    _INDEXES,
    _TOTALS,
    _SHADOWS,
    _CHANGES,
)
"""The script that leads to version 1, to version 2, ...; never edited once released."""


MIGRATION_TIMEOUT_MS: Final = 600_000
"""How long a process waits for another that brings the file to the newest version."""


class TooNew(Exception):
    """The file was written by a later release."""


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Brings the file to the newest version, in one transaction; raises `TooNew`."""
    at = _version(connection)
    if at == len(migrations):
        return
    if 0 < at < len(migrations):
        log.info("the store is brought from version %d to %d; a large one takes a while", at, len(migrations))
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    # Another process may be migrating, which takes longer than any write.
    connection.execute(f"PRAGMA busy_timeout = {MIGRATION_TIMEOUT_MS}")
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")
    try:
        at = check_version(connection, migrations)  # another process may have been faster
        for script in migrations[at:]:
            for statement in _statements(script):
                connection.execute(statement)
            if script is _TOTALS:
                totals.fill(connection)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_version(connection: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> int:
    """The file's version; raises `TooNew`."""
    at = _version(connection)
    if at > len(migrations):
        raise TooNew(f"its version is {at}, this release knows versions up to {len(migrations)}")
    return at


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> list[str]:
    """The single statements, each of which ends its line: `executescript` would commit the transaction
    that is meant to hold them."""
    found, current = [], ""
    for line in script.splitlines():
        current += line.partition("--")[0] + "\n"
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return found
