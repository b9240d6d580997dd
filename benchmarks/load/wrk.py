"""A closed loop by wrk: each connection sends its next request once the last is answered."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from benchmarks.children import wrapper
from benchmarks.machine import needs

_SCRIPT = Path(__file__).with_name("wrk.lua")
_SPARE = 20.0
"""Seconds beyond its own duration after which a wrk that has not ended is killed."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What one run of a closed loop saw; times in microseconds, ``bytes`` those of all answers."""

    requests: int
    duration_us: float
    bytes: int
    p50_us: float
    p99_us: float
    max_us: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.duration_us * 1e6


def closed_loop(
    port: int, requests: Path, *, connections: int, seconds: float, cores: Sequence[int], priority: str = "0"
) -> Closed:
    """Runs wrk with one thread for ``seconds``; ``requests`` as `traffic.write_requests` wrote it.

    Raises RuntimeError when wrk itself failed.
    """
    # wrk knows no others. A signal ends it sooner; until wrk is ready for one, it is ignored.
    whole = ceil(seconds)
    command = [
        *("env", "--ignore-signal=INT"),
        *wrapper(cores, priority),
        needs("wrk", "apt install wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{whole}s",
        "--timeout",
        "10s",
    ]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}/", "--", str(requests)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as wrk:
        if whole != seconds:
            with suppress(subprocess.TimeoutExpired):
                wrk.wait(seconds)
            wrk.send_signal(signal.SIGINT)
        try:
            told, faults = wrk.communicate(timeout=whole + _SPARE)
        finally:
            wrk.kill()
    for line in told.splitlines():
        if line.startswith("RESULT "):
            return Closed(**json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError(f"wrk ended with {wrk.returncode}: {faults[-500:]}")
