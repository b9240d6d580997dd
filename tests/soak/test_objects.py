"""No request leaves an object behind: counted, because resident memory also grows as caches and arenas fill."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from benchmarks.faults import Backend
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.soak
REQUESTS = 2000
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics:
  correct: {type: boolean}
backends:
  a: {url: "http://127.0.0.1:@A@"}
  rpc: {url: "h2c://127.0.0.1:@RPC@"}
routes:
  rpc:
    match: {grpc: test.Echo}
    variants: {v1: {backend: rpc}, v2: {backend: rpc}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  plain:
    match: {path: /plain}
    unit: {header: x-user-id}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: bandit, metric: correct}
    shadows: {v2: 10%}
    fallback: [v2]
"""


class CountedGateway(GatewayProcess):
    module = "tests.soak.counted"

    def settled_blocks(self) -> int:
        """The least of some readings, once all outcomes are in the store: loops hold some for a moment."""
        end = time.monotonic() + 60
        while self._written("offered") != self._written("written") and time.monotonic() < end:
            time.sleep(0.1)
        found = []
        for _ in range(8):
            found.append(self.blocks())
            time.sleep(0.2)
        return min(found)

    def _written(self, event: str) -> str:
        text = httpx.get(f"{self.url}/-/metrics").text
        (count,) = re.findall(rf'turnout_record_events_total\{{event="{event}"\}} (\S+)', text)
        return str(count)

    def blocks(self) -> int:
        before = len(self._counts())
        self.process.send_signal(signal.SIGUSR2)
        end = time.monotonic() + 60
        while len(self._counts()) == before:
            assert time.monotonic() < end, self.log
            time.sleep(0.05)
        return self._counts()[-1]

    def _counts(self) -> list[int]:
        return [int(found) for found in re.findall(r"^blocks (\d+)$", self.log, re.MULTILINE)]


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)


@pytest.fixture
def gateway(tmp_path: Path, backends: list[Backend]) -> Iterator[CountedGateway]:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Echo(),))
    config = CONFIG.replace("@A@", str(backends[0].port))
    config = config.replace("@RPC@", str(server.add_insecure_port("127.0.0.1:0")))
    server.start()
    with CountedGateway(tmp_path, config) as found:
        yield found
    server.stop(None)


def post(client: httpx.Client, url: str, number: int) -> None:
    headers = {"x-user-id": f"user-{number % 50}"}
    assert client.post(f"{url}/plain", json={"x": number}, headers=headers).status_code == 200


def kept(gateway: CountedGateway, count: int) -> None:
    with httpx.Client() as client:
        for number in range(count):
            post(client, gateway.url, number)


def fresh(gateway: CountedGateway, count: int) -> None:
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        for number in range(count):
            post(client, gateway.url, number)


def http2(gateway: CountedGateway, count: int) -> None:
    with httpx.Client(http1=False, http2=True) as client:
        for number in range(count):
            post(client, gateway.url, number)


def rpc(gateway: CountedGateway, count: int) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        call = channel.unary_unary("/test.Echo/Unary")
        for number in range(count):
            assert call(b"%d" % number, timeout=30) == b"%d" % number


@pytest.mark.parametrize("send", [kept, fresh, http2, rpc])
def test_no_request_leaves_an_object_behind(
    gateway: CountedGateway, send: Callable[[CountedGateway, int], None]
) -> None:
    send(gateway, REQUESTS)  # caches and pools fill
    before = gateway.settled_blocks()
    send(gateway, REQUESTS)
    left = (gateway.settled_blocks() - before) / REQUESTS
    assert left <= 0.75, f"{left:.2f} blocks of memory for each request"
