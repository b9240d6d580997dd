"""Python's own part of a request, without sockets: `python -m benchmarks.hotpath`.

The real gateway, with all of it on, is fed one client's bytes and one backend's bytes by hand over
transports that keep what is written. What is left out is the kernel and the event loop, so the least of
many short runs says the same on a busy machine as on a quiet one: it is the figure to watch while
changing the data plane. It is no substitute for `closed`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, cast

import uvloop

from benchmarks import traffic
from benchmarks.children import free_ports
from benchmarks.peers import Place, render
from benchmarks.servers.odd import answer
from gateway.dataplane.protocol import ClientProtocol
from gateway.server import Gateway
from gateway.transport.connection import BackendConnection

ANSWER = b"".join(answer(traffic.INFER_ANSWER.encode()))


class Transport:
    """Keeps the last write. Has what the two protocols ask of a transport."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written = data

    def writelines(self, parts: list[bytes]) -> None:
        self.written = b"".join(parts)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.written = b"closed"

    abort = close

    def set_write_buffer_limits(self, high: int) -> None:
        assert high

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 40000) if name == "peername" else None


class Feed:
    """One client and, for each of the two backends, one resting connection."""

    def __init__(self, gateway: Gateway) -> None:
        assert gateway.worker is not None
        self.client = Transport()
        self.backends: dict[BackendConnection, Transport] = {}
        for address in gateway.worker.addresses():
            connection, transport = BackendConnection(address, None), Transport()
            connection.connection_made(cast("Any", transport))
            address.release(connection)
            self.backends[connection] = transport
        self.protocol = ClientProtocol(gateway.worker)
        self.protocol.connection_made(cast("Any", self.client))

    def one(self, request: bytes) -> None:
        """A request in, the backend's answer back, the client's answer out."""
        self.protocol.data_received(request)
        for connection in self.backends:
            if connection.user is not None:
                connection.data_received(ANSWER)
                return
        raise RuntimeError(f"the gateway sent nothing on: {self.client.written[:200]!r}")


def batch(feed: Feed, requests: list[bytes]) -> float:
    """Microseconds per request, over all of ``requests`` once."""
    start, one = perf_counter(), feed.one
    for request in requests:
        one(request)
    return (perf_counter() - start) / len(requests) * 1e6


def calls(feed: Feed, request: bytes) -> tuple[int, int]:
    """How many Python functions, and how many of C, one request calls."""
    counts = {"call": 0, "c_call": 0}

    def count(_frame: object, event: str, _argument: object) -> None:
        if event in counts:
            counts[event] += 1

    sys.setprofile(cast("Callable[..., Any]", count))
    feed.one(request)
    sys.setprofile(None)
    return counts["call"], counts["c_call"]


async def measure(template: str, rounds: int) -> dict[str, float]:
    """``least`` and ``median`` microseconds per request, and its calls of Python and of C functions."""
    with TemporaryDirectory(prefix="turnout-bench-") as directory:
        own, a, b = free_ports(3)
        config = render(template, Place(Path(directory), (), (a, b)), own, {})
        gateway = Gateway(Path(config))
        await gateway.start()
        try:
            feed, requests = Feed(gateway), traffic.requests()
            batch(feed, requests)
            assert feed.client.written.startswith(b"HTTP/1.1 200 OK")
            python, native = calls(feed, requests[0])
            times = []
            for _ in range(rounds):
                for connection in feed.backends:  # they rest for longer than they may between two rounds
                    connection.idle_since = asyncio.get_running_loop().time()
                times.append(batch(feed, requests))
                await gateway.recorder.flush()
            return {"least": min(times), "median": median(times), "python": python, "native": native}
        finally:
            await gateway.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hotpath", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    print(
        "| configuration | least µs | median µs | Python calls | C calls |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for template in ("turnout.yaml", "turnout_routing.yaml"):
        got = uvloop.run(measure(template, given.rounds))
        print(
            f"| {template} | {got['least']:.1f} | {got['median']:.1f} | {got['python']:.0f} | {got['native']:.0f} |"
        )


if __name__ == "__main__":
    main()
