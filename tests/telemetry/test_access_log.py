"""The access log while the disk under its file is full."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from threading import Event, Thread

import pytest

from gateway.telemetry import access_log
from gateway.telemetry.access_log import AccessLog
from tests.loops.scene import outcome


def test_a_file_that_was_full_when_it_was_moved_is_followed_by_another(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.symlink_to("/dev/full")
    write = AccessLog(lambda: str(path))
    write([outcome(1, 1.8e9, "v1", 0.5)])
    path.unlink()  # as logrotate does
    for number in (2, 3, 4):
        write([outcome(number, 1.8e9, "v1", 0.5)])
    assert len(path.read_text().splitlines()) == 3
    assert write._file is not None
    write._file.close()


def test_a_pipe_holds_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of all requests waited for its reader."""
    path, found = tmp_path / "access.pipe", list[bytes]()
    os.mkfifo(path)
    write, rows = AccessLog(lambda: str(path)), [outcome(number, 1.8e9, "v1", 0.5) for number in range(1000)]

    def run(work: Callable[[], None]) -> Thread:
        made = Thread(target=work, daemon=True)
        made.start()
        return made

    def whole() -> None:
        while b"".join(found).count(b"\n") < len(rows):
            found.append(os.read(reader, 65_536))

    without = run(lambda: write(rows))
    without.join(60)
    assert not without.is_alive()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    reading = run(whole)
    monkeypatch.setattr(access_log, "RETRY_WAIT_S", 60.0)  # the reader may wait for a core
    write(rows)  # more than a pipe takes at a time
    reading.join(60)
    assert not reading.is_alive()
    assert [json.loads(line)["decision"] for line in b"".join(found).splitlines()][-1] == rows[
        -1
    ].decision.hex()
    over = Event()

    def trickle() -> None:
        while not over.wait(0.3):
            os.read(reader, 4096)

    slow, unread = run(trickle), run(lambda: write(rows))
    unread.join(60)
    assert not unread.is_alive()
    over.set()
    slow.join(60)
    os.close(reader)
    assert [record.getMessage().rpartition("written: ")[2] for record in caplog.records] == [
        "No such device or address",
        "the pipe is full: its reader is too slow",
    ]
    assert write._file is not None
    write._file.close()


def test_a_full_standard_output_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above; and workers that share it wrote into each other's lines."""
    reader, writer = os.pipe()
    write, rows = AccessLog(lambda: "-"), [outcome(number, 1.8e9, "v1", 0.5) for number in range(1000)]
    with open(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        writing = Thread(target=write, args=(rows,), daemon=True)
        writing.start()
        writing.join(60)
        held = writing.is_alive()
        found = os.read(reader, 1 << 20)
        os.close(reader)
    assert not held
    lines = found.splitlines()
    assert [json.loads(line)["decision"] for line in lines] == [
        row.decision.hex() for row in rows[: len(lines)]
    ]
    assert found.endswith(b"\n")


class _OverQuota(FileIO):
    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_moved_file_that_cannot_be_closed_is_followed_by_another(tmp_path: Path) -> None:
    """As on NFS: each later batch raised ValueError."""
    path = tmp_path / "access.jsonl"
    write = AccessLog(lambda: str(path))
    write._file = _OverQuota(str(path), "ab")
    path.unlink()
    for number in (1, 2, 3):
        write([outcome(number, 1.8e9, "v1", 0.5)])
    assert len(path.read_text().splitlines()) == 2
    write._file.close()


def test_a_line_that_a_full_disk_has_cut_stands_alone(tmp_path: Path) -> None:
    """Python's buffer wrote what fitted, and later the rest of it: the next line stood behind a part of another."""
    path, limits = tmp_path / "access.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    write = AccessLog(lambda: str(path))
    rows = [outcome(number, 1.8e9, "v1", 0.5) for number in range(200)]
    write(rows)
    room = path.stat().st_size + 50_000
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # as a full disk: a part is written
        for _ in range(3):
            write(rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handled)
    assert path.stat().st_size == room
    write(rows)
    assert write._file is not None
    write._file.close()
    lines = path.read_text().splitlines()
    cut = [line for line in lines if not line.endswith("}")]
    assert len(cut) == 1, "no other is torn"
    whole = [json.loads(line)["decision"] for line in lines if line.endswith("}")]
    assert whole[-200:] == [row.decision.hex() for row in rows]
