"""A canary over three real HAProxies under load: a hundred changes, a rollback on the whole fleet, and 300 routes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines.haproxy_node import NEEDS_HAPROXY, HaproxyNode
from tests.engines.node import EnvoyNode, Setup, wait_for
from tests.engines.test_bandit import read, true_to_their_epochs

pytestmark = [pytest.mark.slow, NEEDS_HAPROXY]

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {allocation: 200ms}
backends: {one: {url: "URL1"}, two: {url: "URL2"}}
engines: {edge: {type: haproxy, token: a-token-of-the-edge-engine}}
routes: ROUTES
"""
CANARY: dict[str, Any] = {
    "engine": "edge",
    "unit": {"header": "x-user-id"},
    "variants": {"v1": {"backend": "one"}, "v2": {"backend": "two"}},
    "policy": {
        "type": "canary",
        "baseline": "v1",
        "candidate": "v2",
        "stages": [{"weight": "20%", "for": "100h"}],
        "guardrails": [{"metric": "error_rate", "max_increase": "30%"}],
    },
}
CHANGES = 100
ROUTES = 300


def config(routes: int) -> str:
    """A canary on each of the paths ``/digits``, ``/digits1``, and so on."""
    made = {f"digits{n or ''}": {**CANARY, "match": {"path": f"/digits{n or ''}"}} for n in range(routes)}
    return CONFIG.replace("ROUTES", json.dumps(made))


@dataclass
class Client(threading.Thread):
    """Sends up to a hundred requests a second to one node until told to stop, a new user each time."""

    node: EnvoyNode
    stopped: threading.Event
    ids: list[str] = field(default_factory=list)
    candidate: list[float] = field(default_factory=list)
    """When requests that got the candidate were sent, in seconds since the epoch."""
    failures: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        with httpx.Client(base_url=self.node.url, timeout=60) as http:
            while not self.stopped.wait(0.01):
                try:
                    self._send(http)
                except (httpx.HTTPError, KeyError) as error:
                    self.failures.append(error)

    def _send(self, http: httpx.Client) -> None:
        sent = time.time()
        response = http.post("/digits", headers={"x-user-id": f"{self.node.name}-{len(self.ids)}"})
        self.ids.append(response.headers["x-decision-id"])
        if response.headers["x-variant"] == "v2":
            self.candidate.append(sent)
        elif response.status_code != 200:
            self.failures.append(response.status_code)


@pytest.fixture
def setup(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Setup]:
    routes, names = request.param
    made = Setup(tmp_path, config(routes), *names, make=HaproxyNode)
    yield made
    made.stop()


def set_share(setup: Setup, route: str, weight: float) -> None:
    change = {"action": "set", "weight": weight}
    response = httpx.post(f"{setup.gateway.url}/-/routes/{route}/rollout", json=change, timeout=60)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("setup", [(1, ("h1", "h2", "h3"))], indirect=True)
def test_a_hundred_changes_fail_no_request_and_a_rollback_reaches_the_whole_fleet(setup: Setup) -> None:
    stopped = threading.Event()
    clients = [Client(node, stopped) for node in setup.nodes]
    try:
        for node in setup.nodes:
            node.wait_serving("/digits")
        for client in clients:
            client.start()
        for n in range(CHANGES):
            set_share(setup, "digits", 0.1 + n % 40 / 100)
        wait_for(setup.accepted, "all nodes have the last share")
        setup.backends[1].status = 500
        wait_for(lambda: setup.report()["rollout"]["state"] == "rolled_back", "it is rolled back", 60)
        wait_for(setup.accepted, "all nodes have taken the rollback")
        everywhere = time.time()
        counts = [len(client.ids) for client in clients]
        wait_for(
            lambda: all(len(c.ids) > n + 20 for c, n in zip(clients, counts, strict=True)), "load goes on"
        )
    finally:
        stopped.set()
    for client in clients:
        client.join(60)
    assert [client.failures for client in clients] == [[], [], []]
    opened, history = asyncio.run(read(setup.gateway, [i for client in clients for i in client.ids]))
    assert len(history) > CHANGES
    true_to_their_epochs(opened, history)
    verdict, last = history[max(history)].time, max(sent for client in clients for sent in client.candidate)
    assert history[max(history)].probabilities["v2"] == 0.0
    assert last < everywhere, "no request after it reached the candidate"
    print(f"{len(opened)} requests; the candidate's last came {last - verdict:.3f} s after the verdict")


@pytest.mark.parametrize("setup", [(ROUTES, ("h1",))], indirect=True)
def test_one_node_serves_300_routes(setup: Setup) -> None:
    (node,) = setup.nodes
    assert isinstance(node, HaproxyNode)
    for n in (0, 1, ROUTES // 2, ROUTES - 1):
        route = f"digits{n or ''}"
        node.wait_serving(f"/{route}")
        worker = node.worker()
        set_share(setup, route, 1.0)
        wait_for(lambda route=route: setup.accepted(route), "the node has the share")
        answered = [httpx.post(f"{node.url}/{route}/infer").headers for _ in range(5)]
        assert {fields["x-variant"] for fields in answered} == {"v2"}
        assert node.worker() == worker, "a change of shares needs no reload"
    assert httpx.post(f"{node.url}/digits{ROUTES}").status_code == 404
