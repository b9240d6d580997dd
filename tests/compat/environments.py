"""Python environments of their own for programs that are not dependencies of the tests; deploy/compat.py makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent / ".venv" / "compat"


def environment(name: str) -> Path:
    """The directory of environment ``name``; skips the test if it has not been made."""
    folder = ROOT / name
    if not (folder / "bin" / "python").exists():
        pytest.skip(
            f"{name} is not installed; `make servers` or `make compat` installs it, or says why it cannot"
        )
    return folder
