"""A benchmark that leaves processes behind spoils the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import children, usage
from benchmarks.children import Child, StartError, free_ports

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable


def gone(pid: int, limit: float = 60.0) -> bool:
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
        until = time.monotonic() + 60
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
        until = time.monotonic() + 60
        while (
            Path(f"/proc/{orphan}/comm").read_text() != "sleep\n"
        ):  # then the launcher has asked for the signal
            assert time.monotonic() < until
            time.sleep(0.02)
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
        until = time.monotonic() + 60
        while usage.peak(child.session) < 2**26 and time.monotonic() < until:
            time.sleep(0.05)
        seen = usage.usage(child.session)
        assert 0.4e6 <= seen.cpu_us < 4e6
        assert usage.peak(child.session) - start >= 2**26 * 0.9
        assert os.sched_getaffinity(child.session) == {cores()[0]}


def test_ports_differ_between_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 12,000 that were drawn and not yet bound met once in a few runs of the tests."""
    first = children._SERVER_PORTS[0]
    monkeypatch.setattr(children, "_SERVER_PORTS", (first, first + 100))
    own = free_ports(20)
    code = "from benchmarks import children; children._SERVER_PORTS = ({0}, {0} + 100); print(*children.free_ports(20))"
    told = subprocess.run(
        [PYTHON, "-c", code.format(first)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len({*own, *map(int, told.stdout.split())}) == 40
