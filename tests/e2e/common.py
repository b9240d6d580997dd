"""What the end-to-end tests share: a configuration, a replay of real digits with true rewards."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.message import Message
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np

from backends.reference import digits
from benchmarks.children import free_port
from tests.support.processes import GatewayProcess, ModelServerProcess

T = TypeVar("T")

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


class Caller(HTTPConnection):
    """A kept connection that posts JSON; for a request it computes a fourth of what httpx does."""

    def call(self, path: str, content: object, **fields: str) -> tuple[Message, Any]:
        """The fields and the JSON of the answer, which must be 200."""
        self.request("POST", path, json.dumps(content), {"content-type": "application/json", **fields})
        answer = self.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return answer.headers, json.loads(text)

    def reward(self, decision: str, metric: str, value: bool) -> None:
        what = {"decision_id": decision, "metric": metric, "value": value}
        assert self.call("/-/feedback", what)[1]["accepted"] == 1


async def at_once(url: str, work: Callable[[Caller, T], None], parts: Sequence[T]) -> None:
    """``work`` for each of ``parts``, with a thread and a connection each."""

    def one(part: T) -> None:
        with closing(Caller(urlsplit(url).netloc, timeout=60)) as caller:
            work(caller, part)

    with ThreadPoolExecutor(len(parts)) as threads:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(threads, one, part) for part in parts))


async def replay(
    url: str, data: digits.Digits, requests: int, *, clients: int = 8, allow_loss: bool = False
) -> dict[str, list[bool]]:
    """Sends images, reports whether each answer was right, and returns the acknowledged ones by variant."""
    acknowledged: dict[str, list[bool]] = {}
    rng = np.random.default_rng(7)
    order = rng.integers(0, len(data.labels), requests)

    def one(caller: Caller, places: np.ndarray) -> None:
        for place in places:
            try:
                fields, answer = caller.call("/v2/models/digits/infer", request_body(data.pixels[place]))
                outputs = {o["name"]: o["data"] for o in answer["outputs"]}
                right = int(outputs["label"][0]) == int(data.labels[place])
                caller.reward(fields["x-decision-id"], "correct", right)
            except (OSError, HTTPException):
                if allow_loss:
                    return
                raise
            acknowledged.setdefault(fields["x-variant"], []).append(right)

    await at_once(url, one, np.array_split(order, clients))
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
