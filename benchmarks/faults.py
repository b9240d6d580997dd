"""What clients feel while a backend misbehaves: `python -m benchmarks.faults`.

One gateway, backends that misbehave on command (`benchmarks.servers.faulty`), an open loop at a fixed rate. It prints
the same rows as were measured on nginx, HAProxy and Envoy (docs/resilience.md). The times are those of a shared
machine: compare sizes, not second digits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from benchmarks import traffic
from benchmarks.children import Child, end_on_signals, free_ports
from benchmarks.load.answers import Connection
from benchmarks.load.fixed import Generator, moments, quantile
from benchmarks.peers import Place, Running, start, turnout
from benchmarks.usage import usage

RATE = 400.0
CONNECTIONS = 256
SLOW = 500_000_000
"""Nanoseconds from which a request counts as slow."""


class Backend:
    """One `benchmarks.servers.faulty`, as its steerer sees it."""

    def __init__(self, directory: Path, name: str, port: int = 0) -> None:
        self.directory, self.name = directory, name
        own, self.control = free_ports(2)
        self.port = port or own
        self.launch()

    def launch(self) -> None:
        words = ["-m", "benchmarks.servers.faulty", "--port", str(self.port), "--control", str(self.control)]
        log = self.directory / f"{self.name}-{time.monotonic_ns()}.log"
        cores = sorted(os.sched_getaffinity(0))
        self.child = Child(self.name, [sys.executable, *words], cores=cores, log=log)
        self.child.wait_listening(self.control)

    async def ask(self, *mode: object) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.control)
        writer.write(" ".join(map(str, mode)).encode() + b"\n")
        answer = (await reader.readline()).decode().strip()
        writer.close()
        return answer

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.child.session, number)

    async def restart(self) -> None:
        await asyncio.to_thread(self.child.stop)
        await asyncio.to_thread(self.launch)


@dataclass
class Load:
    """What an open loop saw."""

    sent: int
    errors: int
    latencies: list[int]

    @property
    def slow(self) -> int:
        return sum(spent > SLOW for spent in self.latencies)

    @property
    def longest_ms(self) -> float:
        return max(self.latencies) / 1e6

    def ms(self, share: float) -> float:
        return quantile(sorted(self.latencies), share) / 1e6


async def load(
    port: int, path: str, seconds: float, rate: float = RATE, connections: int = CONNECTIONS
) -> Load:
    """Requests leave at moments fixed beforehand; latency counts from then."""
    due: array[int] = moments(rate, seconds)
    generator = Generator(traffic.requests(path), due, rate)
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(generator.done), "127.0.0.1", port)
        for _ in range(connections)
    ]
    for _, connection in opened:
        generator.add(connection)
    generator.begin()
    await asyncio.wait([generator.finished], timeout=seconds + 10.0)
    generator.close()
    for transport, connection in opened:
        connection.busy = False
        transport.abort()
    unanswered = len(due) - len(generator.latencies)
    return Load(len(due), generator.errors + unanswered, list(generator.latencies) or [0])


async def once(port: int, path: str, patience: float = 10.0) -> tuple[bytes, float]:
    """(the whole answer, milliseconds) of one request on a connection of its own."""
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(traffic.request(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    try:
        async with asyncio.timeout(patience):
            answer = await reader.read()
    except ConnectionError:
        answer = b""
    writer.close()
    return answer, (time.monotonic() - begun) * 1e3


class Bench:
    """The gateway, its backends, and the rows they make."""

    def __init__(self, stack: ExitStack, directory: Path, *, seconds: float) -> None:
        self.seconds = seconds
        self.primary = Backend(directory, "primary")
        self.spare = Backend(directory, "spare")
        self.mirror = Backend(directory, "mirror")
        for backend in (self.primary, self.spare, self.mirror):
            stack.callback(backend.child.stop)
        peer = turnout("turnout", "Turnout", "turnout_faults.yaml", {"MIRROR": str(self.mirror.port)})
        place = Place(directory, sorted(os.sched_getaffinity(0)), (self.primary.port, self.spare.port))
        self.gateway: Running = stack.enter_context(start(peer, place))
        self.port = self.gateway.port

    # Rows -------------------------------------------------------------------------------------------
    async def in_turn(self) -> str:
        """The primary killed, hung, reset, 503 and closed in turn, the fallback well."""
        each = self.seconds / 10
        running = asyncio.ensure_future(load(self.port, "/rescued", self.seconds))
        for fault in (self._killed, self._hung, self._mode("reset"), self._mode("503"), self._mode("closed")):
            await asyncio.sleep(each)
            await fault(each)
        found = await running
        return f"{found.errors} errors of {found.sent}; longest {found.longest_ms:.0f} ms; {found.slow} over 500 ms"

    async def hung(self) -> str:
        """The primary hung alone: stopped, not ended."""
        each = self.seconds / 5
        running = asyncio.ensure_future(load(self.port, "/rescued", each * 3))
        await asyncio.sleep(each)
        await self._hung(each)
        found = await running
        over = sum(spent > SLOW / 2 for spent in found.latencies)
        return f"{found.errors} errors; longest {found.longest_ms:.0f} ms; {found.slow} over 500 ms, {over} over 250 ms"

    async def _killed(self, seconds: float) -> None:
        self.primary.signal(signal.SIGKILL)
        await asyncio.sleep(seconds)
        await self.primary.restart()

    async def _hung(self, seconds: float) -> None:
        self.primary.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.primary.signal(signal.SIGCONT)

    def _mode(self, *mode: str) -> Callable[[float], Awaitable[None]]:
        async def fault(seconds: float) -> None:
            await self.primary.ask(*mode)
            await asyncio.sleep(seconds)
            await self.primary.ask("well")

        return fault

    async def first_request(self) -> str:
        """The first request after the primary has gone bad."""
        found = []
        for mode in ("closed", "hang", "503", "reset"):
            await self.primary.ask(mode)
            answer, spent = await once(self.port, "/rescued")
            found.append(f"{spent:.0f}" if answer[9:12] == b"200" else answer[9:12].decode() or "no answer")
            await self.primary.ask("well")
        return " / ".join(found)

    async def garbage(self) -> str:
        await self.primary.ask("garbage")
        answer, _ = await once(self.port, "/rescued")
        alone, _ = await once(self.port, "/alone")
        await self.primary.ask("well")
        served = "served by the fallback" if answer[9:12] == b"200" else answer[9:12].decode()
        return f"{served}; without one: {alone[9:12].decode()}"

    async def cut(self) -> str:
        await self.primary.ask("cut")
        times = [(await once(self.port, "/alone"))[1] for _ in range(5)]
        await self.primary.ask("well")
        return f"{statistics.median(times):.1f} ms"

    async def idle_race(self) -> str:
        """One of two healthy backends closes its connections at any moment, often as a request is on its way."""
        await self.primary.ask("race", 20)
        before = await self._counts()
        found = await load(self.port, "/pair", self.seconds / 3)
        after = await self._counts()
        await self.primary.ask("well")
        share = (after[0] - before[0]) / max(1, sum(after) - sum(before))
        there = f"{share:.0%} of requests still go there"
        return f"{found.errors} errors of {found.sent}; {there}; {await self._ejected()} ejected"

    async def _counts(self) -> tuple[int, int]:
        a, b = await self.primary.ask("report"), await self.spare.ask("report")
        return int(a.split()[0]), int(b.split()[0])

    async def _ejected(self) -> int:
        route = json.loads((await _get(self.port, "/-/routes/pair")).partition(b"\r\n\r\n")[2])
        health = route.get("health") or {}
        return sum(place["state"] == "ejected" for places in health.values() for place in places)

    async def leavers(self) -> str:
        """200 clients leave while the backend works: when it has learned of the last."""
        await self.primary.ask("hang")
        open_before = int((await self.primary.ask("report")).split()[1])
        writers = []
        for number in range(200):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(traffic.request("/alone", number=number))
            writers.append(writer)
        while int((await self.primary.ask("report")).split()[1]) < open_before + 150:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        begun = time.monotonic_ns()
        for writer in writers:
            writer.transport.abort()
        while int((await self.primary.ask("report")).split()[1]) > 0:
            await asyncio.sleep(0.01)
        last = int((await self.primary.ask("report")).split()[2])
        await self.primary.ask("well")
        return f"{(last - begun) / 1e6:.0f} ms"

    async def overload(self) -> str:
        """A backend that can do 200 a second is asked 2,000 times a second."""
        await self.primary.ask("capacity", 4, 20)
        found, good, sheds = await _overload(self.port, "/small", 2000.0, self.seconds / 3)
        await self.primary.ask("well")
        return f"{good:.0f} good/s of 200; p99 {found.ms(0.99):.0f} ms; shed with {', '.join(sorted(sheds))}"

    async def mirror_hangs(self) -> str:
        plain = await load(self.port, "/unmirrored", self.seconds / 3)
        await self.mirror.ask("hang")
        beside = await load(self.port, "/mirrored", self.seconds / 3)
        await self.mirror.ask("well")
        return f"{beside.ms(0.99):.1f} ms ({plain.ms(0.99):.1f} without); {beside.errors} errors"

    async def mirror_huge(self) -> str:
        plain = await self._cpu("/unmirrored")
        await self.mirror.ask("huge", 4 << 20)
        beside = await self._cpu("/mirrored")
        await self.mirror.ask("well")
        return f"x {beside / plain:.1f} ({plain:.0f} to {beside:.0f} µs)"

    async def _cpu(self, path: str) -> float:
        assert self.gateway.child is not None
        before = usage(self.gateway.child.session).cpu_us
        found = await load(self.port, path, self.seconds / 3, rate=200.0)
        return (usage(self.gateway.child.session).cpu_us - before) / found.sent

    async def growth(self) -> str:
        assert self.gateway.child is not None
        await load(self.port, "/unmirrored", 2.0, rate=2000.0)
        before = usage(self.gateway.child.session).rss
        sent = 0
        while sent < 60_000:
            sent += (await load(self.port, "/unmirrored", self.seconds / 3, rate=2000.0)).sent
        grown = usage(self.gateway.child.session).rss - before
        return f"{grown / 2**20:+.1f} MiB of {before / 2**20:.0f} after {sent} requests"


async def _get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET %b HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n" % path.encode())
    answer = await reader.read()
    writer.close()
    return answer


async def _overload(port: int, path: str, rate: float, seconds: float) -> tuple[Load, float, set[str]]:
    """The load of the answers that were good, how many of these came a second, and how the rest was shed."""
    sheds: set[str] = set()
    spent: list[int] = []
    good = 0

    async def client(number: int, moments_: Sequence[float], begun: float) -> None:
        nonlocal good
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for moment in moments_:
            await asyncio.sleep(max(0.0, begun + moment - time.monotonic()))
            writer.write(traffic.request(path, number=number))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            if head[9:12] == b"200":
                good += 1
                spent.append(int((time.monotonic() - begun - moment) * 1e9))
            else:
                retry = b"\r\nretry-after: " in head.lower()
                sheds.add(head[9:12].decode() + (" + Retry-After" if retry else ""))
        writer.close()

    clients = 500
    begun = time.monotonic() + 1.0
    gap = clients / rate
    await asyncio.gather(
        *(client(n, [n / rate + k * gap for k in range(int(seconds / gap))], begun) for n in range(clients))
    )
    return Load(len(spent), 0, spent or [0]), good / seconds, sheds


ROWS: dict[str, tuple[str, Callable[[Bench], Awaitable[str]]]] = {
    "turn": ("primary killed, hung, reset, 503, closed in turn, 400/s, fallback well", Bench.in_turn),
    "hung": ("primary hung alone, 400/s, fallback well", Bench.hung),
    "first": ("first request with fallback after: port closed / hang / 503 / reset, ms", Bench.first_request),
    "garbage": ("backend sends garbage", Bench.garbage),
    "cut": ("answer cut short: the client is told after", Bench.cut),
    "race": ("backend closes idle connections at the wrong moment", Bench.idle_race),
    "leave": ("200 clients leave: last backend told after", Bench.leavers),
    "overload": ("ten times overload", Bench.overload),
    "mirror": ("mirror hangs: primary p99", Bench.mirror_hangs),
    "huge": ("mirror answers 4 MiB: CPU per request", Bench.mirror_huge),
    "memory": ("60,000 requests: RSS growth", Bench.growth),
}


async def measure(directory: Path, names: Sequence[str], seconds: float) -> None:
    with ExitStack() as stack:
        bench = Bench(stack, directory, seconds=seconds)
        await load(bench.port, "/rescued", 2.0)  # what is usual must be known before anything can be unusual
        print("| what happens | Turnout |\n| --- | --- |")
        for name in names:
            title, row = ROWS[name]
            print(f"| {title} | {await row(bench)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of {', '.join(ROWS)}; all without")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="of the longest row (default: %(default)s)"
    )
    given = parser.parse_args()
    if unknown := {*given.rows} - {*ROWS}:
        parser.error(f"there is no row {', '.join(sorted(unknown))}; see --help")
    end_on_signals()
    with TemporaryDirectory(prefix="turnout-faults-") as directory:
        uvloop.run(measure(Path(directory), given.rows or list(ROWS), given.seconds))


if __name__ == "__main__":
    main()
