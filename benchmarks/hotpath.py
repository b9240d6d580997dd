"""Python's own part of a request, without sockets: `python -m benchmarks.hotpath`.

The real gateway, with all of it on, is fed one client's bytes and one backend's bytes by hand over
transports that keep what is written. What is left out is the kernel and the event loop, so the least of
many short runs says the same on a busy machine as on a quiet one: it is the figure to watch while
changing the data plane. It is no substitute for `closed`. ``--compiled`` measures the compiled form.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from types import FrameType, MappingProxyType
from typing import Any, cast

import uvloop

from benchmarks import traffic
from benchmarks.children import free_ports
from benchmarks.peers import Place, render
from benchmarks.peers.compiled import python
from benchmarks.servers.odd import answer
from gateway.config.source import Source
from gateway.dataplane.client.protocol import ClientProtocol
from gateway.running import Gateway
from gateway.server import compose
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

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        assert high

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 40000) if name == "peername" else None


class Feed:
    """One client and, for each of the two backends, one resting connection."""

    def __init__(self, gateway: Gateway) -> None:
        self.client = Transport()
        self.backends: dict[BackendConnection, Transport] = {}
        for address in gateway.in_force.registry.addresses.values():
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
            if connection.handler is not None:
                connection.data_received(ANSWER)
                return
        raise RuntimeError(f"the gateway sent nothing on: {self.client.written[:200]!r}")


def batch(feed: Feed, requests: list[bytes]) -> float:
    """Microseconds per request, over all of ``requests`` once."""
    start, one = perf_counter(), feed.one
    for request in requests:
        one(request)
    return (perf_counter() - start) / len(requests) * 1e6


def instructions(feed: Feed, request: bytes) -> Counter[tuple[str, str]]:
    """What one request makes the interpreter do: ("call" or "opcode", function) → how often.

    These numbers are the same on every machine and in every run, so they are what to compare while
    changing the data plane; a time is only believed once they agree.
    """
    counts: Counter[tuple[str, str]] = Counter()

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counts[event, frame.f_code.co_qualname] += 1
        return trace

    sys.settrace(trace)
    feed.one(request)
    sys.settrace(None)
    return counts


async def measure(
    template: str, rounds: int, extra: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[float], Counter[tuple[str, str]]]:
    """Microseconds per request in each round of a thousand, and what one request executes.

    ``extra``: further names of the template; where it has traces, requests come without ``traceparent``.
    """
    with TemporaryDirectory(prefix="turnout-bench-") as directory:
        own, a, b = free_ports(3)
        config = render(template, Place(Path(directory), (), (a, b)), own, extra)
        gateway = await compose(Source(Path(config)))
        try:
            feed, requests = Feed(gateway), traffic.requests()
            if extra:
                requests = [traffic.untraced(request) for request in requests]
            batch(feed, requests)
            assert feed.client.written.startswith(b"HTTP/1.1 200 OK")
            times = []
            for _ in range(rounds):
                for connection in feed.backends:  # they rest for longer than they may between two rounds
                    connection.idle_since = asyncio.get_running_loop().time()
                times.append(batch(feed, requests))
                await gateway.recorder.flush()
            return times, instructions(feed, requests[0])
        finally:
            await gateway.stop()


def _said(extra: Mapping[str, str]) -> str:
    return f" ({extra['PERCENT']} %)" if extra else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hotpath", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--functions", type=int, default=25, help="lines of the list (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="the compiled form (made where missing)")
    given = parser.parse_args()
    if given.compiled:
        words, env = python("benchmarks.hotpath")
        rest = ["--rounds", str(given.rounds), "--functions", str(given.functions)]
        os.execvpe(words[0], [*words, *rest], {**os.environ, **env})
    traces = [{"PERCENT": percent, "COLLECTOR": str(free_ports(1)[0])} for percent in ("100", "0")]
    kinds: list[tuple[str, dict[str, str]]] = [("turnout_traces.yaml", extra) for extra in traces]
    for template, extra in (*kinds, ("turnout_routing.yaml", {}), ("turnout.yaml", {})):
        times, counts = uvloop.run(measure(template, given.rounds, extra))
        total = {
            kind: sum(n for (which, _), n in counts.items() if which == kind) for kind in ("call", "opcode")
        }
        print(
            f"{template}{_said(extra)}: {min(times):.1f} µs a request at least, {median(times):.1f} in the median; "
            f"{total['opcode']} opcodes in {total['call']} calls of Python functions"
        )
    print("\nopcodes  calls  function")
    opcodes = Counter({name: n for (kind, name), n in counts.items() if kind == "opcode"})
    for name, number in opcodes.most_common(given.functions):
        print(f"{number:7}  {counts['call', name]:5}  {name}")


if __name__ == "__main__":
    main()
