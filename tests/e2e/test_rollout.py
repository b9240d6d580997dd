"""A canary's whole life over real processes: promoted on evidence, rolled back on evidence, steered by hand."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from backends.reference import digits
from benchmarks.children import free_port
from gateway.loops.route_states import KIND
from gateway.state import open_store
from gateway.state.base import Published
from tests.e2e.common import replay, report, wait_for
from tests.support.processes import GatewayProcess, ModelServerProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics:
  correct: {type: boolean}
backends:
  digits: {url: "http://@BACKEND@", ejection: {silence: 0s}} # a busy machine is silent too
  dead: {url: "http://127.0.0.1:@DEAD@"}
routes:
  digits:
    match: {path: /v2/models/digits}
    variants:
      v1: {backend: digits, rewrite: {path: /v2/models/digits/versions/1}}
      v2: {backend: @CANDIDATE@}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: @STAGES@
      guardrails: @RAILS@
      bake: 60s
    fallback: [v1]
"""


def config(server: ModelServerProcess, *, candidate: str, stages: str, rails: str) -> str:
    text = CONFIG.replace("@CANDIDATE@", candidate).replace("@STAGES@", stages).replace("@RAILS@", rails)
    return text.replace("@BACKEND@", server.address).replace("@DEAD@", str(free_port()))


def good(version: int) -> str:
    return f"digits, rewrite: {{path: /v2/models/digits/versions/{version}}}"


async def until(gateway: GatewayProcess, data: digits.Digits, state: str) -> dict[str, Any]:
    """Traffic with rewards until the rollout is in ``state``."""
    async with asyncio.timeout(200):
        while True:
            await replay(gateway.url, data, 200)
            found = report(gateway)
            if found["rollout"]["state"] == state:
                return found


def trail(gateway: GatewayProcess) -> list[str]:
    """The targets of the audit trail's entries."""
    events = httpx.get(f"{gateway.url}/-/events/recent?limit=1000&allocations=false").json()["events"]
    return [f"{e['data']['signal']}→{e['data']['target']}" for e in events if "signal" in e["data"]]


