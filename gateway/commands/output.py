"""How commands report: results on standard output, everything else on standard error."""

from __future__ import annotations

import argparse
import fcntl
import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from gateway.clock import wall
from gateway.config.faults import ConfigError
from gateway.telemetry.printable import printable

FAILURES: Final = (ConfigError, ValueError, OSError)
"""What `complain` reports: a file, an option or a disk that a command cannot work with."""
REFUSED: Final = 1
MISUSED: Final = 2
"""Exit codes: the command could not do it; its words have no meaning (as argparse exits)."""
ERRORS_AS_JSON: Final = ContextVar("ERRORS_AS_JSON", default=False)
"""Whether `complain` also prints a document, for scripts that read the report with ``--json``."""
ABANDONED_S: Final = 60.0
"""Seconds since the last write after which a file without a lock is what a killed command has left."""

_CLEAR: Final = "\r\x1b[K"


def add_json(parser: argparse.ArgumentParser, help: str = "print one JSON document") -> None:  # noqa: A002
    """Add the option ``--json``."""
    parser.add_argument("--json", action="store_true", help=help)


def say(text: object) -> None:
    """Write a line of the report."""
    # Flushed: a report that is piped appears as it is written, and before what follows on standard error.
    sys.stdout.write(f"{printable(str(text))}\n")
    sys.stdout.flush()


def table(form: str, header: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Write ``header`` and ``rows``, whose cells ``form`` aligns (as of `str.format`)."""
    for row in (header, *rows):
        say(form.format(*row).rstrip())


def print_json(document: Any) -> None:
    """Write the report as one JSON document."""
    plain = sys.stdout.encoding.lower() != "utf-8"  # other escapes than JSON's own would not be JSON
    say(json.dumps(document, indent=2, ensure_ascii=plain))


def note(text: object) -> None:
    """Write a line for the person at the terminal that is not part of the report."""
    sys.stderr.write(f"{printable(str(text))}\n")
    sys.stderr.flush()


def complain(error: object, code: int = REFUSED) -> int:
    """Report why the command failed; return the exit code. Raises BrokenPipeError again."""
    if isinstance(error, BrokenPipeError):
        raise error
    # The faults of a file begin with its name, as a compiler's do: editors and CI find the line.
    note(error if isinstance(error, ConfigError) else f"turnout: {_plain(error)}")
    if ERRORS_AS_JSON.get():
        name = "invalid_arguments" if code == MISUSED else "failed"
        print_json({"error": {"code": name, "message": str(_plain(error))}})
    return code


def _plain(error: object) -> object:
    """What a person needs of an OSError, without its number; any other error as it is."""
    if not isinstance(error, OSError) or error.strerror is None:
        return error
    if not isinstance(error.filename, str):
        return error.strerror
    hint = "; name another, or create its directory" if isinstance(error, FileNotFoundError) else ""
    return f"{error.filename}: {error.strerror}{hint}"


def progress(text: str = "") -> None:
    """Replace the line of progress, or remove it; only on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{_CLEAR}{text}")
        sys.stderr.flush()


def _remove_abandoned(out: Path) -> None:
    """Remove what killed commands have left of ``out``: the lock of a file ends with its process."""
    for part in out.parent.glob(f".{glob.escape(out.name)}.????????.part"):
        with suppress(OSError), open(part, "rb") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another command has no lock right after it made its file, nor right before it puts it in place.
            if wall() - os.fstat(left.fileno()).st_mtime > ABANDONED_S:
                part.unlink()


@contextmanager
def output_file(out: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open the file of ``--out``, which is there whole or not at all; for ``-`` standard output.

    A device or a pipe is written to: a file put in its place would be the end of /dev/null.

    Args:
        private: Whether other users cannot read it.

    Raises ValueError and OSError.
    """
    if str(out) == "-":
        yield sys.stdout.buffer
        return
    if out.exists() and not out.is_file():
        with open(out, "wb") as target:
            yield target
        return
    if not out.parent.is_dir():
        raise ValueError(f"there is no directory {out.parent}; make it, or write another --out")
    # A name of its own: the half of a file that another process writes must not take its place.
    new = out.with_name(f".{out.name}.{os.urandom(4).hex()}.part")
    _remove_abandoned(out)
    try:
        with open(new, "xb", opener=partial(os.open, mode=0o600 if private else 0o666)) as target:
            with suppress(OSError):  # not every file system has locks
                fcntl.flock(target, fcntl.LOCK_SH)
            yield target
        new.replace(out)
    finally:
        new.unlink(missing_ok=True)
        progress()
