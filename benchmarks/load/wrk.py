"""A closed loop by wrk: each connection sends its next request once the last is answered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
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
    port: int, requests: Path, *, connections: int, seconds: int, cores: Sequence[int], priority: str = "0"
) -> Closed:
    """Runs wrk with one thread for whole ``seconds``; ``requests`` as `traffic.write_requests` wrote it.

    Raises RuntimeError when wrk itself failed.
    """
    command = [
        *wrapper(cores, priority),
        needs("wrk", "apt install wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
    ]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}/", "--", str(requests)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=seconds + _SPARE)
    for line in done.stdout.decode().splitlines():
        if line.startswith("RESULT "):
            return Closed(**json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError(f"wrk ended with {done.returncode}: {done.stderr.decode()[-500:]}")
