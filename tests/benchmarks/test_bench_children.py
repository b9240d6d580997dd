"""A benchmark that leaves processes behind spoils the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import usage
from benchmarks.children import Child, StartError, free_ports

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable


def gone(pid: int, limit: float = 5.0) -> bool:
    """Whether the process has ended, or is a zombie, within ``limit`` seconds."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def test_stopping_ends_the_descendants_too(tmp_path: Path) -> None:
    code = "import os, time; print(os.fork(), flush=True); time.sleep(60)"
    with Child("family", [PYTHON, "-c", code], cores=cores(), log=tmp_path / "log") as child:
        until = time.monotonic() + 10
        while len(child.tail().split()) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        found = [int(word) for word in child.tail().split()]
        assert usage.usage(child.session).count == 2
    assert all(gone(pid) for pid in (child.session, *found) if pid)
    assert usage.usage(child.session).count == 0


def test_a_child_that_ends_at_once_says_why(tmp_path: Path) -> None:
    code = "raise SystemExit('no such setting')"
    with (
        Child("short", [PYTHON, "-c", code], cores=cores(), log=tmp_path / "log") as child,
        pytest.raises(StartError, match=r"short ended with 1:\nno such setting"),
    ):
        child.wait_listening(free_ports(1)[0])


def test_a_child_that_does_not_listen_in_time_is_named(tmp_path: Path) -> None:
    with (
        Child("deaf", ["sleep", "60"], cores=cores(), log=tmp_path / "log") as child,
        pytest.raises(StartError, match=r"deaf did not listen on port \d+ within 0\.2 s"),
    ):
        child.wait_listening(free_ports(1)[0], limit=0.2)


def test_children_end_when_the_harness_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from benchmarks.children import Child\n"
        "cores = os.sched_getaffinity(0)\n"
        f"child = Child('orphan', ['sleep', '60'], cores=list(cores), log=Path({str(tmp_path / 'log')!r}))\n"
        "print(child.session, flush=True); time.sleep(60)"
    )
    harness = subprocess.Popen([PYTHON, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert harness.stdout is not None
    with harness.stdout:
        orphan = int(harness.stdout.readline())
        time.sleep(0.3)  # so that the launcher has asked for the signal
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    assert gone(orphan)


def test_cpu_time_and_memory_are_those_of_the_child(tmp_path: Path) -> None:
    code = (
        "import time; until = time.process_time() + 0.4\n"
        "while time.process_time() < until: pass\n"
        "block = b'x' * 2**26; time.sleep(60)"
    )
    with Child("busy", [PYTHON, "-c", code], cores=cores()[:1], log=tmp_path / "log") as child:
        start = usage.reset_peak(child.session)
        until = time.monotonic() + 20
        while usage.peak(child.session) < 2**26 and time.monotonic() < until:
            time.sleep(0.05)
        seen = usage.usage(child.session)
        assert 0.4e6 <= seen.cpu_us < 1.5e6
        assert usage.peak(child.session) - start >= 2**26 * 0.9
        assert os.sched_getaffinity(child.session) == {cores()[0]}


def test_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20
