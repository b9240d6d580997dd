"""Where Turnout's CPU goes under load: `python -m benchmarks.profile` (needs py-spy, and perf for the kernel's part).

py-spy says which of our functions are on the processor (their own time, and with all they call); perf
splits the same time into kernel, interpreter and libraries. Both sample, neither changes the program.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from benchmarks import traffic
from benchmarks.bench import Bench, Options, bench
from benchmarks.load.wrk import closed_loop
from benchmarks.machine import cores, needs

_RATE = 500
"""Samples per second of py-spy."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument(
        "--peer", default="turnout", choices=["turnout", "turnout-compiled", "turnout-routing"]
    )
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--lines", type=int, default=40, help="of each table")
    given = parser.parse_args()
    spy = needs("py-spy", "pip install -e '.[bench]'")
    with bench(Options(peers=(given.peer,))) as made:
        if given.peer in made.missing:
            print(made.missing[given.peer], file=sys.stderr)
            return 1
        requests = made.requests(traffic.INFER, traffic.INFER_BODY)
        stacks = _under_load(spy, made, given.peer, requests, given.connections, given.seconds)
        print(_functions(stacks, given.lines))
        if shutil.which("perf"):
            print(_perf_under_load(made, given.peer, requests, given.connections, given.seconds, given.lines))
    return 0


def _load(made: Bench, name: str, requests: Path, connections: int, seconds: int) -> threading.Thread:
    def run() -> None:
        port, load = made.running[name].port, cores().load
        closed_loop(port, requests, connections=connections, seconds=seconds, cores=load)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _under_load(
    spy: str, made: Bench, name: str, requests: Path, connections: int, seconds: int
) -> list[str]:
    """py-spy's stacks, one a line: frames from the outermost on, joined by ';', and a count."""
    child, out = made.running[name].child, made.directory / "stacks"
    assert child is not None
    load = _load(made, name, requests, connections, seconds + 2)
    words = ["record", "--pid", str(child.session), "--format", "raw", "--output", str(out)]
    words += [
        "--rate",
        str(_RATE),
        "--duration",
        str(seconds),
        "--subprocesses",
        "--nonblocking",
        "--threads",
    ]
    subprocess.run([spy, *words], check=True, capture_output=True, timeout=seconds + 60)
    load.join()
    return out.read_text().splitlines()


def _functions(stacks: list[str], lines: int) -> str:
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    at_line: Counter[str] = Counter()
    total = 0
    for stack in stacks:
        text, _, count = stack.rpartition(" ")
        frames = [frame for frame in text.split(";") if not frame.startswith(("process ", "thread "))]
        names = [_function(frame) for frame in frames]
        total += int(count)
        if names:
            own[names[-1]] += int(count)
            at_line[frames[-1]] += int(count)
        within.update(dict.fromkeys(names, int(count)))
    parts = [f"{total} samples of py-spy"]
    for title, counts in (("own time", own), ("with all it calls", within), ("own time by line", at_line)):
        parts.append(f"\n{title}")
        parts += [f"{100 * count / total:5.1f} %  {name}" for name, count in counts.most_common(lines)]
    return "\n".join(parts)


def _function(frame: str) -> str:
    name, _, line = frame.rpartition(":")
    return f"{name})" if name and line.rstrip(")").isdigit() else frame


def _perf_under_load(
    made: Bench, name: str, requests: Path, connections: int, seconds: int, lines: int
) -> str:
    child, data = made.running[name].child, made.directory / "perf.data"
    assert child is not None
    load = _load(made, name, requests, connections, seconds + 2)
    words = ["record", "-e", "cpu-clock", "-F", "1999", "-o", str(data), "-p", str(child.session)]
    subprocess.run(["perf", *words, "--", "sleep", str(seconds)], check=True, capture_output=True)
    load.join()
    parts = []
    for sort in ("dso", "dso,symbol"):
        words = ["report", "-i", str(data), "--stdio", "--sort", sort]
        done = subprocess.run(["perf", *words], check=True, capture_output=True)
        found = [
            line for line in done.stdout.decode().splitlines() if line.strip() and not line.startswith("#")
        ]
        parts.append(f"\nperf by {sort}\n" + "\n".join(found[:lines]))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
