from __future__ import annotations

import pytest

from tests.control.conftest import Client
from tests.support.harness import ROUTES, Harness, auth
from tests.support.seed import World, live_through

GOOD = auth() + ROUTES.replace("floor: 1%", "floor: 2%")


async def test_read_edit_and_go_back(harness: Harness, client: Client) -> None:
    http = client("ops")
    first = await http.get("/-/config")
    assert first.text == auth() + ROUTES
    assert first.headers["content-type"].startswith("application/yaml")
    etag = first.headers["etag"]
    assert (await http.get("/-/config", headers={"if-none-match": etag})).status_code == 304

    edited = await http.put("/-/config", content=GOOD, headers={"if-match": etag})
    assert edited.status_code == 200, edited.text
    assert edited.json()["author"] == "ops"
    assert edited.headers["etag"] == edited.json()["etag"] != etag
    assert harness.document().routes["digits"].policy.floor == 0.02  # type: ignore[union-attr]
    assert (await http.get("/-/config")).text == GOOD
    assert (await http.get("/-/config?revision=1")).text == auth() + ROUTES

    history = (await http.get("/-/config/history")).json()["revisions"]
    assert [(r["revision"], r["current"], r["kept"], r["author"]) for r in history] == [
        (2, True, True, "ops"),
        (1, False, True, "file"),
    ]
    back = await http.post(
        "/-/config/restore", json={"revision": 1}, headers={"if-match": edited.headers["etag"]}
    )
    assert back.json()["revision"] == 3
    assert (await http.get("/-/config")).text == auth() + ROUTES


async def test_an_edit_of_something_else_than_what_is_in_force_changes_nothing(client: Client) -> None:
    http = client("ops")
    for headers, code, status in (
        ({}, "precondition_required", 428),
        ({"if-match": '"old"'}, "precondition_failed", 412),
    ):
        for answer in (
            await http.put("/-/config", content=GOOD, headers=headers),
            await http.post("/-/config/restore", json={"revision": 1}, headers=headers),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await http.get("/-/config")).text == auth() + ROUTES


async def test_a_refused_configuration_names_every_fault_and_changes_nothing(client: Client) -> None:
    http = client("ops")
    bad = GOOD.replace("floor: 2%", "flor: 2%").replace("backend: b}, v3", "backend: c}, v3")
    answer = await http.put("/-/config", content=bad, headers={"if-match": "*"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "invalid")
    assert {fault["path"] for fault in error["faults"]} == {
        "routes.digits.policy.flor",
        "routes.digits.variants.v2.backend",
    }
    assert all(fault["line"] > 0 and fault["message"] for fault in error["faults"])
    assert (await http.get("/-/config")).text == auth() + ROUTES


async def test_texts_that_are_none(client: Client) -> None:
    http = client("ops")
    for body, code in ((b"\xff\xfe", "bad_request"), (b"", "invalid"), (b"[1, 2", "invalid")):
        answer = await http.put("/-/config", content=body, headers={"if-match": "*"})
        assert answer.json()["error"]["code"] == code


async def test_revisions_that_are_none(client: Client) -> None:
    http = client("ops")
    assert (await http.get("/-/config?revision=99")).status_code == 404
    answer = await http.post("/-/config/restore", json={"revision": 99}, headers={"if-match": "*"})
    assert answer.status_code == 404
    for wrong in ({"revision": "1"}, {"revision": -1}, {"revision": True}, {}):
        answer = await http.post("/-/config/restore", json=wrong, headers={"if-match": "*"})
        assert answer.json()["error"]["code"] == "invalid", wrong


async def test_a_key_taken_out_is_out_at_once(client: Client) -> None:
    http = client("ops")
    assert (await client("reader").get("/-/routes")).status_code == 200
    without = "\n".join(line for line in GOOD.splitlines() if "id: reader" not in line) + "\n"
    assert (await http.put("/-/config", content=without, headers={"if-match": "*"})).status_code == 200
    assert (await client("reader").get("/-/routes")).status_code == 401


async def test_steering(harness: Harness, client: Client) -> None:
    harness.rollouts["shop"] = {
        "state": "running",
        "phase": "canary",
        "stage": 0,
        "weight": 0.1,
        "verdicts": [],
    }
    http = client("ops")
    answer = await http.post("/-/routes/shop/rollout", json={"action": "set", "weight": 0.25})
    assert answer.json()["weight"] == 0.25
    assert (await client("reader").get("/-/routes/shop")).json()["rollout"]["weight"] == 0.25
    for wrong in (
        {"action": "set"},
        {"action": "pause", "weight": 0.1},
        {"action": "set", "weight": 1.1},
        {"action": "set", "weight": True},  # was 100 %
        {"action": "set", "weight": "0.5"},
        {"action": "pause", "if_epoch": True},
        {"action": "pause", "if_epoch": "1"},
        {"action": "go"},
    ):
        answer = await http.post("/-/routes/shop/rollout", json=wrong)
        assert answer.json()["error"]["code"] == "invalid", wrong
    assert (await http.post("/-/routes/digits/rollout", json={"action": "pause"})).status_code == 404
    await http.post("/-/routes/shop/rollout", json={"action": "rollback"})
    assert (await http.post("/-/routes/shop/rollout", json={"action": "promote"})).status_code == 409


async def test_what_a_check_says_of_the_shares_is_what_the_edit_does(
    harness: Harness, client: Client
) -> None:
    http = client("ops")
    await live_through(harness, World("digits", {"v1": 0.6, "v2": 0.95}), steps=3, per_step=60)
    before = {name: dict(harness.allocations.held[name].allocation.as_dict()) for name in ("digits", "shop")}
    text = GOOD.replace("floor: 2%", "floor: 20%").replace("weight: 10%", "weight: 25%")
    text = text.replace(
        "  quiet:",
        "  added:\n    match: {path: /added}\n    variants: {only: {backend: a}}\n"
        "    policy: {type: single, variant: only}\n  quiet:",
    )
    checked = (await http.post("/-/config/check", json={"text": text})).json()
    assert checked["faults"] == []
    assert set(checked["shares"]) == {"digits", "shop", "added"}
    assert checked["shares"]["added"] == {"before": {}, "after": {"only": 1.0}}
    assert {name: checked["shares"][name]["before"] for name in before} == before
    assert checked["shares"]["shop"]["after"]["new"] == 0.25
    assert checked["shares"]["digits"]["after"]["v1"] == pytest.approx(0.2, abs=0.01), "the floor"
    assert "shop: shares old 90% → 75%, new 10% → 25%" in checked["changes"]
    assert any(said.startswith("digits: shares v1 ") for said in checked["changes"])
    assert harness.allocations.held["shop"].allocation.as_dict() == before["shop"], "nothing is applied"
    etag = (await http.get("/-/config")).headers["etag"]
    await http.put("/-/config", content=text, headers={"if-match": etag})
    await harness.allocations.step()
    for name, shares in checked["shares"].items():
        assert harness.allocations.held[name].allocation.as_dict() == pytest.approx(shares["after"])
    same = (await http.post("/-/config/check", json={"text": text + "# a comment\n"})).json()
    assert same["shares"] == {}
