"""A bandit over three nodes under load: responses are true to their epochs, and traffic moves to what earns more."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.ingest.sealing_keys import SEALING_KEYS
from gateway.record.decision_id import Opened, Sealer
from gateway.state.base import Published
from gateway.state.sqlite import SqliteStore
from tests.engines.haproxy_node import NEEDS_HAPROXY, HaproxyNode
from tests.engines.node import EnvoyNode, Setup, wait_for
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.slow

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {allocation: 300ms}
metrics: {good: {type: boolean, window: 1h}}
backends: {one: {url: "URL1"}, two: {url: "URL2"}}
engines: {edge: {type: TYPE, token: a-token-of-the-edge-engine}}
routes:
  digits:
    engine: edge
    match: {path: /digits}
    variants: {v1: {backend: one}, v2: {backend: two}}
    policy: {type: bandit, metric: good, floor: 5%, stop: null}
"""
NODES = 3
GOOD_RATE = {"v1": 0.5, "v2": 0.8}


@pytest.fixture(params=["envoy", pytest.param("haproxy", marks=NEEDS_HAPROXY)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def setup(tmp_path: Path, kind: str) -> Iterator[Setup]:
    make = EnvoyNode if kind == "envoy" else HaproxyNode
    made = Setup(tmp_path, CONFIG.replace("TYPE", kind), *(f"e{n}" for n in range(NODES)), make=make)
    yield made
    made.stop()


class Client(threading.Thread):
    """Sends requests to one node until told to stop, and reports a reward for each."""

    def __init__(self, node: EnvoyNode, gateway: GatewayProcess, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.node, self.gateway, self.stop = node, gateway, stop
        self.failures: list[object] = []
        self.ids: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=30) as http:
            while not self.stop.is_set():
                try:
                    self._send(http)
                except (httpx.HTTPError, KeyError) as error:
                    self.failures.append(error)

    def _send(self, http: httpx.Client) -> None:
        answered = [http.post(f"{self.node.url}/digits/infer") for _ in range(10)]
        self.failures += [response.status_code for response in answered if response.status_code != 200]
        items = []
        for response in answered:
            identity, variant = response.headers["x-decision-id"], response.headers["x-variant"]
            self.ids.append(identity)
            # A fixed part of each variant's responses is good: nothing is drawn, so the result does not depend on luck.
            good = len(self.ids) % 10 < GOOD_RATE[variant] * 10
            items.append({"decision_id": identity, "metric": "good", "value": good})
        report = http.post(f"{self.gateway.url}/-/feedback", json={"items": items}).json()
        self.failures += report["rejected"]


def test_traffic_moves_and_every_response_is_true_to_its_epoch(setup: Setup) -> None:
    stop = threading.Event()
    clients = [Client(node, setup.gateway, stop) for node in setup.nodes]
    try:
        for node in setup.nodes:
            node.wait_serving("/digits")
        for client in clients:
            client.start()
        wait_for(
            lambda: setup.report()["allocation"]["v2"] > 0.9, "the better version has most of the traffic", 60
        )
        epoch = setup.report()["epoch"]
        wait_for(
            lambda: all(n["epochs"]["digits"] >= epoch for n in setup.nodes_shown()), "all nodes have it"
        )
        counts = [len(client.ids) for client in clients]
        wait_for(
            lambda: all(len(c.ids) > n + 20 for c, n in zip(clients, counts, strict=True)), "load goes on"
        )
        stop.set()
        for client in clients:
            client.join(60)
            assert [client.failures for client in clients] == [[]] * NODES
        opened, history = asyncio.run(read(setup.gateway, [i for client in clients for i in client.ids]))
        assert len({one.epoch for one in opened}) > 1
        true_to_their_epochs(opened, history)
        wait_for(lambda: setup.recorded() >= len(opened), "every row is in the record")
    finally:
        stop.set()


async def read(gateway: GatewayProcess, ids: list[str]) -> tuple[list[Opened], dict[int, Published]]:
    store = SqliteStore(gateway.folder / "turnout.db")
    await store.open()
    try:
        sealer = Sealer(await store.secrets(SEALING_KEYS))
        history = await store.allocation_history("digits")
    finally:
        await store.close()
    return [sealer.open(text) for text in ids], {one.epoch: one for one in history}


def true_to_their_epochs(opened: list[Opened], history: dict[int, Published]) -> None:
    expected = variance = 0.0
    for one in opened:
        shares = history[one.epoch].probabilities
        assert one.propensity == pytest.approx(shares[one.assigned], abs=1e-8)
        assert one.served == one.assigned
        expected += shares["v2"]
        variance += shares["v2"] * (1 - shares["v2"])
    drawn = sum(one.assigned == "v2" for one in opened)
    assert abs(drawn - expected) < 4.5 * math.sqrt(variance), "assignments follow the recorded propensities"