@pytest.mark.slow
async def test_a_better_version_is_promoted_by_itself(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    text = config(
        model_server,
        candidate=good(2),
        stages="[{weight: 20%, for: 1s, min_samples: 30}, {weight: 50%, for: 1s}]",
        rails="[{metric: error_rate, max_increase: 10%}, {metric: correct, max_decrease: 15%}]",
    )
    with GatewayProcess(tmp_path, text) as gateway:
        assert report(gateway)["rollout"]["state"] == "running"
        assert report(gateway)["allocation"] == {"v1": 0.8, "v2": 0.2}
        found = await until(gateway, held_out, "promoted")
        assert found["allocation"]["v2"] == pytest.approx(0.95)
        assert found["rollout"]["weight"] == pytest.approx(0.95)
        wait_for(lambda: trail(gateway)[-1:] == ["finished→promoted"])
        # A restart remembers.
        gateway.kill()
        gateway.start()
        again = report(gateway)
        assert again["rollout"]["state"] == "promoted"
        assert again["allocation"]["v2"] == pytest.approx(0.95)
        assert again["epoch"] == found["epoch"]


@pytest.mark.slow
async def test_a_version_that_fails_is_rolled_back_and_no_client_notices(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    text = config(
        model_server,
        candidate="dead",
        stages="[{weight: 20%, for: 1h}]",
        rails="[{metric: error_rate, max_increase: 1%}]",
    )
    with GatewayProcess(tmp_path, text) as gateway:
        found = await until(gateway, held_out, "rolled_back")
        assert found["allocation"] == {"v1": 1.0, "v2": 0.0}
        assert "error_rate breaches" in found["rollout"]["reason"]
        wait_for(lambda: trail(gateway)[-1:] == ["fail→rolled_back"])


@pytest.mark.slow
async def test_a_less_accurate_version_is_rolled_back_on_its_rewards(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    text = config(
        model_server,
        candidate=good(3),
        stages="[{weight: 30%, for: 1h}]",
        rails="[{metric: error_rate, max_increase: 5%}, {metric: correct, max_decrease: 5%}]",
    )
    with GatewayProcess(tmp_path, text) as gateway:
        found = await until(gateway, held_out, "rolled_back")
        assert "correct breaches" in found["rollout"]["reason"]
        assert found["variants"]["v3" if "v3" in found["variants"] else "v2"]["errors"] == 0


async def test_a_person_steers_at_any_moment(tmp_path: Path, model_server: ModelServerProcess) -> None:
    text = config(
        model_server, candidate=good(2), stages="[{weight: 1%, for: 1h}, {weight: 50%, for: 1h}]", rails="[]"
    )
    with GatewayProcess(tmp_path, text) as gateway:

        def say(status: int = 200, **word: Any) -> dict[str, Any]:
            answer = httpx.post(f"{gateway.url}/-/routes/digits/rollout", json=word)
            assert answer.status_code == status, answer.text
            found: dict[str, Any] = answer.json()
            return found

        def share() -> float:
            return float(report(gateway)["allocation"]["v2"])

        wait_for(lambda: report(gateway)["rollout"] is not None)
        assert say(action="pause")["state"] == "paused"
        refused = say(409, action="pause")
        assert "possible now" in refused["error"]["message"]
        assert say(action="set", weight=0.3)["weight"] == 0.3
        wait_for(lambda: share() == pytest.approx(0.3))
        say(422, action="set", weight=7)
        say(422, action="set")
        say(422, action="explode")
        assert say(action="resume")["state"] == "running"
        assert say(action="promote")["state"] == "promoted"
        wait_for(lambda: share() == pytest.approx(0.95))
        assert say(action="rollback")["state"] == "rolled_back"
        wait_for(lambda: share() == 0.0)
        assert httpx.get(f"{gateway.url}/v2/models/digits/ready").headers["x-variant"] == "v1"


async def test_a_ramp_moves_nobody_back(tmp_path: Path, model_server: ModelServerProcess) -> None:
    text = config(model_server, candidate=good(2), stages="[{weight: 10%, for: 1h}]", rails="[]").replace(
        "    variants:\n", "    unit: {header: x-user-id}\n    variants:\n"
    )
    users = [f"user-{n}" for n in np.arange(200)]
    with GatewayProcess(tmp_path, text) as gateway, httpx.Client(base_url=gateway.url) as client:

        def on_candidate() -> set[str]:
            return {
                user
                for user in users
                if client.get("/v2/models/digits/ready", headers={"x-user-id": user}).headers["x-variant"]
                == "v2"
            }

        seen: set[str] = set()
        for weight in (0.1, 0.4, 0.9):
            answer = client.post("/-/routes/digits/rollout", json={"action": "set", "weight": weight})
            assert answer.status_code == 200
            wait_for(lambda: report(gateway)["allocation"]["v2"] == pytest.approx(weight))  # noqa: B023
            now = on_candidate()
            assert seen <= now
            assert abs(len(now) / len(users) - weight) < 0.15
            seen = now


async def test_what_breaks_after_promotion_goes_back_fast(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    """During the bake a share stays on the baseline, which the candidate is compared with."""
    text = config(
        model_server,
        candidate="dead",
        stages="[{weight: 1%, for: 1h}]",
        rails="[{metric: error_rate, max_increase: 5%}]",
    )
    with GatewayProcess(tmp_path, text) as gateway:
        answer = httpx.post(f"{gateway.url}/-/routes/digits/rollout", json={"action": "promote"})
        assert answer.status_code == 200
        wait_for(lambda: report(gateway)["allocation"]["v2"] == pytest.approx(0.95))
        found = await until(gateway, held_out, "rolled_back")
        assert found["allocation"]["v1"] == 1.0
        assert "breaches its limit" in found["rollout"]["reason"]


async def test_a_gate_lets_a_shadow_that_agrees_go_on_to_traffic(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    """Before the first stage the candidate answers nobody; its answers are compared, and that is the evidence."""
    text = config(model_server, candidate=good(2), stages="[{weight: 20%, for: 1h}]", rails="[]").replace(
        "      bake: 60s", "      bake: 60s\n      gate: {agreement: 80%, share: 100%, min_samples: 30}"
    )
    with GatewayProcess(tmp_path, text) as gateway:
        wait_for(lambda: report(gateway)["rollout"] is not None)
        before = report(gateway)
        assert before["allocation"]["v2"] == 0.0
        assert before["shadows"] == {"v2": 1.0}
        assert before["rollout"]["stage"] == -1
        async with asyncio.timeout(200):
            while report(gateway)["rollout"]["stage"] < 0:
                await replay(gateway.url, held_out, 100)
        after = report(gateway)
        assert after["allocation"]["v2"] == pytest.approx(0.2)
        assert not after["shadows"]
        assert after["agreement"] is None or after["agreement"]["v2"]["rate"] > 0.8
        wait_for(lambda: "passed→running" in trail(gateway))


@pytest.mark.parametrize("lost", [False, True])
def test_a_rollout_that_the_file_does_not_name_stays_rolled_back(tmp_path: Path, lost: bool) -> None:
    """A start read where the routes of its file stood, and those of the configuration in force began again."""
    common = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
backends: {a: {url: "http://127.0.0.1:1"}}
routes:
  other: {match: {path: /other}, variants: {v1: {backend: a}}, policy: {type: single, variant: v1}}
"""
    canary = """  r:
    match: {path: /r}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: canary, baseline: v1, candidate: v2, stages: [{weight: 50%, for: 10m}], guardrails: []}
"""

    async def published() -> Published:
        store = open_store(f"sqlite:///{tmp_path}/turnout.db")
        await store.open()
        found = (await store.published())["r"]
        if lost:
            with sqlite3.connect(tmp_path / "turnout.db") as connection:
                connection.execute("DELETE FROM documents WHERE kind = ?", (KIND,))
            connection.close()
        await store.close()
        return found

    with GatewayProcess(tmp_path, common) as gateway:
        text = gateway.path.read_text() + canary
        response = httpx.put(gateway.url + "/-/config", content=text, headers={"if-match": "*"}, timeout=60)
        assert response.status_code == 200, response.text
        rollout = f"{gateway.url}/-/routes/r/rollout"
        assert httpx.post(rollout, json={"action": "rollback"}, timeout=60).status_code == 200
        gateway.stop()
        before = asyncio.run(published())
        assert before.probabilities["v2"] == 0.0
        gateway.start()
        assert httpx.get(f"{gateway.url}/-/routes/r", timeout=60).json()["rollout"]["state"] == "rolled_back"
        gateway.stop()
        assert asyncio.run(published()) == before
