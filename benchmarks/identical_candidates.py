"""Identical candidates through a running gateway, side by side: how many are rolled back.

`python -m benchmarks.identical_candidates [--routes 100] [--requests 2200]` starts the gateway with one canary per
route, a share of 5 % and three guardrails: errors (1 % of the responses of either variant), the p99 of latency, and
a real metric that is 0 for 98 % of the requests and log-normal for the others. It sends the requests of all routes in
turn with their rewards, and prints how the rollouts stand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
from collections import Counter
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.children import end_on_signals, free_ports
from benchmarks.gateway_process import running

BUYERS: Final = 0.02
ERRORS: Final = 0.01
MEAN: Final = BUYERS * math.exp(3 + 0.8**2 / 2)
"""Mean revenue of a request."""
CONNECTIONS: Final = 8
SETTLE_S: Final = 15.0
"""Seconds that the gateway has for its last looks."""


def config(backend: int, routes: int) -> dict[str, object]:
    policy = {
        "type": "canary",
        "baseline": "old",
        "candidate": "new",
        "stages": [{"weight": "5%", "for": "7d"}],
        "guardrails": [
            {"metric": "error_rate", "max_increase": "0.5%"},
            {"metric": "latency_p99", "max_ratio": 1.5},
            {"metric": "revenue", "max_decrease": MEAN / 10},
        ],
    }
    variants = {"old": {"backend": "b"}, "new": {"backend": "b"}}
    return {
        "metrics": {"revenue": {"type": "real"}},
        "backends": {"b": {"url": f"http://127.0.0.1:{backend}"}},
        "routes": {
            f"r{n}": {"match": {"path": f"/r{n}"}, "variants": variants, "policy": policy}
            for n in range(routes)
        },
    }


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The backend of both variants."""
    rng = np.random.default_rng()
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            status = b"500 Internal Server Error" if rng.random() < ERRORS else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\n{}")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def send(port: int, paths: list[str], decisions: list[str]) -> None:
    """Sends the requests one after the other, and notes the id of each decision."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for path in paths:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        marker = head.lower().index("x-decision-id: ") + len("x-decision-id: ")
        decisions.append(head[marker:].split("\r\n", 1)[0])
    writer.close()


async def reward(client: httpx.AsyncClient, decisions: list[str], rng: np.random.Generator) -> None:
    bought = rng.random(len(decisions)) < BUYERS
    values = np.where(bought, rng.lognormal(3, 0.8, len(decisions)), 0.0).tolist()
    items = [
        {"decision_id": d, "metric": "revenue", "value": v} for d, v in zip(decisions, values, strict=True)
    ]
    for start in range(0, len(items), 500):
        (await client.post("/-/feedback", json={"items": items[start : start + 500]})).raise_for_status()


async def drive(port: int, routes: int, requests: int, seed: int) -> list[dict[str, Any]]:
    """The routes after all requests; each round sends 20 to each route."""
    rng = np.random.default_rng(seed)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(math.ceil(requests / 20)):
            paths = [f"/r{n}" for n in range(routes)] * 20
            decisions: list[str] = []
            await asyncio.gather(*(send(port, paths[k::CONNECTIONS], decisions) for k in range(CONNECTIONS)))
            await reward(client, decisions, rng)
        await asyncio.sleep(SETTLE_S)
        found = (await client.get("/-/routes")).raise_for_status().json()["routes"]
        return list(found)


async def measured(routes: int, requests: int, seed: int) -> list[dict[str, Any]]:
    (port, backend) = free_ports(2)
    server = await asyncio.start_server(serve, "127.0.0.1", backend)
    with running(port, config(backend, routes), sorted(os.sched_getaffinity(0))):
        found = await drive(port, routes, requests, seed)
    server.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=100)
    parser.add_argument("--requests", type=int, default=2_200, help="of each route")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    end_on_signals()
    found = asyncio.run(measured(given.routes, given.requests, given.seed))
    states = Counter(route["rollout"]["state"] for route in found)
    print(f"{given.routes} identical candidates, {given.requests} requests each: {json.dumps(states)}")
    for route in found:
        if route["rollout"]["state"] != "running":
            print(f"{route['route']}: {json.dumps(route['rollout'].get('decided'))[:300]}")


if __name__ == "__main__":
    main()
