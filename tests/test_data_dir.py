"""The gateway's own directory: what dead processes left goes, what live ones use stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from gateway.runtime.data_dir import data_dir, why_unwritable, workers_folder

HOLD = """
import sys, time
from pathlib import Path
from gateway.runtime.data_dir import workers_folder
with workers_folder(Path(sys.argv[1])) as folder:
    (folder / "counter.db").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""


def holder(directory: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_in_use_stays_and_a_killed_owners_goes(tmp_path: Path) -> None:
    alive, used = holder(tmp_path)
    dead, left = holder(tmp_path)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    try:
        assert left.is_dir()
        with workers_folder(tmp_path) as own:
            assert [path.name for path in own.iterdir()] == ["owner.lock"]
            assert (used / "counter.db").exists()
            assert not left.exists()
        assert not own.exists()
    finally:
        alive.kill()
        alive.communicate()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner.lock").touch()
    directory = tmp_path / "spool"
    directory.mkdir()
    (directory / "metrics-1-abc").symlink_to(elsewhere)
    with workers_folder(directory):
        assert (elsewhere / "owner.lock").exists()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with workers_folder(tmp_path / "spool"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_it_is() -> None:
    assert data_dir("sqlite:////var/lib/t.db", None) == Path("/var/lib/t.db.spool")
    assert data_dir("redis://host:6379/0", None) == Path("turnout.spool")
    assert data_dir("sqlite:///t.db", "/spool") == Path("/spool")


def test_why_it_can_not_be_written(tmp_path: Path) -> None:
    assert why_unwritable(tmp_path / "made" / "here") == ""
    assert os.listdir(tmp_path / "made" / "here") == []
    (tmp_path / "file").touch()
    assert "Not a directory" in why_unwritable(tmp_path / "file" / "below")
