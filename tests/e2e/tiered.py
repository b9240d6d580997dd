"""Two models over HTTP, of which one is right more often for one kind of request and the other for another.

``POST /NAME`` with ``x-tier: free|paid`` and ``{"prompt": {"length": 0..1000}}`` is answered with whether the
answer was right, which the caller may report: the chance of it is `chance`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

_CHANCE = random.Random(11)
_LOCK = Lock()


def chance(model: str, tier: str, length: float) -> float:
    """``small`` is the better one but for long prompts of paid users."""
    if model == "large":
        return 0.45
    return {0: 0.2, 1: 0.6, 2: 0.9}[(tier == "free") + (length < 500)]


def best(tier: str, length: float) -> str:
    return "small" if chance("small", tier, length) > chance("large", tier, length) else "large"


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["content-length"])))
        length = content.get("prompt", {}).get("length", 0)
        likely = chance(self.path.strip("/"), self.headers.get("x-tier", "free"), length)
        with _LOCK:
            right = _CHANCE.random() < likely
        body = json.dumps({"right": right}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Nothing is printed."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


@contextmanager
def models() -> Iterator[str]:
    """The address of a running server."""
    server = _Server(("127.0.0.1", 0), Model)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
