"""Makes environments of their own for the servers and clients that the tests of compatibility drive.

    python deploy/compat.py --locked    those with a lock in deploy/compat: for `make test`
    python deploy/compat.py             all dependency groups of pyproject.toml: for `make compat`

``.venv/compat/NAME`` becomes a link into a cache outside the checkout, where an environment is kept until its
requirements change. What can't be installed is reported with the reason, and exits with 1; its tests are skipped.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turnout" / "compat"
MIN_FREE_BYTES: Final = 5 << 30
LIMIT_S: Final = 900
"""For one environment."""
UNUSED_S: Final = 30 * 86400
"""An environment that no checkout has asked for in this time is removed."""


class CannotInstall(Exception):
    """The message says why."""


def requirements(name: str) -> list[str]:
    """Arguments of `pip install`: the hashed lock if there is one, otherwise the dependency group."""
    lock = ROOT / "deploy" / "compat" / f"{name}.lock"
    if lock.exists():
        return ["--require-hashes", "--no-deps", "-r", str(lock)]
    groups: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return groups[name]


def cached(name: str) -> Path:
    """Where the environment is kept: another for other requirements, and for another Python."""
    digest = hashlib.sha256(f"{sys.version} {sys.base_prefix}".encode())
    for word in requirements(name):
        digest.update(Path(word).read_bytes() if word.endswith(".lock") else word.encode())
    return CACHE / f"{name}-{digest.hexdigest()[:16]}"


def make(folder: Path, name: str) -> None:
    """Installs the environment in ``folder`` unless it is there.

    Raises:
        CannotInstall: No disk, no package index, or a package that can't be installed here.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another checkout may be making the same
        if ready.exists():
            ready.touch()
            return
        _remove_unused(name)
        free = shutil.disk_usage(CACHE).free
        if free < MIN_FREE_BYTES:
            raise CannotInstall(
                f"{CACHE} has {free >> 30} GiB of free disk, {MIN_FREE_BYTES >> 30} are needed"
            )
        try:
            _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
            pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install")
            _run(*pip, "--quiet", "--retries", "2", "--disable-pip-version-check", *requirements(name))
            ready.touch()
        finally:
            if not ready.exists():
                shutil.rmtree(folder, ignore_errors=True)  # the tests that follow need the disk


def _remove_unused(name: str) -> None:
    """Removes what a killed run has left half installed, and what no checkout has asked for in a long time."""
    for folder in CACHE.glob(f"{name}-*"):
        ready = folder / "ready"
        if not ready.exists() or time.time() - ready.stat().st_mtime > UNUSED_S:  # noqa: TID251
            ready.unlink(missing_ok=True)  # first, as this run may be killed, too
            shutil.rmtree(folder)


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"not done after {LIMIT_S} s") from None
    if done.returncode:
        last_lines = done.stderr.strip().splitlines()[-3:]
        raise CannotInstall(" | ".join(line[:200] for line in last_lines) or f"exit status {done.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--locked", action="store_true")
    locked = sorted(lock.stem for lock in (ROOT / "deploy" / "compat").glob("*.lock"))
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    status = 0
    for name in locked if parser.parse_args().locked else groups:
        here, folder = ROOT / ".venv" / "compat" / name, cached(name)
        here.parent.mkdir(parents=True, exist_ok=True)
        if here.is_dir() and not here.is_symlink():
            shutil.rmtree(here)  # `make compat` of an earlier revision installed here
        here.unlink(missing_ok=True)
        try:
            make(folder, name)
            here.symlink_to(folder)
        except (CannotInstall, OSError) as error:
            sys.stderr.write(f"{name} is not installed, its tests are skipped: {error}\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
