"""Reads many event streams at once and tells how old each event was when it came.

    python -m benchmarks.load.streams --port 8080 --target /sse?count=100&gap=20 --streams 100

Backend and reader share the machine's monotonic clock, so an event's age is its time of arrival less
the time written in it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import httptools
import uvloop

from benchmarks import traffic
from benchmarks.children import before, wrapper
from benchmarks.load.fixed import quantile

_TIME = re.compile(rb'data: \{"t":"(\d+)"')
_EVENT_END = b"}]}\n\n"


@dataclass(frozen=True, slots=True)
class Streams:
    """Ages in microseconds; ``events`` those that came, ``errors`` streams that ended too early."""

    events: int
    duration_us: float
    p50_us: float
    p99_us: float
    max_us: float
    errors: int


class Reader(asyncio.Protocol):
    """One stream. Proxies cut chunks as they like, so the framing is undone before events are sought."""

    def __init__(self, asked: bytes, finished: asyncio.Future[bool], ages: array[int]) -> None:
        self._asked = asked
        self._finished = finished
        self._ages = ages
        self._rest = b""
        self._now = 0
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._asked)

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic_ns()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        data = self._rest + body
        cut = data.rfind(_EVENT_END) + 1
        for written in _TIME.findall(data[:cut]):
            self._ages.append(self._now - int(written))
        self._rest = data[cut:]

    def on_message_complete(self) -> None:
        self._end(self._parser.get_status_code() == 200)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(False)

    def _end(self, good: bool) -> None:
        if not self._finished.done():
            self._finished.set_result(good)
            self._transport.abort()


async def read(port: int, target: str, streams: int, limit: float) -> Streams:
    """Opens ``streams`` connections, reads each to its end or for at most ``limit`` seconds."""
    loop, ages = asyncio.get_running_loop(), array("q")
    ends: list[asyncio.Future[bool]] = [loop.create_future() for _ in range(streams)]
    start = time.monotonic()
    for number, end in enumerate(ends):
        asked = traffic.request(target, b"", number, "GET").replace(b"Content-Length: 0\r\n", b"")
        await loop.create_connection(lambda asked=asked, end=end: Reader(asked, end, ages), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.wait(ends, timeout=limit)
    took, ordered = time.monotonic() - start, sorted(ages) or [0]
    return Streams(
        events=len(ages),
        duration_us=took * 1e6,
        p50_us=quantile(ordered, 0.5) / 1e3,
        p99_us=quantile(ordered, 0.99) / 1e3,
        max_us=ordered[-1] / 1e3,
        errors=sum(1 for end in ends if not (end.done() and end.result())),
    )


def read_streams(
    port: int, target: str, *, streams: int, limit: float, cores: Sequence[int], priority: str = "0"
) -> Streams:
    """Runs this module as a process pinned to ``cores``; raises RuntimeError when it failed."""
    words = [sys.executable, "-m", "benchmarks.load.streams", "--port", str(port), "--target", target]
    words += ["--streams", str(streams), "--limit", str(limit)]
    done = subprocess.run(
        [*wrapper(cores, before(priority)), *words], capture_output=True, check=False, timeout=limit + 30
    )
    if done.returncode:
        raise RuntimeError(f"the reader ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return Streams(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--limit", type=float, default=30.0)
    given = parser.parse_args()
    gc.disable()  # it would make events older
    print(json.dumps(asdict(uvloop.run(read(given.port, given.target, given.streams, given.limit)))))


if __name__ == "__main__":
    main()
