"""A canary whose shares are weights of an HTTPRoute: gateway, API server, a controller with a real Envoy, and rows."""

from __future__ import annotations

import json
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
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 30%, for: 1h}]
      guardrails: [{metric: error_rate, max_increase: 30%}]
"""


class Setup:
    """A gateway, a cluster, and the Envoy of its controller."""

    def __init__(self, folder: Path) -> None:
        self.backends = Backend("one"), Backend("two")
        self.server = ApiServer()
        self.server.create(http_route())
        self.gateway = GatewayProcess(folder, CONFIG.replace("SERVER", self.server.url))
        services = {f"digits-v{number}": backend.url for number, backend in enumerate(self.backends, 1)}
        self.envoy = EnvoyGateway(folder, self.server, PLACE, services, (self.gateway.address, TOKEN))

    def weights(self) -> list[int]:
        return [ref["weight"] for ref in self.server.get(PLACE)["spec"]["rules"][0]["backendRefs"]]

    def get(self, path: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.gateway.url}{path}").json())

    def outcomes(self) -> list[dict[str, Any]]:
        return list(self.get("/-/outcomes?route=digits&limit=1000")["outcomes"])

    def stop(self) -> None:
        self.envoy.kill()
        self.gateway.stop()
        self.server.stop()
        for backend in self.backends:
            backend.stop()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.stop()


def test_a_canary_on_an_http_route(setup: Setup) -> None:
    wait_for(lambda: setup.weights() == [700_000, 300_000], "the stage's weights are written")
    wait_for(
        lambda: setup.get("/-/engines")["engines"][0]["nodes"][0]["state"] == "accepted", "they are accepted"
    )
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
        wait_for(
            lambda: setup.get("/-/engines")["engines"][0]["nodes"][0]["state"] == "accepted", "it is accepted"
        )
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
