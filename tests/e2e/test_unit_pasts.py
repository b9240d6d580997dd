"""`adjust` over a real gateway: what is known before the assignment makes a comparison sharper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess, ModelServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

USERS = 160
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics: {correct: {type: boolean@ADJUST@}}
backends: {digits: {url: "http://@BACKEND@"}}
routes:
  shop:
    match: {path: /shop}
    unit: {header: x-user}
    variants: {v1: &ready {backend: digits, rewrite: {path: /v2/health/ready}}, v2: *ready}
    policy: @POLICY@
"""
SINGLE = "{type: single, variant: v1}"
CANARY = (
    "{type: canary, baseline: v1, candidate: v2, stages: [{weight: 50%, for: 1h}], "
    "guardrails: [{metric: correct, max_decrease: 10%}]}"
)


def text(server: ModelServerProcess, policy: str, adjust: str = ", adjust: past") -> str:
    return CONFIG.replace("@BACKEND@", server.address).replace("@POLICY@", policy).replace("@ADJUST@", adjust)


def ask(client: httpx.Client, changed: int) -> None:
    """One request of each user, who is always or never content, but for every ``changed``-th.

    Rewards follow soon, since a window may close.
    """
    rows = []
    for user in range(USERS):
        answer = client.get("/shop", headers={"x-user": f"u{user}"})
        value = (user % 2 == 0) != (user % changed == 1)
        rows.append({"decision_id": answer.headers["x-decision-id"], "metric": "correct", "value": value})
        if len(rows) == 10 or user == USERS - 1:
            assert client.post("/-/feedback", json={"items": rows}).json()["rejected"] == []
            rows.clear()


def replaced(client: httpx.Client, text: str) -> None:
    etag = client.get("/-/config").headers["etag"]
    answer = client.put("/-/config", content=text, headers={"if-match": etag})
    assert answer.status_code == 200, answer.text
    wait_for(lambda: client.get("/-/routes/shop").json()["rollout"])


def judged(client: httpx.Client) -> Any:
    """The verdict over all users, once the store has them."""

    def seen() -> list[Any]:
        rollout = client.get("/-/routes/shop").json()["rollout"] or {"verdicts": []}
        return [one for one in rollout["verdicts"] if one["interval"] and one["samples"] > USERS // 3]

    wait_for(seen)
    return seen()[0]


def test_the_past_of_users_sharpens_a_rollout(tmp_path: Path, model_server: ModelServerProcess) -> None:
    with (
        GatewayProcess(tmp_path, text(model_server, SINGLE)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as client,
    ):
        ask(client, 1000)
        document = client.get("/-/config").text
        replaced(client, document.replace(SINGLE, CANARY))
        ask(client, 40)

        verdict = judged(client)
        assert (verdict["adjusted_by"], verdict["unit"], verdict["samples"] > 50) == ("past", "units", True)
        low, high = verdict["interval"]
        assert low < 0 < high
        assert high - low < 0.4  # without their past: 0.66

        def lift() -> Any:  # of decisions, whose outcomes may be written after their rewards
            return client.get("/-/routes/shop").json()["variants"]["v2"]["lift"].get("correct")

        wait_for(lift)
        assert (lift()["adjusted_by"], lift()["unit"]) == ("past", "units")


def test_without_a_past_nothing_is_adjusted(tmp_path: Path, model_server: ModelServerProcess) -> None:
    with (
        GatewayProcess(tmp_path, text(model_server, CANARY, "")) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as client,
    ):
        ask(client, 40)
        verdict = judged(client)
        assert verdict["adjusted_by"] is None
        assert verdict["interval"][1] - verdict["interval"][0] > 0.5


def test_missing_values_count_with_the_variance_between_users(
    tmp_path: Path, model_server: ModelServerProcess
) -> None:
    """Each user sends three requests, and is always or never content, but for a few: as many users as requests tell."""
    with (
        GatewayProcess(tmp_path, text(model_server, CANARY, ", missing: zero, window: 5s")) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as client,
    ):
        for _ in range(3):
            ask(client, 40)

        def seen() -> list[Any]:
            verdicts = (client.get("/-/routes/shop").json()["rollout"] or {"verdicts": []})["verdicts"]
            return [one for one in verdicts if one["interval"] and one["samples"] > USERS // 3]

        wait_for(seen)
        (verdict,) = seen()
        assert verdict["unit"] == "units"
        assert verdict["samples"] < USERS, "users, not their requests"
        assert verdict["interval"][1] - verdict["interval"][0] > 0.5
        lift = client.get("/-/routes/shop").json()["variants"]["v2"]["lift"]["correct"]
        assert lift["interval"] is not None


def test_a_covariate_of_requests_sharpens_a_rollout(tmp_path: Path, model_server: ModelServerProcess) -> None:
    """Of requests and of decisions alike; what carts hold varies by 29, what is spent beyond that by 2."""
    document = text(model_server, CANARY.replace("max_decrease: 10%", "max_decrease: 0.5"), ", adjust: cart")
    document = document.replace("type: boolean", "type: real, minimum: 0, maximum: 200")
    document = document.replace(
        "unit: {header: x-user}", "covariates: {cart: {header: x-cart, maximum: 100}}"
    )
    with (
        GatewayProcess(tmp_path, document) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as client,
    ):
        rows = []
        for n in range(2 * USERS):
            cart = n * 37 % 100
            if n % 2:
                answer = client.get("/shop", headers={"x-cart": str(cart)})
                decision = answer.headers["x-decision-id"]
            else:
                body = {"route": "shop", "features": {"cart": cart}}
                decision = client.post("/-/decide", json=body).json()["decision_id"]
            rows.append({"decision_id": decision, "metric": "correct", "value": cart + n % 7})
        assert client.post("/-/feedback", json={"items": rows}).json()["rejected"] == []

        verdict = judged(client)
        assert (verdict["adjusted_by"], verdict["unit"]) == ("covariate", "requests")
        low, high = verdict["interval"]
        assert low < 0 < high
        assert high - low < 3, "without the cart: above 15"

        def lift() -> Any:
            return client.get("/-/routes/shop").json()["variants"]["v2"]["lift"].get("correct")

        wait_for(lift)
        assert lift()["adjusted_by"] == "covariate"
