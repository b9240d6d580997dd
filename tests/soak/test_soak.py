"""Long runs: flat memory, thousands of idle and slow connections, backends that die and come back.

In CI they are short; `make soak` runs the full lengths: a million requests, 5,000 connections, ten minutes.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvloop

from benchmarks import traffic
from benchmarks.faults import Backend, load
from tests.soak.load import ClosedLoop, resident, scale
from tests.support.processes import GatewayProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
limits: {idle_timeout: 1h, header_timeout: 1h, body_timeout: 1h, body_min_rate: 0B/s, connections: 20000}
metrics:
  correct: {type: boolean}
backends:
  a: {url: "http://127.0.0.1:@A@"}
  pair: {urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"], health: {path: /ready, every: 500ms}}
  spare: {url: "http://127.0.0.1:@C@"}
routes:
  plain:
    match: {path: /plain}
    unit: {header: x-user-id}
    variants: {v1: {backend: a}, v2: {backend: spare}}
    policy: {type: bandit, metric: correct}
  rescued:
    match: {path: /rescued}
    variants: {v1: {backend: pair}, v2: {backend: spare}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    timeouts: {connect: 500ms, first_byte: 1s, total: 10s}
"""

pytestmark = [pytest.mark.soak, pytest.mark.alone, pytest.mark.timeout(1800)]


@pytest.fixture
def gateway(tmp_path: Path, backends: list[Backend]) -> Iterator[GatewayProcess]:
    text = CONFIG
    for name, backend in zip("ABC", backends, strict=True):
        text = text.replace(f"@{name}@", str(backend.port))
    folder = tmp_path / "gateway"
    folder.mkdir()
    with GatewayProcess(folder, text) as found:
        yield found


def test_memory_is_flat(gateway: GatewayProcess) -> None:
    """A million requests, with the record, the allocation loop and aggregates at work all the while."""
    count = scale(60_000, 1_000_000)
    loop = ClosedLoop(gateway.port, traffic.requests("/plain"), 32)
    warm = max(20_000, count // 20)
    uvloop.run(loop.run(warm))
    before = resident(gateway.process.pid)
    begun = time.monotonic()
    uvloop.run(loop.run(count))
    grown = resident(gateway.process.pid) - before
    rate = count / (time.monotonic() - begun)
    print(f"\n{count} requests, {rate:.0f}/s: {before / 2**20:.1f} MiB, grown by {grown / 2**20:+.1f} MiB")
    assert loop.errors == 0
    assert grown < 16 * 2**20
    # Nothing was lost on the way to the record.
    figures = _metrics(gateway)
    assert figures['turnout_record_events_total{event="offered"}'] == warm + count
    assert figures.get('turnout_record_events_total{event="dropped"}', 0) == 0


def _metrics(gateway: GatewayProcess) -> dict[str, float]:
    lines = httpx.get(f"{gateway.url}/-/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if x[:1] != "#")}


def test_thousands_of_idle_and_slow_connections(gateway: GatewayProcess) -> None:
    """5,000 that rest, 500 with half a head, 100 with half a body; the rest is served as if they were not there."""
    idle, heads, bodies = scale(2000, 5000), scale(200, 500), scale(50, 100)

    async def run() -> tuple[float, float, int]:
        quiet = ClosedLoop(gateway.port, traffic.requests("/plain"), 8)
        await quiet.run(scale(2000, 20_000))
        alone = sorted(quiet.spent)[int(len(quiet.spent) * 0.99)]
        held: list[asyncio.StreamWriter] = []
        for number in range(idle + heads + bodies):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            if number >= idle + heads:
                writer.write(traffic.request("/plain")[:-100])
            elif number >= idle:
                writer.write(b"POST /plain HTTP/1.1\r\nhost: t\r\nx-slow: ")
            held.append(writer)
        slow = asyncio.ensure_future(_trickle(held[idle:]))
        await quiet.run(scale(2000, 20_000))
        beside = sorted(quiet.spent)[int(len(quiet.spent) * 0.99)]
        slow.cancel()
        open_now = _metrics_open(gateway)
        for writer in held:
            writer.close()
        assert quiet.errors == 0
        return alone, beside, open_now

    before = resident(gateway.process.pid)
    alone, beside, open_now = uvloop.run(run())
    each = (resident(gateway.process.pid) - before) / (idle + heads + bodies)
    print(
        f"\np99 {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} ms beside {open_now}; {each / 1024:.1f} KiB each"
    )
    assert open_now >= idle + heads + bodies
    assert each < 32 * 1024


async def _trickle(writers: list[asyncio.StreamWriter]) -> None:
    while True:
        for writer in writers:
            writer.write(b"x")
        await asyncio.sleep(1.0)


def _metrics_open(gateway: GatewayProcess) -> int:
    return int(_metrics(gateway)["turnout_client_connections"])


def test_backends_die_and_come_back(gateway: GatewayProcess, backends: list[Backend]) -> None:
    """Killed, hung, resetting, overloaded, gone, at random, both at once too: with a fallback nobody sees it."""
    seconds = scale(15, 600)
    chance = random.Random(5)
    pair = backends[:2]

    async def harm() -> None:
        while True:
            backend = chance.choice(pair)
            kind = chance.choice(["kill", "hang", "reset", "503", "closed", "garbage"])
            spell = chance.uniform(0.3, 2.0)
            if kind == "kill":
                backend.signal(signal.SIGKILL)
                await asyncio.sleep(spell)
                await backend.restart()
            elif kind == "hang":
                backend.signal(signal.SIGSTOP)
                await asyncio.sleep(spell)
                backend.signal(signal.SIGCONT)
            else:
                await backend.ask(kind)
                await asyncio.sleep(spell)
                await backend.ask("well")
            await asyncio.sleep(chance.uniform(0.1, 1.0))

    async def run() -> str:
        harming = asyncio.ensure_future(harm())
        found = await load(gateway.port, "/rescued", seconds, rate=200.0)
        if harming.done():
            harming.result()
        harming.cancel()
        for backend in pair:
            backend.signal(signal.SIGCONT)
        assert found.errors == 0, f"{found.errors} of {found.sent} went wrong"
        return f"{found.sent} requests, p99 {found.ms(0.99):.0f} ms, longest {found.longest_ms:.0f} ms"

    print("\n" + uvloop.run(run()))
    report = httpx.get(f"{gateway.url}/-/routes/rescued").json()["variants"]
    assert report["v1"]["assigned"] == report["v1"]["served"] + report["v1"]["fallbacks"]
    assert report["v1"]["fallbacks"] > 0
