"""Two models over HTTP, of which one is right more often for one kind of request and the other for another.

``POST /NAME`` with ``x-tier: free|paid`` and ``{"prompt": {"length": 0..1000}}`` is answered with whether the
answer was right, which the caller may report: the chance of it is `chance`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from tests.support.http_server import Handler, HttpServer

_CHANCE = random.Random(11)
_LOCK = Lock()


def chance(model: str, tier: str, length: float) -> float:
    """``small`` is the better one but for long prompts of paid users."""
    if model == "large":
        return 0.45
    return {0: 0.2, 1: 0.6, 2: 0.9}[(tier == "free") + (length < 500)]


def best(tier: str, length: float) -> str:
    return "small" if chance("small", tier, length) > chance("large", tier, length) else "large"


class Model(Handler):
    def do_POST(self) -> None:
        content = json.loads(self.content())
        length = content.get("prompt", {}).get("length", 0)
        likely = chance(self.path.strip("/"), self.headers.get("x-tier", "free"), length)
        with _LOCK:
            right = _CHANCE.random() < likely
        self.respond({"right": right})


@contextmanager
def models() -> Iterator[str]:
    """The address of a running server."""
    with HttpServer(Model) as server:
        yield server.address
