"""`POST /-/decide` on a gateway that runs: the same variant as through the route, recorded, and without a response."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {allocation: 100ms}
auth:
  keys:
    - {id: app, hash: "@APP@", scopes: [infer, feedback]}
    - {id: tester, hash: "@TESTER@", scopes: [infer, feedback, force-variant, read, metrics]}
    - {id: other, hash: "@OTHER@", scopes: [infer, feedback], routes: [drawn]}
    - {id: slow, hash: "@SLOW@", scopes: [infer], rate: 1/m}
    - {id: reader, hash: "@READER@", scopes: [read]}
metrics: {good: {type: boolean}}
backends: {none: {url: "http://127.0.0.1:9"}}
routes:
  sticky:
    match: {path: /sticky}
    unit: {header: x-user}
    variants: {v1: {backend: none, payload: {prompt: [1, null, "ü"]}}, v2: {backend: none}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
    fallback: [{respond: {text: ok}}]
  drawn:
    match: {path: /drawn}
    segments: {country: {header: x-country, values: [de, fr]}}
    variants: {v1: {backend: none}, v2: {backend: none}}
    policy: {type: split, weights: {v1: 3, v2: 1}}
  key:
    match: {path: /key}
    unit: {principal: true}
    variants: {v1: {backend: none}, v2: {backend: none}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  learned:
    match: {path: /learned}
    variants: {v1: {backend: none}, v2: {backend: none}}
    policy:
      type: bandit
      algorithm: linear
      metric: good
      floor: 5%
      features: {country: {header: x-country, values: [de, fr]}}
"""
KEYS = ("app", "tester", "other", "slow", "reader")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    config = CONFIG
    for key in KEYS:
        config = config.replace(f"@{key.upper()}@", f"sha256:{sha256(key.encode()).hexdigest()}")
    with GatewayProcess(tmp_path_factory.mktemp("decide"), config) as process:
        yield process


@pytest.fixture(scope="module")
def http(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30, headers={"x-api-key": "tester"}) as client:
        yield client


def decide(
    http: httpx.Client, route: str, key: str = "tester", force: str = "", **body: object
) -> httpx.Response:
    headers = {"x-api-key": key} | ({"x-variant": force} if force else {})
    return http.post("/-/decide", json={"route": route, **body}, headers=headers)


def report(http: httpx.Client, route: str) -> Any:
    return http.get(f"/-/routes/{route}").json()["variants"]


def test_a_unit_gets_the_variant_that_it_gets_through_the_route(http: httpx.Client) -> None:
    units = [f"u{n}" for n in range(12)]
    through = [http.get("/sticky", headers={"x-user": unit}).headers["x-variant"] for unit in units]
    found = [decide(http, "sticky", unit=unit).json() for unit in units]
    assert [one["variant"] for one in found] == through
    assert {"v1", "v2"} == set(through)
    payloads = {"v1": {"prompt": [1, None, "ü"]}, "v2": None}
    assert all(one["payload"] == payloads[one["variant"]] for one in found)
    assert {one["propensity"] for one in found} == {0.5}
    assert decide(http, "sticky", unit=" u3 ").json()["variant"] == through[3]  # as a field's value is read
    assert http.get("/key").headers["x-variant"] == decide(http, "key").json()["variant"]


