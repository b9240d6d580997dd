"""What a fleet costs the gateway: its CPU at rest, and its CPU and the delay when shares change once a second.

Run it as ``python -m benchmarks.fleet [ROUTES [NODES [CHANGES]]]``; without nodes, the routes have no engine. Nodes are
simulated: each polls clusters and routes as Envoy does, with a description of itself of Envoy's size.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from contextlib import suppress
from time import perf_counter

import httpx

from benchmarks.children import Child, free_port
from benchmarks.gateway_process import running, share
from benchmarks.machine import cores
from benchmarks.usage import usage

TOKEN = "a-token-of-the-edge-engine"
NODE_BYTES = 77_000
SETTLE_S, REST_S = 10.0, 30.0
CANARY = {
    "type": "canary",
    "baseline": "v1",
    "candidate": "v2",
    "stages": [{"weight": "10%", "for": "100h"}],
    "guardrails": [{"metric": "error_rate", "max_increase": "30%"}],
}


def main() -> None:
    routes, nodes, changes = (int(word) for word in [*sys.argv[1:], "300", "50", "20"][:3])
    port = free_port()
    with running(port, _document(routes, engine=nodes > 0), cores().proxy) as child:
        print(json.dumps(asyncio.run(_measured(child, port, routes, nodes, changes))))


def _document(routes: int, *, engine: bool) -> dict[str, object]:
    served = {"engine": "edge"} if engine else {}
    return {
        "backends": {name: {"url": f"http://127.0.0.1:{n}"} for n, name in enumerate("ab", 9001)},
        "engines": {"edge": {"type": "envoy", "token": TOKEN}} if engine else {},
        "routes": {
            f"r{n}": {
                "match": {"path": f"/r{n}"},
                "unit": {"header": "x-user-id"},
                "variants": {"v1": {"backend": "a"}, "v2": {"backend": "b"}},
                "policy": CANARY,
                **served,
            }
            for n in range(routes)
        },
    }


async def _measured(child: Child, port: int, routes: int, nodes: int, changes: int) -> dict[str, object]:
    fleet = [Node(port, f"edge-{n}") for n in range(nodes)]
    tasks = [asyncio.create_task(node.follow(kind)) for node in fleet for kind in ("clusters", "routes")]
    await asyncio.sleep(SETTLE_S)
    figures: dict[str, object] = {"routes": routes, "nodes": nodes, "rest": await share(child, REST_S)}
    if fleet:
        figures["table_bytes"] = fleet[0].size
        began, before, delays = perf_counter(), usage(child.session).cpu_us, []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/-/routes", timeout=60) as client:
            for n in range(changes):
                delays.append(await _change(client, f"r{n % routes}", 0.11 + n / 1000, fleet))
        spent = usage(child.session).cpu_us - before
        figures["changing"] = spent / 1e6 / (perf_counter() - began)
        figures |= {"delay_median_s": statistics.median(delays), "delay_max_s": max(delays)}
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return figures


async def _change(client: httpx.AsyncClient, route: str, weight: float, fleet: list[Node]) -> float:
    """Seconds until every node has fetched a new share; returns a second after it began, or later."""
    began, old = perf_counter(), {node.version["routes"] for node in fleet}
    response = await client.post(f"/{route}/rollout", json={"action": "set", "weight": weight})
    response.raise_for_status()
    while any(node.version["routes"] in old for node in fleet):
        await asyncio.sleep(0.002)
    delay = perf_counter() - began
    await asyncio.sleep(max(0.0, 1.0 - delay))
    return delay


class Node:
    """Polls as an Envoy does."""

    def __init__(self, port: int, name: str) -> None:
        self._port = port
        self._node = {"id": name, "cluster": "edge", "extensions": "x" * NODE_BYTES}
        self.version = {"clusters": "", "routes": ""}
        self.size = 0
        """Bytes of the last response with routes."""

    async def follow(self, kind: str) -> None:
        """Fetch one kind of resource until cancelled."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            body = json.dumps({"node": self._node, "version_info": self.version[kind]}).encode()
            fields = f"host: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json"
            head = f"POST /v3/discovery:{kind} HTTP/1.1\r\n{fields}\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            response = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert response.startswith("http/1.1 200"), response
            length = int(response.partition("content-length: ")[2].partition("\r\n")[0])
            found = await reader.readexactly(length)
            self.version[kind] = json.loads(found[: found.index(b",")] + b"}")["version_info"]
            self.size = length if kind == "routes" else self.size
            await asyncio.sleep(0.05)  # Envoy's `refresh_delay`


if __name__ == "__main__":
    main()
