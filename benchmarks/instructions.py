"""Instructions that one request takes in user space: `python -m benchmarks.instructions` (needs valgrind).

The feeds of `benchmarks.hotpath` and `benchmarks.http2_feed`, under callgrind: the figures are the same within a
percent on every run, on a busy machine too. What is left out is the kernel and the event loop. ``--compiled`` counts
the compiled form.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Final

import uvloop

from benchmarks import traffic
from benchmarks.children import free_ports
from benchmarks.hotpath import Feed
from benchmarks.http2 import configure
from benchmarks.http2_feed import Http2Feed
from benchmarks.machine import needs
from benchmarks.peers import Place, render
from benchmarks.peers.compiled import python
from gateway.config.source import Source
from gateway.running import Gateway
from gateway.server import compose

QUIET_CPU_S: Final = 0.1
"""What callgrind itself computes in half a second in which the gateway does nothing."""
MAX_SETTLING: Final = 40
"""Half seconds that are waited for this at most."""
PARTS: Final = ("requests", "record and metrics")
"""What callgrind's dumps hold, in order."""
HTTP1: Final = ("turnout_routing.yaml", "turnout.yaml")
"""Templates of `benchmarks.peers`."""
HTTP2: Final = ("HTTP/2", "unary gRPC")
Serve = Callable[[], Awaitable[None]]


def control(*words: str) -> None:
    """Tells callgrind, which runs this process."""
    subprocess.run(["callgrind_control", *words, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


async def settle() -> None:
    """Waits until nothing of the gateway runs in the background: threads go on when their tasks are cancelled."""
    for _ in range(MAX_SETTLING):
        spent = process_time()
        await asyncio.sleep(0.5)
        if process_time() - spent < QUIET_CPU_S:
            break


def http1_feed(gateway: Gateway) -> Callable[[], Serve]:
    """Returns what prepares to serve each request of `traffic.requests` once."""
    feed, requests = Feed(gateway), traffic.requests()

    async def serve() -> None:
        for request in requests:
            feed.one(request)

    return lambda: serve


def http2_feed(gateway: Gateway, *, grpc: bool) -> Callable[[], Serve]:
    """As `http1_feed`, as many requests of HTTP/2."""
    feed, count = Http2Feed(gateway, grpc=grpc), len(traffic.requests())

    def prepare() -> Serve:
        requests, responses = feed.requests(count), feed.responses(count)
        return lambda: feed.serve(requests, responses)

    return prepare


async def count(work: str) -> None:
    """Serves as many requests as there are in `traffic.requests` under callgrind, and writes the record."""
    with TemporaryDirectory(prefix="turnout-bench-") as directory:
        own, a, b = free_ports(3)
        http2 = work in HTTP2
        config = (
            configure(Path(directory), own, a, record=True)
            if http2
            else render(work, Place(Path(directory), (), (a, b)), own, {})
        )
        gateway = await compose(Source(Path(config)))
        prepare = http2_feed(gateway, grpc=work == HTTP2[1]) if http2 else http1_feed(gateway)
        for address in gateway.in_force.registry.addresses.values():
            address.idle_timeout = float("inf")
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        gateway.worker.stop()
        for counted in (False, True):
            serve = prepare()
            if counted:
                await settle()
                gc.collect()
                control("--instr=on")
            await serve()
            if counted:
                control("--dump")
            await gateway.recorder.flush()
        control("--dump")
        os._exit(0)  # what stopping costs is not of interest, and slow under callgrind


def counts(work: str, *, compiled: bool) -> list[float]:
    """Thousands of instructions a request, of each of `PARTS`."""
    words, env = (
        python("benchmarks.instructions")
        if compiled
        else ([sys.executable, "-m", "benchmarks.instructions"], {})
    )
    with TemporaryDirectory(prefix="turnout-bench-") as directory:
        out = Path(directory) / "out"
        callgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        subprocess.run(
            [*callgrind, *words, "--within", work],
            env={**os.environ, **env, "PYTHONHASHSEED": "0"},
            check=True,
            capture_output=True,
        )
        dumps = [out.with_name(f"out.{number}").read_text() for number in (1, 2)]
    totals = [int(found[1]) for dump in dumps if (found := re.search(r"^totals: (\d+)", dump, re.MULTILINE))]
    return [total / len(traffic.requests()) / 1e3 for total in totals]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--compiled", action="store_true", help="the compiled form (made where missing)")
    parser.add_argument("--within", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.within:
        uvloop.run(count(given.within))
    needs("valgrind", "apt install valgrind")
    for work in (*HTTP1, *HTTP2):
        each = zip(PARTS, counts(work, compiled=given.compiled), strict=True)
        print(f"{work}: " + ", ".join(f"{part} {number:.1f}k" for part, number in each), flush=True)


if __name__ == "__main__":
    main()
