"""A rollout as one verdict, and the webhooks that ask for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.control.reports.verdict import HOOKS
from gateway.control.session import CSRF
from tests.control.conftest import Client
from tests.control.test_control_access import HERE, logged_in
from tests.support.harness import Harness

PAGE = (Path(__file__).parents[2] / "docs/controllers.md").read_text()
URL = "/-/routes/shop/verdict"


def rail(verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "metric": "correct",
        "verdict": verdict,
        "bound": "max_decrease",
        "limit": 0.02,
        "estimate": 0.004,
        "interval": [-0.031, None],
        "reason": "",
        "more_requests": None,
        "minutes": None,
        **more,
    }


def rollout(state: str, *rails: dict[str, Any], **more: Any) -> dict[str, Any]:
    base = {"state": state, "phase": "canary", "stage": 0, "stages": 2, "weight": 0.1, "reason": "by ops"}
    return {**base, "verdicts": list(rails), "stage_ends": None, "samples": None, "min_samples": 0, **more}


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        ("promoted", "pass"),
        ("waiting", "pass"),
        ("rolled_back", "fail"),
        ("halted", "error"),
        ("paused", "inconclusive"),
    ],
)
async def test_a_state_that_is_decided(harness: Harness, client: Client, state: str, verdict: str) -> None:
    harness.rollouts["shop"] = rollout(state, rail("inconclusive"))
    http = client("reader")
    for query in ("", "?of=stage"):  # a stage that ended passes no more: its guardrails are the next run's
        found = (await http.get(URL + query)).json()
        assert found["verdict"] == verdict
        assert found["reasons"] == [f"{state}: by ops"]


@pytest.mark.parametrize(
    ("rails", "of_stage", "of_rollout"),
    [
        (["pass", "pass"], "pass", "inconclusive"),
        (["pass", "inconclusive"], "inconclusive", "inconclusive"),
        (["error", "inconclusive"], "error", "error"),
        (["error", "fail"], "fail", "fail"),
        ([], "pass", "inconclusive"),
    ],
)
async def test_the_worst_guardrail_decides(
    harness: Harness, client: Client, rails: list[str], of_stage: str, of_rollout: str
) -> None:
    harness.rollouts["shop"] = rollout("running", *map(rail, rails))
    http = client("reader")
    assert (await http.get(f"{URL}?of=stage")).json()["verdict"] == of_stage
    assert (await http.get(URL)).json()["verdict"] == of_rollout


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"stage": -1, "phase": "shadow"}, "the gate holds; the stages are still to come"),
        ({"phase": "bandit"}, "every stage has passed; a bandit decides on the share"),
        ({"waits": "node n1 serves epoch 3"}, "node n1 serves epoch 3"),
        ({}, "stage 1 of 2 holds; the rollout has not ended"),
    ],
)
async def test_why_a_rollout_without_a_violation_is_not_over(
    harness: Harness, client: Client, more: dict[str, Any], reason: str
) -> None:
    harness.rollouts["shop"] = rollout("running", rail("pass"), **more)
    http = client("reader")
    found = (await http.get(URL)).json()
    assert (found["verdict"], found["reasons"]) == ("inconclusive", [reason])
    stage = (await http.get(f"{URL}?of=stage")).json()["verdict"]
    assert stage == ("inconclusive" if "waits" in more else "pass")


async def test_what_a_decision_still_takes(harness: Harness, client: Client) -> None:
    http = client("reader")
    waits = [
        rail("inconclusive", more_requests=2100, minutes=12.04),
        rail("inconclusive", more_requests=5, minutes=1.0),
    ]
    harness.rollouts["shop"] = rollout("running", *waits)
    found = (await http.get(URL)).json()
    assert found["needs"] == {"requests": 2100, "minutes": 12.0}
    assert found["reasons"][0] == "correct: inconclusive, max_decrease 0.02, estimate 0.004 (-0.031 to ?)"
    harness.rollouts["shop"] = rollout("running", waits[0], rail("inconclusive"))
    assert (await http.get(URL)).json()["needs"] == {"requests": None, "minutes": None}
    more = {"stage_ends": harness.now() + 90, "min_samples": 500, "samples": 100}
    harness.rollouts["shop"] = rollout("running", rail("pass"), **more)
    found = (await http.get(f"{URL}?of=stage")).json()
    assert found == {
        "verdict": "inconclusive",
        "reasons": ["the stage lasts 1.5 minutes more", "the stage needs 400 more samples of the candidate"],
        "needs": {"requests": 400, "minutes": 1.5},
    }


async def test_errors_have_the_one_shape(harness: Harness, client: Client) -> None:
    http = client("reader")
    for path, status, code in (
        ("/-/routes/quiet/verdict", 404, "not_found"),
        ("/-/routes/none/verdict", 404, "not_found"),
        (f"{URL}?of=x", 400, "invalid"),
    ):
        found = await http.get(path)
        assert found.status_code in (status, 422), found.text
        assert found.json()["error"]["code"] == code
    assert (await client("inferrer").get(URL)).status_code == 403
    assert (await client("digits-reader").get(URL)).status_code == 403


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook != "confirm-rollout"])
@pytest.mark.parametrize("state", ["promoted", "rolled_back", "halted", "paused", "running"])
async def test_flagger_continues_or_is_held_back(
    harness: Harness, client: Client, hook: str, state: str
) -> None:
    harness.rollouts["shop"] = rollout(state, rail("pass"))
    http = client("reader")
    stage = "?of=stage" if hook in ("rollout", "confirm-traffic-increase") else ""
    verdict = (await http.get(URL + stage)).json()["verdict"]
    found = await http.post(f"/-/hooks/flagger/shop/{hook}", json={"name": "shop", "phase": "Progressing"})
    assert found.status_code == (200 if verdict in HOOKS[hook] else 409)
    if found.status_code == 409:
        assert found.json()["error"]["message"].startswith(f"{verdict}: ")


async def test_a_stage_that_waits_for_a_person_is_not_decided(harness: Harness, client: Client) -> None:
    at_gate = {"reason": "the stage of 50.0% waits for a confirmation", "possible": ["confirm", "rollback"]}
    harness.rollouts["shop"] = rollout("waiting", rail("pass"), **at_gate)
    http = client("reader")
    for query in ("", "?of=stage"):
        found = (await http.get(URL + query)).json()
        assert (found["verdict"], found["reasons"]) == ("inconclusive", [f"waiting: {at_gate['reason']}"])
    hook = "/-/hooks/flagger/shop"
    assert (await http.post(f"{hook}/confirm-promotion")).status_code == 409
    assert (await http.post(f"{hook}/confirm-rollout")).status_code == 200
    assert harness.rollouts["shop"]["state"] == "waiting", "it is not restarted: it has not ended"


@pytest.mark.parametrize("state", ["waiting", "paused"])
async def test_a_rollout_in_doubt_is_neither_promoted_nor_rolled_back(
    harness: Harness, client: Client, state: str
) -> None:
    harness.rollouts["shop"] = rollout(state, rail("pass"), rail("error", reason="record_loss: 7 were lost"))
    http = client("reader")
    for query in ("", "?of=stage"):
        found = (await http.get(URL + query)).json()
        assert found["verdict"] == "error"
        assert found["reasons"][0] == f"{state}: by ops"
        assert found["reasons"][1].endswith("record_loss: 7 were lost")
    for hook, status in {"rollout": 200, "confirm-promotion": 409, "rollback": 409}.items():
        assert (await http.post(f"/-/hooks/flagger/shop/{hook}")).status_code == status


async def test_flagger_does_not_go_on_with_a_canary_that_was_rolled_back(
    harness: Harness, client: Client
) -> None:
    harness.rollouts["shop"] = rollout("rolled_back", rail("inconclusive"))
    http = client("reader")
    for hook in ("pre-rollout", "rollout", "confirm-traffic-increase", "confirm-promotion"):
        assert (await http.post(f"/-/hooks/flagger/shop/{hook}")).status_code == 409
    assert (await http.post("/-/hooks/flagger/shop/rollback")).status_code == 200


@pytest.mark.parametrize("state", ["promoted", "waiting", "rolled_back"])
async def test_a_new_revision_of_flagger_starts_the_rollout_again(
    harness: Harness, client: Client, state: str
) -> None:
    """Otherwise it waits for good after a rollback, and is confirmed by the verdict on another build after a pass."""
    path = "/-/hooks/flagger/shop/confirm-rollout"
    harness.rollouts["shop"] = rollout(state, rail("pass"))
    held = await client("reader").post(path)
    assert held.status_code == 409
    assert "'steer'" in held.json()["error"]["message"]
    assert harness.rollouts["shop"]["state"] == state
    body = {"action": "nonsense"}
    assert (await client("bound-admin").post("/-/routes/shop/rollout", json=body)).status_code == 403
    assert (await client("pilot").post(path)).status_code == 200
    assert harness.rollouts["shop"]["state"] == "running"
    (trail,) = (await client("pilot").get("/-/events/recent?kind=steered")).json()["events"]
    assert (trail["data"]["action"], trail["data"]["by"]) == ("restart", "pilot")
    assert (await client("reader").post(path)).status_code == 200


@pytest.mark.parametrize(("state", "status"), [("running", 200), ("paused", 200), ("halted", 409)])
async def test_a_new_revision_of_flagger_leaves_a_rollout_alone_that_has_not_ended(
    harness: Harness, client: Client, state: str, status: int
) -> None:
    harness.rollouts["shop"] = rollout(state, rail("inconclusive"))
    found = await client("pilot").post("/-/hooks/flagger/shop/confirm-rollout")
    assert (found.status_code, harness.rollouts["shop"]["state"]) == (status, state)


async def test_flagger_sends_its_key_in_the_url(harness: Harness, client: Client) -> None:
    harness.rollouts["shop"] = rollout("promoted")
    http = client()
    path = "/-/hooks/flagger/shop/confirm-promotion"
    assert (await http.post(path)).status_code == 401
    assert (await http.post(path, auth=("flagger", "reader"))).status_code == 200
    assert (await http.post(path, auth=("flagger", "nobody's"))).status_code == 401
    assert (await http.post(path, headers={"authorization": "Basic %%%"})).status_code == 401
    # Nowhere else: a browser would send it by itself.
    assert (await http.get(URL, auth=("flagger", "reader"))).status_code == 401
    assert (await http.post("/-/hooks/flagger/shop/x", auth=("flagger", "reader"))).status_code == 404


async def test_the_objects_of_the_page_ask_for_what_is_there(harness: Harness, client: Client) -> None:
    harness.rollouts["shop"] = rollout("promoted")
    argo, _, flagger = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    (metric,) = argo["spec"]["metrics"]
    web = metric["provider"]["web"]
    assert re.fullmatch(r"{\$\.(\w+)}", web["jsonPath"])[1] == "verdict"  # type: ignore[index]
    path = web["url"].removeprefix("http://turnout.models").replace("{{args.route}}", "shop")
    result = (await client().get(path, headers={web["headers"][0]["key"]: "reader"})).json()["verdict"]
    assert metric["successCondition"] == f'result == "{result}"'
    for hook in flagger["spec"]["analysis"]["webhooks"]:
        url, kind = hook["url"], hook["type"]
        assert url == f"http://flagger:KEY@turnout.models/-/hooks/flagger/checkout/{kind}"
        assert kind in HOOKS


async def test_a_hook_that_only_reads_makes_no_session_steer(harness: Harness, client: Client) -> None:
    harness.rollouts["shop"] = {"state": "waiting", "reason": "", "weight": 0.1}
    http = await logged_in(client, "ops")
    token = {CSRF: (await http.get("/-/dashboard/session")).json()["csrf"]}
    hooked = await http.post("/-/hooks/flagger/shop/event", headers={**HERE, **token})
    assert hooked.status_code == 200
    assert "set-cookie" not in hooked.headers
    assert (await http.get("/-/dashboard/session")).json()["scopes"] == ["read"]
    body = {"action": "pause"}
    steered = await http.post("/-/routes/shop/rollout", json=body, headers={**HERE, **token})
    assert steered.status_code == 403
