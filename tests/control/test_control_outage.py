"""Changes while the store is away: who asked for one is told whether it was made."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.control.gateway_api import Outage
from gateway.state.base import StoreUnavailable, Unconfirmed
from tests.control.conftest import Client
from tests.support.harness import Harness

STATE = {"state": "running", "phase": "canary", "stage": 0, "weight": 0.1}


def away(error: type[StoreUnavailable]) -> Any:
    async def raising(*_: object, **__: object) -> None:
        raise error("away")

    return raising


@pytest.mark.parametrize(
    ("path", "body", "method"),
    [
        ("/-/routes/shop/rollout", {"action": "rollback"}, "rollout"),
        ("/-/routes/shop/notes", {"text": "hm"}, "store.changed"),
    ],
)
async def test_what_was_not_begun_has_changed_nothing(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch, path: str, body: Any, method: str
) -> None:
    harness.outage = Outage(1_800_000_000.0, None)
    monkeypatch.setattr(
        harness.store if method.startswith("store") else harness,
        method.rpartition(".")[2],
        away(StoreUnavailable),
    )
    answer = await client("ops").post(path, json=body)
    assert answer.status_code == 503
    told = answer.json()["error"]["message"]
    assert told.startswith(
        "Nothing was changed. The store has been unavailable since 2027-01-15 08:00:00 UTC."
    )


async def test_what_the_store_may_have_taken_is_not_known(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = client("ops")
    monkeypatch.setattr(harness, "rollout", away(Unconfirmed))
    monkeypatch.setattr(harness.store, "add_event", away(StoreUnavailable))
    monkeypatch.setattr(harness.store, "add_revision", away(StoreUnavailable))
    for answer in (
        await ops.post("/-/routes/shop/rollout", json={"action": "rollback"}),
        await ops.post("/-/routes/shop/notes", json={"text": "hm"}),
        await ops.put("/-/config", content=harness.revision().document + "\n#", headers={"if-match": "*"}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
        assert "whether the change was made is not known" in answer.json()["error"]["message"]
    assert harness.revision().revision == 1


async def test_whether_sessions_ended_is_not_known_if_the_store_went_away_meanwhile(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = client()
    assert (await page.post("/-/dashboard/login", json={"key": "reader"})).status_code == 204
    for method, told in (
        ("load", "Nothing was changed."),
        ("save", "whether the change was made is not known"),
    ):
        monkeypatch.setattr(harness.store, method, away(StoreUnavailable))
        answer = await page.post("/-/dashboard/logout")
        assert answer.status_code == 503
        assert told in answer.json()["error"]["message"]
        monkeypatch.undo()


async def test_an_edit_in_force_is_not_refused_because_its_lease_cannot_be_given_back(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.store, "release", away(StoreUnavailable))
    text = harness.revision().document + "\n#"
    answer = await client("ops").put("/-/config", content=text, headers={"if-match": "*"})
    assert answer.status_code == 200, answer.text
    assert harness.revision().revision == answer.json()["revision"] == 2


async def test_a_form_leads_back_to_itself_while_the_store_is_away(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser showed the error as JSON."""
    monkeypatch.setattr(harness.store, "load", away(StoreUnavailable))
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await client().post("/-/dashboard/login?next=events", content="key=reader", headers=form)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == "login?refused=store_unavailable&next=events"
    answer = await client().post("/-/dashboard/login", json={"key": "reader"})
    assert answer.status_code == 503
