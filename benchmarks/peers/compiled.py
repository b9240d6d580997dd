"""Turnout compiled: a copy of the checkout's packages below ``.bench``, made anew when they change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.children import StartError
from gateway import build

HOME = Path(".bench/compiled")


def place() -> Path:
    """The directory with the compiled packages; makes it where it is missing (a minute). Raises StartError."""
    if build.form() == "compiled":
        raise StartError(
            "the checkout itself is compiled; run 'make interpreted', so that both can be measured"
        )
    digests = build.digests(build.sources()).encode()
    found = (HOME / hashlib.sha256(digests).hexdigest()[:16]).absolute()
    if not found.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        (HOME.parent / ".gitignore").write_text("*\n")
        fresh = found.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        words = [sys.executable, str(build.ROOT / "deploy" / "compiled.py"), "--into", str(fresh)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StartError(done.stderr)
        fresh.rename(found)
    ignore = shutil.ignore_patterns("__pycache__", "node_modules")
    for package in ("gateway", "policies", "backends", "dashboards"):  # what is not compiled may have changed
        shutil.copytree(build.ROOT / package, found / package, ignore=ignore, dirs_exist_ok=True)
    return found


def python(module: str) -> tuple[list[str], dict[str, str]]:
    """The words that run ``module`` on the compiled packages, and their environment. Raises StartError."""
    return [sys.executable, "-P", "-m", module], {"PYTHONPATH": f"{place()}:{Path.cwd()}"}
