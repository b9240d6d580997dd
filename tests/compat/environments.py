"""Python environments of their own for programs that are not dependencies of the tests: `make compat` makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent / ".venv" / "compat"


def environment(name: str) -> Path:
    """The directory of environment ``name``; skips the test if `make compat` has not made it."""
    folder = ROOT / name
    if not (folder / "bin" / "python").exists():
        pytest.skip(f"{name} is not installed; run make compat")
    return folder
