"""A start while Redis is away: the last state on the disk is served until Redis is back, without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.serving import START_FAILED
from gateway.state.last_state import LAST_STATE_S
from tests.e2e.common import stays, wait_for
from tests.support.command import turnout
from tests.support.processes import GatewayProcess
from tests.support.servers import RedisServer, redis_server

pytestmark = pytest.mark.redis

CONFIG = """
listen: 127.0.0.1:@PORT@
store: redis://127.0.0.1:@REDIS@/0
record: {spool: @DIR@/data}
loops: {watch: 100ms, allocation: 100ms}
metrics: {good: {type: boolean}}
backends: {none: {url: "http://127.0.0.1:9"}}
routes:
  shop:
    match: {path: /shop}
    unit: {header: x-user}
    variants: {v1: {backend: none}, v2: {backend: none}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 10%, for: 1h}, {weight: 50%, for: 1h}]
      guardrails: [{metric: error_rate, max_increase: 2%}]
      holdback: 0%
    fallback: [{respond: {text: ok}}]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as made:
        yield made


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30, headers={"connection": "close"}) as client:
        yield client


def config(server: RedisServer) -> str:
    return CONFIG.replace("@REDIS@", str(server.port))


class Seen:
    """What a client sees of one gateway."""

    def __init__(self, gateway: GatewayProcess, http: httpx.Client) -> None:
        self.url, self.http = gateway.url, http

    def outage(self) -> Any:
        return self.http.get(f"{self.url}/-/readyz").json()["store_outage"]

    def variants(self) -> list[str]:
        return [
            self.http.get(f"{self.url}/shop", headers={"x-user": f"u{n}"}).headers["x-variant"]
            for n in range(16)
        ]

    def report(self, decision: str) -> Any:
        item = {"decision_id": decision, "metric": "good", "value": True}
        return self.http.post(f"{self.url}/-/feedback", json=item).json()["accepted"]

    def rewards(self) -> float:
        found = self.http.get(f"{self.url}/-/routes/shop").json().get("variants", {})
        return float(sum(v["rewards"].get("good", {}).get("count", 0.0) for v in found.values()))

    def metric(self, name: str) -> str:
        lines = self.http.get(f"{self.url}/-/metrics").text.splitlines()
        return next((line.split()[-1] for line in lines if line.startswith(f"{name} ")), "")

    def steer(self, **body: object) -> None:
        found = self.http.post(f"{self.url}/-/routes/shop/rollout", json=body)
        assert found.status_code == 200, found.text


def kept(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("data/last-state-*.json"))


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_start_without_redis_serves_what_was_in_force(
    tmp_path: Path, server: RedisServer, http: httpx.Client, workers: tuple[str, ...]
) -> None:
    with GatewayProcess(tmp_path, config(server), *workers) as gateway:
        seen = Seen(gateway, http)
        seen.steer(action="set", weight=0.4)
        wait_for(lambda: seen.variants().count("v2") > 2 and '"v2":0.4' in kept(tmp_path))
        wait_for(lambda: seen.variants() == seen.variants() == seen.variants())  # of all workers
        wait_for(lambda: stays(lambda: '"v2":0.4' in kept(tmp_path), 3 * LAST_STATE_S))
        before = seen.variants()
        decision = http.get(f"{gateway.url}/shop").headers["x-decision-id"]
        assert seen.outage() is None
        server.kill()
        gateway.crash()

        gateway.start()
        assert seen.variants() == before  # the weight that a person has set
        assert seen.outage()["state_time"] is not None
        assert "STARTING WITHOUT THE STORE" in gateway.log
        assert seen.report(decision) == 1  # sealed before, by the same key; it waits in the spool
        assert seen.report(http.get(f"{gateway.url}/shop").headers["x-decision-id"]) == 1
        wait_for(lambda: seen.metric("turnout_started_without_store") == "1.0")
        assert seen.metric("turnout_store_ready") == "0.0"
        status = turnout("status", "--url", gateway.url)
        assert "started without it, and serves its last state" in status.stderr
        put = http.put(f"{gateway.url}/-/config", content="routes: {}", headers={"if-match": "*"})
        assert put.status_code == 503

        server.start()
        wait_for(lambda: seen.outage() is None and seen.rewards() == 2)
        wait_for(lambda: seen.metric("turnout_started_without_store") == "0.0")
        assert seen.variants() == before
        seen.steer(action="promote")
        wait_for(lambda: set(seen.variants()) == {"v2"})


def test_what_changed_meanwhile_is_taken_up_once_redis_is_back(
    tmp_path: Path, server: RedisServer, http: httpx.Client
) -> None:
    (other := tmp_path / "other").mkdir()
    with GatewayProcess(tmp_path, config(server)) as gateway:
        seen = Seen(gateway, http)
        wait_for(lambda: '"v2":0.1' in kept(tmp_path))
        gateway.crash()
        with GatewayProcess(
            other, config(server).replace("respond: {text: ok}", "respond: {text: two}")
        ) as later:
            Seen(later, http).steer(action="promote")
        server.kill()

        gateway.write(config(server).replace("respond: {text: ok}", "respond: {text: edited}"))
        gateway.start()
        assert http.get(f"{gateway.url}/shop").text == "ok"  # the edit waits
        assert set(seen.variants()) == {"v1", "v2"}
        assert f"{gateway.path} is not what is in force" in gateway.log
        server.start()
        wait_for(lambda: http.get(f"{gateway.url}/shop").text == "edited" and set(seen.variants()) == {"v2"})
        rows = http.get(f"{gateway.url}/-/config/history").json()["revisions"]
        assert [row["revision"] for row in rows] == [3, 2, 1]


def test_without_a_last_state_there_is_nothing_to_start_from(tmp_path: Path, server: RedisServer) -> None:
    server.kill()
    gateway = GatewayProcess(tmp_path, config(server), ready=False)
    assert gateway.process.wait(60) == START_FAILED
    assert f"There is no last state to start from in {tmp_path}/data/last-state-" in gateway.log
