"""A canary whose shares are weights of an HTTPRoute: gateway, API server, a controller with a real Envoy, and rows."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.engines.kubernetes.http_route import PARTS
from tests.engines.cluster import PLACE, http_route
from tests.engines.envoy_gateway import EnvoyGateway
from tests.engines.node import Backend, wait_for
from tests.support.api_server import ApiServer
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-the-collector"
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {allocation: 200ms}
record: {request_ids: true, flush: 100ms}
metrics: {correct: {type: boolean}}
engines:
  cluster: {type: kubernetes, token: a-token-of-the-collector, namespace: prod, server: "SERVER", settle: 300ms}
routes:
  digits:
    engine: cluster
    variants: {v1: {}, v2: {}}
    policy: POLICY
"""
CANARY = """
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 30%, for: 1h}]
      guardrails: [{metric: error_rate, max_increase: 30%}]
"""
BANDIT = "{type: bandit, metric: correct, floor: 5%, stop: null}"
GOOD = {"v1": 0.3, "v2": 0.8}
"""The part of each variant's responses that is rewarded."""


class Setup:
    """A gateway, a cluster, and the Envoy of its controller."""

    def __init__(self, folder: Path, policy: str) -> None:
        self.backends = Backend("one"), Backend("two")
        self.server = ApiServer()
        self.server.create(http_route())
        self.config = CONFIG.replace("SERVER", self.server.url).replace("POLICY", policy)
        self.gateway = GatewayProcess(folder, self.config)
        services = {f"digits-v{number}": backend.url for number, backend in enumerate(self.backends, 1)}
        self.envoy = EnvoyGateway(folder, self.server, PLACE, services, (self.gateway.address, TOKEN))
        wait_for(self._listens, f"the Envoy listens: {self.envoy.log_path}")

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.envoy.port)) == 0

    def weights(self) -> list[int]:
        return [ref["weight"] for ref in self.server.get(PLACE)["spec"]["rules"][0]["backendRefs"]]

    def get(self, path: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.gateway.url}{path}").json())

    def outcomes(self) -> list[dict[str, Any]]:
        return list(self.get("/-/outcomes?route=digits&limit=1000")["outcomes"])

    def state(self) -> str:
        return str(self.get("/-/engines")["engines"][0]["nodes"][0]["state"])

    def stop(self) -> None:
        self.envoy.kill()
        self.gateway.stop()
        self.server.stop()
        for backend in self.backends:
            backend.stop()


@pytest.fixture
def setup(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Setup]:
    made = Setup(tmp_path, getattr(request, "param", CANARY))
    yield made
    made.stop()