def test_it_counts_as_an_assignment_and_not_as_a_response(http: httpx.Client) -> None:
    countries = [{"country": country} for country in ("de", "at", "")]
    found = [decide(http, "drawn", features=countries[n % 3]).json() for n in range(60)]
    assert {one["propensity"] for one in found} == {0.75, 0.25}
    items = [{"decision_id": one["decision_id"], "metric": "good", "value": True} for one in found]
    assert http.post("/-/feedback", json={"items": items}).json()["accepted"] == 60
    wait_for(lambda: sum(v["assigned"] for v in report(http, "drawn").values()) == 60)
    wait_for(lambda: sum(v["rewards"]["good"]["count"] for v in report(http, "drawn").values()) == 60)
    segments = http.get("/-/routes/drawn/segments").json()["segments"]
    rewarded = {
        s["value"]: sum(v["rewards"]["good"]["count"] for v in s["variants"].values()) for s in segments
    }
    assert rewarded == {"de": 20, "fr": 0, None: 40}
    for name, figures in report(http, "drawn").items():
        assert (figures["served"], figures["errors"], figures["latency_ms"]) == (0, 0, None)
        assert figures["error_rate"]["count"] == 0
        assert figures["expected"] == {"v1": 45.0, "v2": 15.0}[name]
    assert http.get("/-/routes/drawn").json()["alarms"] == []
    row = http.get(f"/-/decisions/{found[0]['decision_id']}").json()["outcome"]
    assert (row["status"], row["served"], row["propensity"]) == (0, "", found[0]["propensity"])
    text = http.get("/-/metrics").text
    assert 'turnout_decisions_total{route="drawn"' in text
    assert 'turnout_requests_total{route="drawn"' not in text


def test_the_features_of_a_bandit_are_recorded(http: httpx.Client) -> None:
    found = decide(http, "learned", features={"country": "de", "unknown": 1}).json()
    wait_for(lambda: http.get(f"/-/decisions/{found['decision_id']}").json()["outcome"] is not None)
    assert http.get(f"/-/decisions/{found['decision_id']}").json()["outcome"]["features"] == {"country": "de"}


def test_a_forced_variant_is_in_no_figures(http: httpx.Client) -> None:
    found = decide(http, "sticky", force="v2").json()
    assert (found["variant"], found["propensity"]) == ("v2", 1.0)
    wait_for(lambda: http.get(f"/-/decisions/{found['decision_id']}").json()["outcome"] is not None)
    assert http.get(f"/-/decisions/{found['decision_id']}").json()["outcome"]["forced"]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ({"route": "nowhere"}, 404, "not_found"),
        ({"route": "drawn", "unit": "ada"}, 422, "invalid"),
        ({"route": "key", "unit": "ada"}, 422, "invalid"),
        ({"route": "sticky", "unit": True}, 422, "invalid"),
        ({"route": "sticky", "features": {"a": [1]}}, 422, "invalid"),
        ({"route": "sticky", "features": {f"f{n}": n for n in range(1001)}}, 422, "invalid"),
        ({"route": "sticky", "colour": 1}, 422, "invalid"),
        ({"route": "sticky", "force": "v9"}, 422, "unknown_variant"),
        ({"route": "sticky", "force": "v2", "key": "app"}, 403, "forbidden"),
        ({"route": "sticky", "key": "other"}, 403, "forbidden"),
        ({"route": "sticky", "key": "reader"}, 403, "forbidden"),
        ({"route": "sticky", "key": "unknown"}, 401, "unauthenticated"),
    ],
)
def test_what_is_refused(http: httpx.Client, arguments: dict[str, Any], status: int, code: str) -> None:
    refused = decide(http, **arguments)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def test_the_rate_of_a_key_counts_decisions(http: httpx.Client) -> None:
    found = [decide(http, "sticky", "slow").status_code for _ in range(3)]
    assert found[-1] == 429, found


def test_a_reward_may_name_the_request(tmp_path: Path) -> None:
    config = (
        CONFIG.partition("auth:")[0]
        + "record: {request_ids: true}\nmetrics:"
        + CONFIG.partition("metrics:")[2]
    )
    with GatewayProcess(tmp_path, config) as gateway, httpx.Client(base_url=gateway.url, timeout=30) as http:
        decided = http.post("/-/decide", json={"route": "drawn"}, headers={"x-request-id": "r1"})
        assert decided.headers["x-request-id"] == "r1"
        item = {"route": "drawn", "request_id": "r1", "metric": "good", "value": True}
        wait_for(lambda: http.post("/-/feedback", json=item).json()["accepted"] == 1)
        variant = decided.json()["variant"]
        wait_for(lambda: report(http, "drawn")[variant]["rewards"]["good"]["count"] == 1)
