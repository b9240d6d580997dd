"""The access log: one JSON line per outcome, written with the batches of the record."""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from io import FileIO
from time import monotonic
from typing import Final

from gateway.record.events import Outcome

log = logging.getLogger("turnout")

MAX_WAIT_S: Final = 1.0
"""How long a batch of the record waits for the reader of a pipe."""
RETRY_WAIT_S: Final = 0.1
"""The same after a batch that waited in vain."""


class AccessLog:
    """A sink of the recorder. It runs in a background thread, so requests do not wait for it."""

    def __init__(self, path: Callable[[], str | None]) -> None:
        """``path`` returns the file of the configuration in force: `-` for standard output, None to write nothing."""
        self._path = path
        self._file: FileIO | None = None
        self._torn = False
        """Whether the last write may have ended within a line."""
        self._failed = ""
        self._until = 0.0
        """How long this batch may wait, by `monotonic`."""

    def __call__(self, outcomes: Sequence[Outcome]) -> None:
        """Write a line for each of ``outcomes``. If that fails, the lines are lost, and the log says so once."""
        path = self._path()
        if path is None:
            return
        lines = (_line(outcome).encode() for outcome in outcomes)
        self._until = monotonic() + (RETRY_WAIT_S if self._failed == path else MAX_WAIT_S)
        try:
            if path == "-":
                self._print(lines)
            else:
                self._append(path, b"".join(lines))
            self._failed = ""
        except OSError as error:
            if self._failed != path:
                log.error("the access log %s can't be written: %s", path, error.strerror or error)
            self._failed = path

    def _print(self, lines: Iterable[bytes]) -> None:
        """Write to standard output, which others share, so it goes on waiting: in parts that a pipe takes whole."""
        output = sys.stdout.fileno()
        for part in _parts(lines):
            self._wait(output)
            os.write(output, part)

    def _append(self, path: str, lines: bytes) -> None:
        """Write to the file at ``path``, without a buffer: on a full disk it would keep a part for later."""
        file = self._opened(path)
        rest, self._torn = (b"\n" + lines if self._torn else lines), True
        while rest:
            written = file.write(rest)
            # A pipe takes less than a batch at a time.
            if written is None:
                self._wait(file.fileno())
            rest = rest[written or 0 :]
        self._torn = False

    def _wait(self, file: int) -> None:
        """Wait for room. Raises BlockingIOError if there is none in time."""
        poll = select.poll()
        poll.register(file, select.POLLOUT)
        if not poll.poll(1000 * max(0.0, self._until - monotonic())):
            raise BlockingIOError(errno.EAGAIN, "the pipe is full: its reader is too slow")

    def _opened(self, path: str) -> FileIO:
        """The open file at ``path``; another one if it was moved or deleted."""
        if self._file is not None:
            if self._file.name == path and _is_at(self._file, path):
                return self._file
            old, self._file = self._file, None  # first: closing may raise (NFS), and closes all the same
            old.close()
        # Kept for the next batch.
        self._file, self._torn = open(path, "ab", buffering=0, opener=_without_waiting), False  # noqa: SIM115
        return self._file


def _parts(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines together, up to the size that no other process can write into."""
    part = b""
    for line in lines:
        if part and len(part) + len(line) > select.PIPE_BUF:
            yield part
            part = b""
        part += line
    yield part


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file such that a named pipe, without a reader or with a slow one, does not hold up the record."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _is_at(file: FileIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _line(outcome: Outcome) -> str:
    one = Outcome._make(outcome)  # the data plane offers plain tuples
    fields = {
        "time": datetime.fromtimestamp(one.time, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
        "request_id": one.request_id,
        "backend_request_id": one.backend_request_id,
        "route": one.route,
        "assigned": one.assigned,
        "served": one.served,
        "status": one.status,
        "error": one.error,
        "fallback": one.fallback,
        "total_ms": round(one.total_ms, 3),
        "backend_ms": round(one.backend_ms, 3),
        "gateway_ms": round(one.gateway_ms, 3),
        "request_bytes": one.request_bytes,
        "response_bytes": one.answer_bytes,
        "key": one.principal,
        "decision": one.decision.hex(),
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"
