"""An open loop: requests leave at moments fixed beforehand, whether or not earlier ones are answered.

Latency counts from the *intended* moment, so a stall of the proxy is felt by every request that should
have been sent meanwhile ("coordinated omission" is what a closed loop does instead). The moments are a
Poisson process with a fixed seed, as independent users would make them. A process of its own:

    python -m benchmarks.load.fixed --port 8080 --requests FILE --rate 5000 --seconds 2
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks.children import before, wrapper
from benchmarks.load.answers import Connection
from benchmarks.load.clock import Timer

_SEED = 20_26
_DRAIN_SECONDS = 5.0
"""How long answers may take once the last request has been sent."""
_WAITING_SECONDS = 3.0
"""A backlog of so many seconds' requests ends the run: the rate is beyond what the proxy can do."""


@dataclass(frozen=True, slots=True)
class Open:
    """What one run saw; times in microseconds from the intended moment of sending.

    ``lag_p99_us`` is how late the generator itself was in sending: the part that is its own fault.
    """

    requests: int
    duration_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    lag_p99_us: float
    errors: int


class Generator:
    """Sends ``moments`` (nanoseconds after the start) over a fixed set of connections."""

    def __init__(self, requests: Sequence[bytes], moments: array[int], rate: float) -> None:
        self.latencies = array("q")
        self.lags = array("q")
        self.errors = 0
        self.finished = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._moments = moments
        self._next = 0
        self._idle: list[Connection] = []
        self._waiting: deque[int] = deque()
        self._most_waiting = int(rate * _WAITING_SECONDS) + 100
        self._timer = Timer()
        self._start = 0

    def add(self, connection: Connection) -> None:
        self._idle.append(connection)

    def begin(self) -> None:
        self._start = time.monotonic_ns() + 20_000_000
        asyncio.get_running_loop().add_reader(self._timer.fd, self._due)
        self._arm()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._timer.fd)
        self._timer.close()

    def _arm(self) -> None:
        self._timer.set(self._start + self._moments[self._next])

    def _due(self) -> None:
        os.read(self._timer.fd, 8)
        now = time.monotonic_ns()
        moments, count = self._moments, len(self._moments)
        while self._next < count and (at := self._start + moments[self._next]) <= now:
            self._next += 1
            self._send_or_wait(at, now)
        if len(self._waiting) > self._most_waiting:
            self._finish()
        elif self._next < count:
            self._arm()

    def _send_or_wait(self, at: int, now: int) -> None:
        if self._idle:
            self.lags.append(now - at)
            self._send(self._idle.pop(), at)
        else:
            self._waiting.append(at)

    def _send(self, connection: Connection, at: int) -> None:
        connection.send(self._requests[self._next % len(self._requests)], at)

    def done(self, connection: Connection, good: bool) -> None:
        """The answer of ``connection`` is whole, or lost."""
        self.latencies.append(time.monotonic_ns() - connection.sent_at)
        self.errors += not good
        if connection.transport.is_closing():
            pass
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)
        if len(self.latencies) == len(self._moments):
            self._finish()

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


def moments(rate: float, seconds: float) -> array[int]:
    """Nanoseconds after the start at which requests are due: a Poisson process of ``rate`` per second."""
    chance, at, out = random.Random(_SEED), 0.0, array("q")
    while (at := at + chance.expovariate(rate)) < seconds:
        out.append(int(at * 1e9))
    return out


async def run(port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int) -> Open:
    """One run over loopback; every request that was not answered in time counts as an error."""
    loop, due = asyncio.get_running_loop(), moments(rate, seconds)
    generator = Generator(requests, due, rate)
    opened = [
        await loop.create_connection(lambda: Connection(generator.done), "127.0.0.1", port)
        for _ in range(connections)
    ]
    for _, connection in opened:
        generator.add(connection)
    generator.begin()
    try:
        await asyncio.wait([generator.finished], timeout=seconds + _DRAIN_SECONDS)
    finally:
        generator.close()
        for transport, connection in opened:
            connection.busy = False
            transport.abort()
    return _summary(generator, len(due), seconds)


def _summary(generator: Generator, due: int, seconds: float) -> Open:
    latencies, lags = sorted(generator.latencies) or [0], sorted(generator.lags) or [0]
    return Open(
        requests=len(generator.latencies),
        duration_us=seconds * 1e6,
        p50_us=quantile(latencies, 0.5) / 1e3,
        p90_us=quantile(latencies, 0.9) / 1e3,
        p99_us=quantile(latencies, 0.99) / 1e3,
        p999_us=quantile(latencies, 0.999) / 1e3,
        max_us=latencies[-1] / 1e3,
        lag_p99_us=quantile(lags, 0.99) / 1e3,
        errors=generator.errors + due - len(generator.latencies),
    )


def quantile(ordered: Sequence[int], share: float) -> int:
    """The least value that at least ``share`` of ``ordered`` do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def read_requests(path: Path) -> list[bytes]:
    """What `traffic.write_requests` wrote."""
    found = []
    with path.open("rb") as file:
        while line := file.readline():
            found.append(file.read(int(line)))
    return found


def open_loop(
    port: int,
    requests: Path,
    *,
    rate: float,
    seconds: float,
    cores: Sequence[int],
    connections: int = 64,
    priority: str = "0",
) -> Open:
    """Runs this module as a process pinned to ``cores``; raises RuntimeError when it failed."""
    words = [sys.executable, "-m", "benchmarks.load.fixed", "--port", str(port), "--requests", str(requests)]
    words += ["--rate", str(rate), "--seconds", str(seconds), "--connections", str(connections)]
    done = subprocess.run(
        [*wrapper(cores, before(priority)), *words], capture_output=True, check=False, timeout=seconds + 30
    )
    if done.returncode:
        raise RuntimeError(f"the generator ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return Open(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=64)
    given = parser.parse_args()
    asked = read_requests(given.requests)
    gc.disable()  # it would add to latencies
    seen = uvloop.run(run(given.port, asked, given.rate, given.seconds, given.connections))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
