"""Turnout compiled: a copy of the checkout's packages below ``.run``, made again when its sources change."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.children import StartError
from gateway import build

HOME = Path(".run/compiled")


@cache
def place() -> Path:
    """The directory with the compiled packages; makes it where it is missing (a minute). Raises StartError."""
    words = [sys.executable, str(build.ROOT / "deploy" / "compiled.py"), "--cached", str(HOME)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(done.stderr)
    return Path(done.stdout.strip())


def python(module: str) -> tuple[list[str], dict[str, str]]:
    """The words that run ``module`` on the compiled packages, and their environment. Raises StartError."""
    return [sys.executable, "-P", "-m", module], {"PYTHONPATH": f"{place()}:{Path.cwd()}"}
