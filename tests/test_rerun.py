"""What the second run of failed tests forgives, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RERUN = Path(__file__).with_name("rerun.py")
UNSTABLE = """
from pathlib import Path

def test_fails_the_first_time():
    seen = Path("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError
"""


def parts(folder: Path, body: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs tests with ``body``, then those that failed once more."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (folder / "test_sample.py").write_text(body)
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # importing them takes most of the time

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *command]
        return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)

    first = run("-m", "pytest", "-q").returncode
    return run(str(RERUN), str(first), "-q", *options)


@pytest.mark.long
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (UNSTABLE, 0, "UNSTABLE"),
        ("def test_fails():\n    assert False\n", 1, "once more"),
        ("".join(f"def test_{n}():\n    assert False\n" for n in range(21)), 1, ""),
        ("import nothing_of_this_name\n", 2, ""),
    ],
    ids=["unstable", "broken", "too many", "not collected"],
)
def test_only_a_test_that_passes_alone_is_forgiven(tmp_path: Path, body: str, status: int, said: str) -> None:
    second = parts(tmp_path, body)
    assert second.returncode == status
    assert ("once more" in second.stdout) is bool(said)
    assert said in second.stdout


@pytest.mark.long
def test_failures_of_an_earlier_part_are_not_among_those_that_passed(tmp_path: Path) -> None:
    earlier = "import pytest\n@pytest.mark.alone\ndef test_of_an_earlier_part():\n    assert False\n"
    done = parts(tmp_path, UNSTABLE + earlier, "-m", "not alone")
    assert done.returncode == 0
    assert "::test_fails_the_first_time\n" in done.stdout.partition("UNSTABLE")[2]
    assert "::test_of_an_earlier_part\n" not in done.stdout.partition("UNSTABLE")[2]


def test_a_run_whose_workers_disagree_is_not_repeated(tmp_path: Path) -> None:
    """pytest-xdist notes the workers as what failed; asked for them, pytest would run every test."""
    cache = tmp_path / ".pytest_cache/v/cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text('{"gw1": true, "gw2": true}')
    done = subprocess.run([sys.executable, str(RERUN), "1"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
