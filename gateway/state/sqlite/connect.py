"""Opening the file, and saying in plain words why that, or anything later, failed."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from time import monotonic, sleep
from typing import Final

from gateway.record.page import BadPage
from gateway.state.base import StoreUnavailable
from gateway.state.sqlite.schema import TooNew

log = logging.getLogger("turnout.store")

CHECK_TIMEOUT_S: Final = 2.0
"""How long a start looks for damage at most: 200 MB took 0.1 s where the file was in memory."""
BUSY_TIMEOUT_S: Final = 10.0
"""How long a writer waits for the writers of other processes."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode that any one thread at a time may use. The file must exist (`keep_private`)."""
    # It makes no file: next to an empty one SQLite removes the -wal, which may hold the last rewards of one that was
    # moved.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        uri=True,
    )
    try:
        _use_wal(connection)
        connection.execute("PRAGMA fullfsync = ON")  # on macOS plain fsync does not reach the disk
        # The log is as large as the longest transaction ever was; without a limit it stays so.
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            # Opened for writing all the same: WAL needs its -shm.
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Let readers and the writer not wait for one another; the mode stays with the file."""
    end = monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # Of processes that start together on a new file, SQLite lets none but one wait for the lock.
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or monotonic() >= end:
                raise
            sleep(0.01)
        else:
            return


class Damaged(Exception):
    """What is wrong with the file, in SQLite's words."""


class Moved(Exception):
    """The file is not at its path any more."""


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Looks for damage in as much of the file as `CHECK_TIMEOUT_S` allow. Raises `Damaged`."""
    stop = Timer(CHECK_TIMEOUT_S, connection.interrupt)
    stop.start()
    try:
        found = connection.execute("PRAGMA quick_check(3)").fetchall()
    except sqlite3.OperationalError as error:
        # The timer has interrupted it: what was looked at was sound.
        if error.sqlite_errorname != "SQLITE_INTERRUPT":
            raise
        log.info(
            "the store %s is too large to be checked in %g s; parts were not checked", path, CHECK_TIMEOUT_S
        )
        return
    finally:
        stop.cancel()
        # A late interrupt would hit the next statement.
        stop.join()
    if found != [("ok",)]:
        raise Damaged("; ".join(str(row[0]).replace("\n", " ") for row in found))


def keep_private(path: Path) -> None:
    """Makes the file, if absent, such that only its owner reads it; SQLite gives -wal and -shm the same mode.

    It holds the keys that seal decision ids and logins, and secrets written into a configuration. A laxer mode of
    an existing file was set up by a person, so it is warned about and left.
    """
    with suppress(OSError):  # whatever it is, `connect` says it better
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            log.warning(
                "others may read the store %s (mode %04o), and it holds keys: chmod 600 it", path, mode
            )


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """Turns whatever SQLite raises inside into a `StoreUnavailable` that says what to do.

    Raises:
        StoreUnavailable: In place of what SQLite raises.
    """
    try:
        yield
    except (sqlite3.Error, BadPage, Damaged, Moved, TooNew, OSError) as error:
        raise unavailable(error, path) from error


def unavailable(error: Exception, path: Path) -> StoreUnavailable:
    """What callers get for ``error``, its cause."""
    found = StoreUnavailable(advice(error, path))
    found.__cause__ = error
    return found


def advice(error: Exception, path: Path) -> str:
    """What happened and what to do about it."""
    if isinstance(error, TooNew):
        return (
            f"The store {path} was written by a later release of Turnout: {error}. "
            "Run that release, or name another file under 'store'."
        )
    if isinstance(error, Moved):
        return (
            f"The store {path} was moved or deleted while it was in use. Put it back; if it is in its place, since its "
            "file system was mounted again, restart the gateway. To go on with another file, stop the gateway first, "
            "and move the -wal and -shm of the old one away."
        )
    if isinstance(error, BadPage | Damaged):
        return f"The store {path} is damaged: {error}. {_RESTORE}"
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, text in _ADVICE.items():
        if name.startswith(prefix):
            return f"The store {path} {text} (SQLite says: {error}.)"
    return f"The store {path} can't be used: {error}."


_RESTORE: Final = (
    "Stop the gateway, keep a copy of the file with its -wal and -shm, and put back a backup or what "
    "'sqlite3 FILE .recover' saves of it."
)
_ADVICE: Final = {
    "SQLITE_FULL": "has no room left on its disk. Free some; a gateway that runs then continues by itself.",
    "SQLITE_BUSY": f"was locked by another process for more than {BUSY_TIMEOUT_S:g} s. "
    "Find out which program holds it open; several gateways may share it, backups should use '.backup'.",
    "SQLITE_LOCKED": "is locked by another process. Find out which program holds it open.",
    "SQLITE_READONLY": "can't be written. Make the file and its directory writable for the gateway's user "
    "(SQLite keeps two more files next to it), or name another file under 'store'.",
    "SQLITE_PERM": "can't be opened. Give the gateway's user the right to read and write it.",
    "SQLITE_CANTOPEN": "can't be opened. Make sure that its directory exists and that the gateway's user "
    "may write there, or name another file under 'store'.",
    "SQLITE_CORRUPT": f"is damaged. {_RESTORE}",
    "SQLITE_NOTADB": "is not an SQLite file. Name another file under 'store', or move this one away.",
    "SQLITE_IOERR": "could not be read or written. See the kernel's log for what is wrong with the disk.",
}