def test_a_canary_on_an_http_route(setup: Setup) -> None:
    wait_for(lambda: setup.weights() == [700_000, 300_000], "the stage's weights are written")
    wait_for(lambda: setup.state() == "accepted", "they are accepted")
    assert wait_for(lambda: setup.get("/-/routes/digits")["rollout"]["waits"] is None, "the stage has begun")

    def ask(client: httpx.Client, number: int) -> str:
        # A client that names a variant does not get it, nor does it lie to the record.
        fields = {"x-request-id": f"request-{number}", "x-turnout-variant": "v2"}
        response = client.post("/digits", headers=fields)
        return f"v{1 + (response.json()['variant'] == 'two')}"

    with httpx.Client(base_url=setup.envoy.url, timeout=60) as client:
        served: dict[str, str] = {}

        def serve(number: int) -> bool:
            served[f"request-{number}"] = ask(client, number)
            return any(not found["forced"] for found in setup.outcomes())

        numbers = iter(range(10**6))
        wait_for(lambda: serve(next(numbers)), "weights have settled")
        for _ in range(100):
            serve(next(numbers))
        rows = wait_for(
            lambda: len(rows := setup.outcomes()) >= min(1000, len(served)) and rows, "all rows are recorded"
        )
        found = {row["request_id"]: row for row in rows}
        counted = {name: row for name, row in found.items() if not row["forced"]}
        assert len(counted) >= 100
        for name, row in found.items():
            assert (row["assigned"], row["served"], row["status"]) == (served[name], served[name], 200)
        assert {(row["assigned"], row["propensity"]) for row in counted.values()} == {
            ("v1", 0.7),
            ("v2", 0.3),
        }
        assert {row["epoch"] for row in counted.values()} == {setup.get("/-/routes/digits")["epoch"]}

        (node,) = setup.get("/-/engines")["engines"][0]["nodes"]
        assert node["rows"] >= len(found)
        item = {"route": "digits", "request_id": next(iter(counted)), "metric": "correct", "value": True}
        response = httpx.post(f"{setup.gateway.url}/-/feedback", json={"items": [item]})
        assert response.json()["accepted"] == 1, response.text

        setup.backends[1].status = 500
        wait_for(
            lambda: bool(ask_once(client)) and setup.weights() == [PARTS, 0],
            "the candidate is rolled back",
            60,
        )
        wait_for(lambda: setup.state() == "accepted", "it is accepted")
    setup.server.allowed = {"get"}
    command = [sys.executable, "-m", "gateway.cli", "status", "--url", setup.gateway.url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cluster: kubernetes, nodes: 1 accepted" in shown
    assert "rolled_back" in shown
    assert json.loads(setup.server.get(PLACE)["metadata"]["annotations"]["turnout/applied"])["weights"] == {
        "0": {"v1": PARTS, "v2": 0}
    }


def ask_once(client: httpx.Client) -> bool:
    return client.post("/digits").status_code > 0


@pytest.mark.parametrize("setup", [BANDIT], indirect=True)
def test_a_bandit_on_an_http_route(setup: Setup) -> None:
    wait_for(lambda: setup.state() == "accepted", "the first weights are accepted")
    sent = dict.fromkeys(GOOD, 0)
    with httpx.Client(base_url=setup.envoy.url, timeout=60) as client:

        def learn() -> bool:
            items = []
            for _ in range(20):
                name = f"request-{sum(sent.values())}"
                variant = f"v{1 + (client.post('/digits', headers={'x-request-id': name}).json()['variant'] == 'two')}"
                sent[variant] += 1
                # A fixed part of each variant's responses is good: the result does not depend on luck.
                good = sent[variant] % 10 < GOOD[variant] * 10
                items.append({"route": "digits", "request_id": name, "metric": "correct", "value": good})

            def reported() -> bool:
                nonlocal items
                found = httpx.post(
                    f"{setup.gateway.url}/-/feedback", json={"items": items}, timeout=60
                ).json()
                assert {problem["code"] for problem in found["rejected"]} <= {"unknown_request"}
                items = [items[problem["index"]] for problem in found["rejected"]]
                return not items

            wait_for(reported, "all rows have arrived, and all rewards are accepted")
            epochs = {row["epoch"] for row in setup.outcomes() if not row["forced"]}
            return setup.weights()[1] > 800_000 and len(epochs) > 1

        wait_for(learn, "the better version has most of the traffic", 120)
    rows = [row for row in setup.outcomes() if not row["forced"]]
    expected = sum(row["propensity"] if row["assigned"] == "v2" else 1 - row["propensity"] for row in rows)
    variance = sum(row["propensity"] * (1 - row["propensity"]) for row in rows)
    assigned = sum(row["assigned"] == "v2" for row in rows)
    assert abs(assigned - expected) < 4.5 * math.sqrt(variance), (
        "assignments follow the recorded propensities"
    )


def test_another_replica_writes_once_the_leader_is_gone(setup: Setup, tmp_path: Path) -> None:
    wait_for(lambda: setup.weights() == [700_000, 300_000], "the leader has written")
    (tmp_path / "second").mkdir()
    second = GatewayProcess(tmp_path / "second", setup.config.replace("@DIR@", str(setup.gateway.folder)))
    try:
        calls = len(setup.server.calls)
        setup.gateway.crash()
        change = {"action": "set", "weight": 0.4}
        response = httpx.post(f"{second.url}/-/routes/digits/rollout", json=change, timeout=60)
        assert response.status_code == 200, response.text
        wait_for(lambda: setup.weights() == [600_000, 400_000], "the second one writes", 60)
        patches = [call for call in setup.server.calls[calls:] if call[0].lower() == "patch"]
        assert len(patches) == 1, "no other change was written meanwhile"
    finally:
        second.stop()
