"""Environments of other servers and clients: made once for all checkouts, and reported where they can't be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def make(checkout: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """`deploy/compat.py --locked` of a checkout, without a package index."""
    command = [sys.executable, str(checkout / "deploy" / "compat.py"), "--locked"]
    changed = {
        "XDG_CACHE_HOME": str(cache),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
    }
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=os.environ | changed
    )


def checkout(folder: Path, **locks: str) -> Path:
    (folder / "deploy" / "compat").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "compat.py", folder / "deploy")
    (folder / "pyproject.toml").write_text("[dependency-groups]\n")
    for name, text in locks.items():
        (folder / "deploy" / "compat" / f"{name}.lock").write_text(text)
    return folder


def cached(name: str, cache: Path) -> Iterator[Path]:
    return (cache / "turnout" / "compat").glob(f"{name}-*")


def test_environments_are_shared_until_their_lock_changes(tmp_path: Path) -> None:
    absent = f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n"
    first, second = (
        checkout(tmp_path / "a", none="# 1\n", some=absent),
        checkout(tmp_path / "b", none="# 1\n"),
    )
    done = make(first, tmp_path)
    assert done.returncode == 1
    assert "some is not installed, its tests are skipped: " in done.stderr
    assert "none is not installed" not in done.stderr
    assert "No matching distribution found for no-such-package==1.0" in done.stderr
    linked = first / ".venv" / "compat"
    assert (linked / "none" / "bin" / "python").exists()
    assert not (linked / "some").exists()
    assert not list(cached("some", tmp_path)), "what could not be installed keeps no disk"

    (linked / "none" / "mark").touch()
    assert make(second, tmp_path).returncode == 0
    assert (second / ".venv" / "compat" / "none" / "mark").exists()

    (second / "deploy" / "compat" / "none.lock").write_text("# 2\n")
    assert make(second, tmp_path).returncode == 0
    assert not (second / ".venv" / "compat" / "none" / "mark").exists()
    assert (linked / "none" / "mark").exists()


def test_what_earlier_runs_left_is_removed(tmp_path: Path) -> None:
    """A run that was killed, one of long ago, and `make compat` before there was a cache."""
    here, cache = checkout(tmp_path / "a", none="# 1\n"), tmp_path / "turnout" / "compat"
    for name in ("none-killed", "none-unused", "none-used", "nonesuch-killed"):
        (cache / name / "bin").mkdir(parents=True)
    for name, days in (("none-unused", 40), ("none-used", 20)):
        then = time.time() - days * 86400
        (cache / name / "ready").touch()
        os.utime(cache / name / "ready", (then, then))
    old = here / ".venv" / "compat" / "none"
    (old / "bin").mkdir(parents=True)
    done = make(here, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    kept = old.readlink()
    assert set(cached("none", tmp_path)) == {kept, cache / "none-used"}
    assert (cache / "nonesuch-killed").exists(), "it is another server's"
