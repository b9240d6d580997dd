from __future__ import annotations

import csv
import io
from unittest.mock import AsyncMock

import pytest

from gateway.control.handlers import record
from gateway.record.events import Reward
from tests.control.conftest import Client
from tests.support.harness import Harness
from tests.support.made import outcome, shadowed
from tests.support.seed import World, live_through

DIGITS = World("digits", {"v1": 0.9, "v2": 0.95}, errors={"v1": 0.3, "v2": 0.3}, shadow=("v3", 0.5))
SHOP = World("shop", {"old": 0.5, "new": 0.5}, metric=None)


@pytest.fixture
async def lived(harness: Harness) -> Harness:
    for _ in range(3):
        await live_through(harness, DIGITS, steps=1, per_step=30)
        await live_through(harness, SHOP, steps=1, per_step=30)
    return harness


async def pages(client: Client, key: str, query: str) -> list[dict[str, object]]:
    http, found, cursor = client(key), [], ""
    for _ in range(100):
        page = (await http.get(f"/-/outcomes?{query}{cursor}")).json()
        found += page["outcomes"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"
    raise AssertionError("the pages do not end")


async def test_pages_hold_everything_once_newest_first(lived: Harness, client: Client) -> None:
    found = await pages(client, "reader", "limit=17")
    assert len(found) == len({o["decision"] for o in found}) == 180
    assert [o["decision"] for o in found] == sorted((str(o["decision"]) for o in found), reverse=True)


async def test_filters(lived: Harness, client: Client) -> None:
    everything = await pages(client, "reader", "limit=1000")

    async def check(query: str, wanted: object) -> None:
        found = {o["decision"] for o in await pages(client, "reader", f"limit=50&{query}")}
        expected = {o["decision"] for o in everything if wanted(o)}  # type: ignore[operator]
        assert found == expected
        assert expected

    await check("route=shop", lambda o: o["route"] == "shop")
    await check(
        "route=digits&variant=v1", lambda o: o["route"] == "digits" and "v1" in (o["assigned"], o["served"])
    )
    await check("errors=true", lambda o: o["error"] != "")
    await check("status=502", lambda o: o["status"] == 502)
    await check("error=backend_reset", lambda o: o["error"] == "backend_reset")
    await check("fallback=true", lambda o: o["fallback"])
    await check("fallback=false&route=digits", lambda o: not o["fallback"] and o["route"] == "digits")
    await check("forced=false", lambda o: True)
    await check("min_ms=6.5", lambda o: o["total_ms"] >= 6.5)
    one = everything[7]
    for name in ("unit", "request_id"):
        await check(f"{name}={one[name]}", lambda o, name=name: o[name] == one[name])
    await check("principal=app", lambda o: True)
    since = lived.clock() - 25
    await check(f"since={since}", lambda o: o["time"] >= since)


async def test_the_record_is_a_csv_file_with_the_same_filters(
    lived: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MAX_OUTCOMES", 13)  # several pages
    odd = outcome(lived.clock(), route="digits", assigned="v1", request_id='=1+1,"x"')
    await lived.store.append([odd])
    listed = await pages(client, "reader", "route=digits&variant=v1&limit=50")
    response = await client("reader").get("/-/outcomes.csv?route=digits&variant=v1")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert "outcomes.csv" in response.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [row["decision"] for row in rows] == [one["decision"] for one in listed]
    assert len(rows) > 13
    for row, one in zip(rows, listed, strict=True):
        assert float(row["propensity"]) == one["propensity"]
        assert (row["unit"], row["fallback"]) == (one["unit"], "true" if one["fallback"] else "false")
    formulas = [row["request_id"] for row in rows if row["request_id"].startswith("'")]
    assert formulas == ['\'=1+1,"x"'], "a spreadsheet would run what a client sent"
    with monkeypatch.context() as patched:
        scan = AsyncMock(wraps=lived.store.scan)
        patched.setattr(lived.store, "scan", scan)
        head = await client("reader").head("/-/outcomes.csv?route=digits&variant=v1")
    assert (head.headers["content-type"], scan.await_count) == (response.headers["content-type"], 1)
    few = (await client("reader").get("/-/outcomes.csv?limit=20")).text.splitlines()
    assert len(few) == 21
    none = (await client("reader").get("/-/outcomes.csv?status=418")).text.splitlines()
    assert none == [few[0]], "the header alone"
    assert (await client("digits-reader").get("/-/outcomes.csv?route=shop")).status_code == 403
    own = (await client("digits-reader").get("/-/outcomes.csv")).text.splitlines()[1:]
    assert len(own) == 91
    assert all(",digits," in line for line in own)


async def test_keys_bound_to_routes_see_theirs_only(lived: Harness, client: Client) -> None:
    one = await pages(client, "digits-reader", "limit=7")
    assert {o["route"] for o in one} == {"digits"}
    assert len(one) == 90
    both = await pages(client, "two-reader", "limit=7")
    assert len(both) == 180
    refused = await client("digits-reader").get("/-/outcomes?route=shop")
    assert refused.status_code == 403


async def test_all_that_is_known_of_a_decision(lived: Harness, client: Client) -> None:
    failed = next(o for o in await pages(client, "reader", "route=digits&errors=true") if o["fallback"])
    decision = bytes.fromhex(str(failed["decision"]))
    static = lived.sealer.static("digits", str(failed["assigned"]), str(failed["served"]), 1, 0.5, False)
    sealed = lived.sealer.seal(decision, 5, static).decode()
    tags = '{"who":"me"}'
    reward = Reward(decision, "delay", 1.0, 5.0, 4.0, "digits", "v1", "v2", 1, 0.5, 5, False, 0.0, tags)
    await lived.store.reward([reward])
    http = client("reader")
    by_id, by_hex = (
        await http.get(f"/-/decisions/{sealed}"),
        await http.get(f"/-/decisions/{failed['decision']}"),
    )
    assert by_id.json()["sealed"]["propensity"] == 0.5
    assert by_hex.json()["sealed"] is None
    assert by_id.json()["outcome"] == by_hex.json()["outcome"] == failed
    assert {
        "metric": "delay",
        "type": "real",
        "value": 1.0,
        "time": 5.0,
        "tags": {"who": "me"},
    } in by_id.json()["rewards"]
    assert by_id.json()["shadows"][0]["shadow"] == "v3"
    windows = {name: metric.window for name, metric in lived.document().metrics.items()}
    open_until = by_hex.json()["open_until"]
    assert {name: until - by_hex.json()["time"] for name, until in open_until.items()} == pytest.approx(
        windows
    )
    assert failed["attempts"][0][2] == "backend_reset"  # type: ignore[index]


async def test_a_decision_says_why_its_shadow_could_not_be_compared(harness: Harness, client: Client) -> None:
    made = outcome()
    reason = "the responses could not be compared: one is too large"
    await harness.store.append([made], [shadowed(of=made, agrees=None, detail=reason)])
    found = await client("reader").get(f"/-/decisions/{made.decision.hex()}")
    assert found.status_code == 200, found.text
    assert found.json()["shadows"][0]["detail"] == reason


async def test_a_decision_of_another_route_is_hidden_as_if_it_were_none(
    lived: Harness, client: Client
) -> None:
    shop = (await pages(client, "reader", "route=shop&limit=1000"))[0]
    unknown = await client("digits-reader").get(f"/-/decisions/{'f' * 32}")
    hidden = await client("digits-reader").get(f"/-/decisions/{shop['decision']}")
    assert unknown.status_code == hidden.status_code == 404
    assert unknown.json()["error"]["message"] == hidden.json()["error"]["message"]


async def test_a_decision_that_is_not_written_yet_is_told_from_its_id(
    harness: Harness, client: Client
) -> None:
    decision = harness.sealer.new_decision(harness.clock())
    sealed = harness.sealer.seal(
        decision, 5, harness.sealer.static("digits", "v1", "v1", 3, 0.25, False)
    ).decode()
    found = (await client("reader").get(f"/-/decisions/{sealed}")).json()
    assert found["outcome"] is None
    assert (found["route"], found["sealed"]["epoch"]) == ("digits", 3)
    assert (await client("two-reader").get(f"/-/decisions/{sealed[:-2]}")).status_code == 422
