"""Runs the tests that just failed once more, one after another, with nothing else running.

Usage: ``python tests/rerun.py STATUS [PYTEST_OPTION ...]``, where STATUS is the exit status of the run before.

A test that fails only beside others is named at the end and does not fail the run: the machine may
have been too busy. A test that fails again does, and so do more than `MAX_RERUNS` failures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MAX_RERUNS = 20
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
TESTS_FAILED = 1
"""The exit status of pytest when tests failed; every other one is a fault of the run itself."""


def noted() -> list[str]:
    """The tests whose last run failed, in this part of the suite or an earlier one."""
    found = sorted(json.loads(LAST_FAILED.read_text())) if LAST_FAILED.exists() else []
    return [test for test in found if "::" in test]  # the others are workers that collected different tests


def main(status: int, options: list[str]) -> int:
    failed = noted()
    if status != TESTS_FAILED or not 0 < len(failed) <= MAX_RERUNS:
        return status
    print("\nrunning the tests that failed once more, with nothing else running", flush=True)
    again = subprocess.run([sys.executable, "-m", "pytest", "--last-failed", *options]).returncode
    if again == 0:
        print("\nUNSTABLE: failed among others, passed alone; find out why before it hides a fault:")
        print("\n".join(f"  {test}" for test in sorted({*failed} - {*noted()})))
    return again


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
