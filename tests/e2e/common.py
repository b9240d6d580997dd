"""What the end-to-end tests share: a configuration, a replay of real digits with true rewards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from backends.reference import digits
from benchmarks.children import free_port
from tests.support.processes import GatewayProcess, ModelServerProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics:
  correct: {type: boolean}
backends:
  digits: {url: "http://@BACKEND@", ejection: {silence: 0s}} # a busy machine is silent too
  dead: {url: "http://127.0.0.1:@DEAD@"}
routes:
  digits:
    match: {path: /v2/models/digits}
    variants:
      v1: {backend: digits, rewrite: {path: /v2/models/digits/versions/1}}
      v2: {backend: digits, rewrite: {path: /v2/models/digits/versions/2}}
      v3: {backend: digits, rewrite: {path: /v2/models/digits/versions/3}}
    policy: {type: bandit, metric: correct, floor: 1%}
    fallback: [v1]
  dead:
    match: {path: /dead}
    variants: {v1: {backend: dead}}
    policy: {type: single, variant: v1}
  rescued:
    match: {path: /v2/models/rescued}
    variants:
      new: {backend: dead}
      old: {backend: digits, rewrite: {path: /v2/models/digits}}
    policy: {type: single, variant: new}
    fallback: [old]
  fixed:
    match: {path: /fixed}
    variants: {v1: {backend: dead}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {status: 200, json: {label: unknown}}}]
"""


def config(server: ModelServerProcess) -> str:
    return CONFIG.replace("@BACKEND@", server.address).replace("@DEAD@", str(free_port()))


def request_body(row: np.ndarray) -> dict[str, Any]:
    return {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": row.tolist()}]}


async def replay(
    url: str, data: digits.Digits, requests: int, *, clients: int = 8, allow_loss: bool = False
) -> dict[str, list[bool]]:
    """Sends images, reports whether each answer was right, and returns the acknowledged ones by variant."""
    acknowledged: dict[str, list[bool]] = {}
    rng = np.random.default_rng(7)
    order = rng.integers(0, len(data.labels), requests)

    async def one(client: httpx.AsyncClient, places: np.ndarray) -> None:
        for place in places:
            try:
                answer = await client.post("/v2/models/digits/infer", json=request_body(data.pixels[place]))
                assert answer.status_code == 200, answer.text
                outputs = {o["name"]: o["data"] for o in answer.json()["outputs"]}
                right = int(outputs["label"][0]) == int(data.labels[place])
                reported = await client.post(
                    "/-/feedback",
                    json={
                        "decision_id": answer.headers["x-decision-id"],
                        "metric": "correct",
                        "value": right,
                    },
                )
            except httpx.TransportError:
                if allow_loss:
                    return
                raise
            assert reported.status_code == 200, reported.text
            assert reported.json()["accepted"] == 1
            acknowledged.setdefault(answer.headers["x-variant"], []).append(right)

    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        await asyncio.gather(*(one(client, part) for part in np.array_split(order, clients)))
    return acknowledged


def report(gateway: GatewayProcess, route: str = "digits") -> dict[str, Any]:
    """The report of a route; of a canary once its rollout has begun, which the first step of a loop does."""
    end = time.monotonic() + 60
    while True:
        found: dict[str, Any] = httpx.get(f"{gateway.url}/-/routes/{route}").json()
        if found.get("policy") != "canary" or found["rollout"] is not None or time.monotonic() > end:
            return found
        time.sleep(0.05)


def wait_for(condition: Any, limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.1)


def stays(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds for that long: of several workers one may learn late, and tell what it knew before."""
    end = time.monotonic() + seconds
    while condition():
        if time.monotonic() > end:
            return True
        time.sleep(0.05)
    return False
