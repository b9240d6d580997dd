"""What open pages of the dashboard cost the gateway: parts of a core, calls and bytes, with traffic on 20 routes.

Run it as ``python -m benchmarks.open_pages [SECONDS [ROUNDS]]``. A page is simulated by what it asks of the gateway:
its stream, and on "Over time" the tail of the series. Windows with pages alternate with windows without any, and the
difference to the two around it is what is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Final

import httpx

from benchmarks.children import Child, free_port
from benchmarks.gateway_process import running, share
from benchmarks.machine import cores
from benchmarks.servers import plain

RATE: Final = 30.0
"""Requests per second over all routes; two of three get a reward."""
WARM_UP_S, SETTLE_S = 20.0, 12.0
SERIES_S: Final = 15.0
"""Seconds between two reads of the tail of the series."""
CASES: Final = {
    "overview": ["routes"],
    "bandit": ["route:bandit-0"],
    "sticky canary": ["route:sticky-0"],
    "five overviews": ["routes"] * 5,
    "five of a bandit": ["route:bandit-0"] * 5,
    "five different": ["routes", "route:bandit-0", "route:sticky-0", "route:shadow-0", "series:bandit-0"],
}
GUARDRAILS: Final = [
    {"metric": "error_rate", "max_increase": "5%"},
    {"metric": "latency_p99", "max_ratio": 4},
    {"metric": "correct", "max_decrease": "5%"},
]
CANARY: Final = {
    "type": "canary",
    "baseline": "v1",
    "candidate": "v2",
    "stages": [{"weight": "20%", "for": "100h"}],
    "guardrails": GUARDRAILS,
}
SHADOW: Final = {"type": "shadow", "primary": "v1", "shadows": {"v2": "100%"}}
KINDS: Final[dict[str, tuple[int, dict[str, object]]]] = {
    "bandit": (5, {"policy": {"type": "bandit", "metric": "correct", "floor": "3%"}}),
    "sticky": (5, {"policy": CANARY, "unit": {"header": "x-user-id"}}),
    "canary": (5, {"policy": CANARY}),
    "shadow": (3, {"policy": SHADOW, "comparison": {"type": "json"}}),
    "split": (2, {"policy": {"type": "split", "weights": {"v1": 1, "v2": 1}}}),
}
"""Kind of route → how many there are, and its section."""
ROUTES: Final = {f"{kind}-{n}": section for kind, (count, section) in KINDS.items() for n in range(count)}


@dataclass
class Seen:
    """What open pages got."""

    calls: int = 0
    bytes: int = 0
    updates: int = 0

    def add(self, other: Seen) -> None:
        self.calls += other.calls
        self.bytes += other.bytes
        self.updates += other.updates


def main() -> None:
    seconds, rounds = (float(word) for word in (*sys.argv[1:], *("60", "2")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        backend, ports = plain.start(Path(folder), cores().backend)
        port = free_port()
        with backend, running(port, _document(ports), cores().proxy) as gateway:
            print(json.dumps(asyncio.run(_measured(gateway, port, seconds, int(rounds))), indent=1))


def _document(backends: Sequence[int]) -> dict[str, object]:
    variants = {"v1": {"backend": "a"}, "v2": {"backend": "b"}}
    return {
        "metrics": {"correct": {"type": "boolean", "window": "1h"}},
        "backends": {name: {"url": f"http://127.0.0.1:{n}"} for name, n in zip("ab", backends, strict=True)},
        "routes": {
            name: {"match": {"path": f"/{name}"}, "variants": variants, **section}
            for name, section in ROUTES.items()
        },
    }


async def _measured(gateway: Child, port: int, seconds: float, rounds: int) -> dict[str, object]:
    base = f"http://127.0.0.1:{port}"
    alone: list[float] = []
    costs: dict[str, list[float]] = {case: [] for case in CASES}
    seen = {case: Seen() for case in CASES}
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        traffic = asyncio.create_task(_traffic(client))
        await asyncio.sleep(WARM_UP_S)
        before = await share(gateway, seconds)
        for _ in range(rounds):
            for case, pages in CASES.items():
                async with _open(base, pages) as got:
                    await asyncio.sleep(SETTLE_S)
                    got.calls = got.bytes = got.updates = 0
                    watched = await share(gateway, seconds)
                    seen[case].add(got)
                if traffic.done():
                    traffic.result()  # raises what ended it
                await asyncio.sleep(SETTLE_S)
                after = await share(gateway, seconds)
                alone.append(after)
                costs[case].append(watched - (before + after) / 2)
                before = after
        traffic.cancel()
        await asyncio.gather(traffic, return_exceptions=True)
    measured = seconds * rounds
    cases = {
        case: {
            "percent_of_a_core": _percent(costs[case]),
            "calls_per_s": seen[case].calls / measured,
            "kB_per_s": seen[case].bytes / measured / 1e3,
            "updates_per_s": seen[case].updates / measured,
        }
        for case in CASES
    }
    return {"load": os.getloadavg()[0], "alone": _percent(alone), "cases": cases}


def _percent(shares: list[float]) -> dict[str, float]:
    found = {"mean": statistics.mean(shares), "min": min(shares), "max": max(shares)}
    return {name: round(100 * value, 2) for name, value in found.items()}


async def _traffic(client: httpx.AsyncClient) -> None:
    chance, names = random.Random(1), list(ROUTES)

    async def send() -> None:
        headers = {"x-user-id": f"user-{chance.randrange(2000)}"}
        response = await client.post(f"/{chance.choice(names)}", json={"x": 1}, headers=headers)
        if chance.random() < 2 / 3:
            correct = chance.random() < (0.9 if response.headers["x-variant"] == "v1" else 0.92)
            reward = {"decision_id": response.headers["x-decision-id"], "metric": "correct", "value": correct}
            await client.post("/-/feedback", json=reward)

    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(send())
            await asyncio.sleep(chance.expovariate(RATE))


@contextlib.asynccontextmanager
async def _open(base: str, pages: Sequence[str]) -> AsyncIterator[Seen]:
    """Pages that watch: each has a client, and so connections, of its own."""
    seen = Seen()
    tasks = [asyncio.create_task(_page(base, page, seen)) for page in pages]
    try:
        yield seen
        for task in tasks:
            if task.done():
                task.result()  # raises what ended it
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _page(base: str, page: str, seen: Seen) -> None:
    kind, _, route = page.partition(":")
    watched = f"view=route:{route}&route={route}" if route else "view=routes&allocations=false"
    async with httpx.AsyncClient(base_url=f"{base}/-", timeout=60) as client, asyncio.TaskGroup() as group:
        group.create_task(_stream(client, f"/events?{watched}", seen))
        if kind == "series":
            group.create_task(_series(client, route, seen))


async def _stream(client: httpx.AsyncClient, path: str, seen: Seen) -> None:
    seen.calls += 1
    async with client.stream("GET", path, timeout=None) as response:
        response.raise_for_status()
        async for piece in response.aiter_bytes():
            seen.bytes += len(piece)
            seen.updates += piece.count(b"event: view")


async def _series(client: httpx.AsyncClient, route: str, seen: Seen) -> None:
    after = ""
    while True:
        now = time()
        address = f"/routes/{route}/series?since={now - 900}&until={now}&step=10{after}"
        response = (await client.get(address)).raise_for_status()
        seen.calls += 1
        seen.bytes += int(response.headers["content-length"])
        after = f"&after={response.json()['buckets'][-1]['start']}"
        await asyncio.sleep(SERIES_S)


if __name__ == "__main__":
    main()
