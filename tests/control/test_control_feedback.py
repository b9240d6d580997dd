from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.control.json_reader import LOOP_BYTES
from gateway.state.base import StoreUnavailable
from tests.control.conftest import Client
from tests.support.harness import Harness


def sealed(harness: Harness, route: str = "digits", variant: str = "v1") -> str:
    static = harness.sealer.static(route, variant, variant, 1, 0.5, False)
    decision = harness.sealer.new_decision(harness.clock())
    return harness.sealer.seal(decision, int.from_bytes(decision[8:], "big"), static).decode()


async def test_one_reward_is_accepted_then_a_duplicate_then_an_update(
    harness: Harness, client: Client
) -> None:
    item = {"decision_id": sealed(harness), "metric": "correct", "value": True}
    http = client("app")
    first = await http.post("/-/feedback", json=item)
    assert (first.status_code, first.json()) == (
        200,
        {"accepted": 1, "duplicates": 0, "updated": 0, "rejected": []},
    )
    assert (await http.post("/-/feedback", json=item)).json()["duplicates"] == 1
    assert (await http.post("/-/feedback", json=item | {"value": False})).json()["updated"] == 1
    assert (await http.post("/-/feedback", json=item | {"value": None})).json()["updated"] == 1
    sums = await harness.store.reward_sums("digits")
    assert sums.get(("v1", "correct")) is None or sums["v1", "correct"].count == 0


async def test_bad_items_are_refused_one_by_one_and_the_others_count(
    harness: Harness, client: Client
) -> None:
    good: dict[str, Any] = {"decision_id": sealed(harness), "metric": "correct", "value": 1}
    forged = good["decision_id"][:-4] + "AAAA"
    items = [
        good,
        good | {"decision_id": forged},
        good | {"decision_id": "nonsense"},
        good | {"metric": "nothing"},
        good | {"value": 0.5},
        good | {"value": "yes"},
        {"decision_id": sealed(harness, "shop", "old"), "metric": "correct", "value": 1},
        "no object",
        good | {"surplus": 1},
    ]
    answer = await client("app").post("/-/feedback", json={"items": items})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["accepted"] == 1
    refused = {one["index"]: one["code"] for one in body["rejected"]}
    assert [refused[k] for k in range(1, 8)] == [
        "forged", "malformed", "unknown_metric", "invalid", "invalid", "forbidden", "invalid",
    ]  # fmt: skip
    assert refused[8] == "invalid"
    assert (await harness.store.reward_sums("shop")) == {}


async def test_rejected_items_are_logged_once_for_each_key_and_reason(
    harness: Harness, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    good: dict[str, Any] = {"decision_id": sealed(harness), "metric": "correct", "value": 1}
    items = [good, good | {"metric": "nothing" * 100}, good | {"metric": "nothing"}]
    for key in ("app", "app", "ops"):
        assert (await client(key).post("/-/feedback", json={"items": items})).status_code == 200
    said = [line for line in caplog.messages if "rewards rejected" in line]
    assert [line.partition(":")[0] for line in said] == ["POST /-/feedback by app", "POST /-/feedback by ops"]
    assert "2 of 3 rewards rejected; item 1 with unknown_metric" in said[0]
    assert max(map(len, said)) < 350


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"", 400, "bad_json"),
        (b"\xff\xfe", 400, "bad_json"),
        (b'{"value": NaN}', 400, "bad_json"),
        (b"[" * 100_000, 400, "bad_json"),
        (b'{"value": ' + b"9" * 5000 + b"}", 400, "bad_json"),
        (b'{"tags": {"a": "\\ud800"}}', 400, "bad_json"),
        (b'{"tags": {"a": "\xed\xa0\x80"}}', 400, "bad_json"),
        ('{"tags": {"a": "\\ud800"}}'.encode("utf-16"), 400, "bad_json"),
        (b"[" * 600 + b" " * LOOP_BYTES + b"]" * 600, 400, "bad_json"),
        (b"[]", 422, "invalid"),
        (b'"text"', 422, "invalid"),
        (b'{"items": 1}', 422, "invalid"),
        (b'{"items": [], "more": 1}', 422, "invalid"),
        (json.dumps({"items": [1] * 10_001}).encode(), 413, "body_too_large"),
    ],
)
async def test_a_body_that_is_no_feedback(client: Client, body: bytes, status: int, code: str) -> None:
    answer = await client("app").post("/-/feedback", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_body_over_the_limit_is_refused_declared_or_not(harness: Harness, client: Client) -> None:
    limit = harness.document().limits.control_body
    declared = await client("app").post("/-/feedback", content=b" " * (limit + 1))
    assert declared.json()["error"]["code"] == "body_too_large"

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(limit // 1_000_000 + 2):
            yield b" " * 1_000_000

    chunked = await client("app").post("/-/feedback", content=trickle())
    assert chunked.status_code == 413
    assert str(limit) in chunked.json()["error"]["message"]


async def test_what_can_not_be_made_durable_is_503_with_retry_after(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk is full; make room")

    monkeypatch.setattr(harness.store, "reward", away)
    item = {"decision_id": sealed(harness), "metric": "correct", "value": True}
    answer = await client("app").post("/-/feedback", json=item)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    monkeypatch.undo()
    assert (await client("app").post("/-/feedback", json=item)).json()["accepted"] == 1


async def test_many_at_once_are_all_counted(harness: Harness, client: Client) -> None:
    http = client("app")
    batches = [
        [{"decision_id": sealed(harness), "metric": "correct", "value": True} for _ in range(50)]
        for _ in range(8)
    ]
    answers = await asyncio.gather(*(http.post("/-/feedback", json={"items": batch}) for batch in batches))
    assert sum(a.json()["accepted"] for a in answers) == 400
    assert (await harness.store.reward_sums("digits"))["v1", "correct"].count == 400
