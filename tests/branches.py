"""Says which share of the branches of each room the tests took, and fails where it is too small; for `make coverage`.

`coverage report` counts lines and branches together, and so most of what it counts is easy to reach.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from coverage import Coverage

ROOMS = ("policies", "gateway/dataplane")
LEAST = 95.0
"""Percent."""


def taken(measured: Coverage, room: str) -> tuple[int, int]:
    """Branches of ``room`` that were taken, and all of them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        measured.json_report(outfile=str(path), include=[f"{room}/*"])
        totals = json.loads(path.read_text())["totals"]
    return totals["covered_branches"], totals["num_branches"]


def main() -> int:
    measured = Coverage()
    measured.load()
    status = 0
    for room in ROOMS:
        some, every = taken(measured, room)
        percent = 100 * some / every
        print(f"{room}: {some} of {every} branches, {percent:.1f} %")
        if percent < LEAST:
            print(f"{room}: at least {LEAST:g} % of the branches are to be taken", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
