"""Rewards that name a request by its id, against a running gateway."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess, ModelServerProcess

pytestmark = pytest.mark.slow


def key(name: str, rest: str) -> str:
    return f'{{id: {name}, hash: "sha256:{hashlib.sha256(name.encode()).hexdigest()}", {rest}}}'


CONFIG = f"""
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
record: {{request_ids: true}}
auth:
  keys:
    - {key("app", "scopes: [infer, feedback]")}
    - {key("other", "scopes: [infer, feedback]")}
    - {key("reader", "scopes: [read, feedback]")}
    - {key("bound", "scopes: [infer, feedback], routes: [plain]")}
metrics: {{ok: {{type: boolean}}}}
backends: {{a: {{url: "http://@BACKEND@"}}}}
routes:
  plain:
    match: {{path: /plain}}
    unit: {{header: x-user}}
    variants: {{v1: &ready {{backend: a, rewrite: {{path: /v2/health/ready}}}}, v2: *ready}}
    policy: {{type: split, weights: {{v1: 1, v2: 1}}}}
  learning:
    match: {{path: /learning}}
    variants: {{v1: *ready, v2: *ready}}
    policy:
      type: bandit
      algorithm: linear
      metric: ok
      features: {{tier: {{header: x-tier, values: [free, paid]}}}}
"""


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, model_server: ModelServerProcess
) -> Iterator[GatewayProcess]:
    text = CONFIG.replace("@BACKEND@", model_server.address)
    with GatewayProcess(tmp_path_factory.mktemp("ids"), text, "--workers", "2") as found:
        yield found


def client(gateway: GatewayProcess, name: str = "app") -> httpx.Client:
    return httpx.Client(base_url=gateway.url, headers={"x-api-key": name}, timeout=60)


def report(http: httpx.Client, identity: str, route: str = "plain", **more: Any) -> str:
    """What became of one reward: accepted, duplicate, or the code of its refusal."""
    item = {"route": route, "request_id": identity, "metric": "ok", "value": True, **more}
    found = http.post("/-/feedback", json=item).json()
    return (
        "accepted"
        if found["accepted"]
        else "duplicate"
        if found["duplicates"]
        else found["rejected"][0]["code"]
    )


def test_a_reward_by_request_id_is_the_one_by_decision_id(gateway: GatewayProcess) -> None:
    with client(gateway) as http, client(gateway, "reader") as reader:
        sent = http.get("/plain", headers={"x-request-id": "r-1", "x-user": "u1"})
        assert report(http, "r-1") == "accepted", "however fast the reward is"
        by_decision = {"decision_id": sent.headers["x-decision-id"], "metric": "ok", "value": True}
        assert http.post("/-/feedback", json=by_decision).json()["duplicates"] == 1
        found = reader.get(f"/-/decisions/{sent.headers['x-decision-id']}").json()
        assert [(r["metric"], r["value"]) for r in found["rewards"]] == [("ok", 1.0)]
        assert report(http, "r-1") == "duplicate"
        # The gateway's own id serves where the client sent none.
        own = http.get("/plain").headers["x-request-id"]
        assert report(http, own) == "accepted"


def test_only_whoever_made_the_request_or_reads_the_record(gateway: GatewayProcess) -> None:
    with client(gateway) as http:
        http.get("/plain", headers={"x-request-id": "mine"})
        http.get("/learning", headers={"x-request-id": "elsewhere", "x-tier": "paid"})
        with client(gateway, "other") as other, client(gateway, "bound") as bound:
            assert report(other, "mine") == "unknown_request"
            assert report(bound, "elsewhere", "learning") == "unknown_request"
        with client(gateway, "reader") as reader:
            assert report(reader, "mine") == "accepted"


def test_the_same_id_of_another_key_is_another_request(gateway: GatewayProcess) -> None:
    with client(gateway) as http, client(gateway, "other") as other, client(gateway, "reader") as reader:
        sent = [each.get("/plain", headers={"x-request-id": "1"}) for each in (http, other)]
        assert [report(http, "1"), report(other, "1", value=False)] == ["accepted", "accepted"]
        for response, value in zip(sent, (1.0, 0.0), strict=True):
            found = reader.get(f"/-/decisions/{response.headers['x-decision-id']}").json()
            assert [r["value"] for r in found["rewards"]] == [value]
        wait_for(lambda: report(reader, "1") == "ambiguous_request")


def test_ids_that_say_nothing_or_too_much(gateway: GatewayProcess) -> None:
    with client(gateway) as http:
        assert report(http, "never") == "unknown_request"
        http.get("/plain", headers={"x-request-id": "routed"})
        assert report(http, "routed", "learning") == "unknown_request"
        for _ in range(2):
            http.get("/plain", headers={"x-request-id": "twice"})
        wait_for(lambda: report(http, "twice") == "ambiguous_request")
        assert report(http, "routed", metric="nope") == "unknown_metric"
        for wrong in ({"request_id": 1}, {"route": None}, {"route": ""}, {"decision_id": "x"}):
            assert report(http, "routed", **wrong) == "invalid"
        many = [{"route": "plain", "request_id": str(n), "metric": "ok", "value": True} for n in range(1001)]
        assert http.post("/-/feedback", json={"items": many}).status_code == 413


def test_a_contextual_bandit_learns_from_it(gateway: GatewayProcess) -> None:
    with client(gateway) as http, client(gateway, "reader") as reader:
        for n in range(20):
            http.get("/learning", headers={"x-request-id": f"c-{n}", "x-tier": "paid"})
        items = [
            {"route": "learning", "request_id": f"c-{n}", "metric": "ok", "value": True} for n in range(20)
        ]
        assert http.post("/-/feedback", json={"items": items}).json()["accepted"] == 20

        def learned() -> float:
            rewards: dict[str, float] = reader.get("/-/routes/learning").json()["contextual"]["rewards"]
            return sum(rewards.values())

        wait_for(lambda: learned() == 20)


def test_without_the_option_an_item_says_what_to_write(gateway: GatewayProcess) -> None:
    before = gateway.path.read_text()
    try:
        gateway.path.write_text(before.replace("request_ids: true", "request_ids: false"))
        with client(gateway) as http:
            wait_for(lambda: report(http, "r-1") == "invalid")
            item = {"route": "plain", "request_id": "r-1", "metric": "ok", "value": True}
            said = http.post("/-/feedback", json=item).json()["rejected"][0]["message"]
            assert "record: {request_ids: true}" in said
    finally:
        gateway.path.write_text(before)
