"""The access log while the disk under its file is full."""

from __future__ import annotations

from pathlib import Path

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
    assert len(path.read_text().splitlines()) >= 2  # closing the old file may take the first batch with it
    assert write._file is not None
    write._file.close()
