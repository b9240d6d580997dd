"""The variants of a route in each of its segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gateway.compile.plans import segment_features
from gateway.record.context import pack_values
from policies.sequential.two_sample import RateMartingale, difference_interval
from tests.control.conftest import Client
from tests.support.harness import Harness
from tests.support.made import outcome, reward


async def put(harness: Harness, client: Client, more: str) -> None:
    """Declare segments on the split route of the harness."""
    text = harness.revision().document.replace("  shop:\n", f"  shop:\n    {more}\n")
    changed = await client("ops").put(
        "/-/config", content=text, headers={"if-match": harness.revision().etag}
    )
    assert changed.status_code == 200, changed.text
    await harness.allocations.step()


async def live(
    harness: Harness, rates: Mapping[tuple[str, str], float], requests: int, *, period: str = ""
) -> None:
    """Requests whose rewards depend on (variant, tier); a unit is one in two of its requests."""
    rng = np.random.default_rng(2)
    now, status = harness.now(), harness.route_status("shop")
    (feature,) = segment_features(harness.document().routes["shop"])
    assert status is not None
    outcomes, rewards = [], []
    for n in range(requests):
        variant = str(rng.choice(["old", "new"]))
        tier = str(rng.choice(["free", "paid"]))
        about = outcome(
            now - 5,
            route="shop",
            assigned=variant,
            served=variant,
            epoch=status.epoch,
            unit=n // 2,
            propensity=0.5,
        )
        value = float(rng.random() < rates[variant, tier])
        context = pack_values([feature.segments[tier]]).hex()
        outcomes.append(about)
        rewards.append(reward(value, of=about, context=context, period=period and f"e{status.epoch}"))
    await harness.store.append(outcomes)
    await harness.store.reward(rewards)


OPPOSITE = {("old", "free"): 0.3, ("new", "free"): 0.7, ("old", "paid"): 0.7, ("new", "paid"): 0.3}


@pytest.mark.parametrize("unit", ["", "unit: {header: x-user}\n    "])
async def test_what_helps_some_and_hurts_others_shows_in_segments_alone(
    harness: Harness, client: Client, unit: str
) -> None:
    await put(harness, client, unit + "segments: {tier: {header: x-tier, values: [free, paid]}}")
    await live(harness, OPPOSITE, 600, period=unit)
    report = (await client("reader").get("/-/routes/shop")).json()
    assert report["variants"]["new"]["lift"]["correct"]["better"] is None
    found = (await client("reader").get("/-/routes/shop/segments")).json()
    assert (found["route"], found["baseline"]) == ("shop", "old")
    better: dict[Any, Any] = {}
    for one in found["segments"]:
        lift = one["variants"]["new"]["lift"]
        better[one["feature"], one["value"]] = lift["correct"]["better"] if lift else "no data"
        if lift:
            assert lift["correct"]["unit"] == ("units" if unit else "requests")
            assert set(lift) == {"correct"}, "errors and latencies are not known by segment"
    assert better == {("tier", "free"): True, ("tier", "paid"): False, ("tier", None): "no data"}
    counted = sum(
        v["rewards"]["correct"]["count"] for one in found["segments"] for v in one["variants"].values()
    )
    assert counted == 600
    turned = (await client("reader").get("/-/routes/shop/segments?baseline=new")).json()
    assert turned["segments"][0]["variants"]["old"]["lift"]["correct"]["better"] is False


async def test_the_intervals_of_all_segments_share_one_error_rate(harness: Harness, client: Client) -> None:
    await put(harness, client, "segments: {tier: {header: x-tier, values: [free, paid]}}")
    await live(harness, OPPOSITE, 300)
    (free, *_) = (await client("reader").get("/-/routes/shop/segments")).json()["segments"]
    rates = {}
    for variant in ("old", "new"):
        made = free["variants"][variant]["rewards"]["correct"]
        rates[variant] = RateMartingale(round(made["mean"] * made["count"]), made["count"])
    wanted = difference_interval(rates["old"], rates["new"], 0.05 / 3)
    assert free["variants"]["new"]["lift"]["correct"]["interval"] == pytest.approx(wanted)


async def test_a_metric_whose_missing_values_count_has_no_segments(harness: Harness, client: Client) -> None:
    await put(harness, client, "segments: {tier: {header: x-tier, values: [free, paid]}}")
    text = harness.revision().document.replace(
        "correct: {type: boolean", "correct: {missing: zero, type: boolean"
    )
    assert text != harness.revision().document
    changed = await client("ops").put(
        "/-/config", content=text, headers={"if-match": harness.revision().etag}
    )
    assert changed.status_code == 200, changed.text
    await live(harness, OPPOSITE, 100)
    for one in (await client("reader").get("/-/routes/shop/segments")).json()["segments"]:
        assert all("correct" not in v["rewards"] and v["lift"] == {} for v in one["variants"].values())


async def test_a_route_without_segments_has_none(client: Client) -> None:
    assert (await client("reader").get("/-/routes/shop/segments")).json()["segments"] == []


async def test_errors_and_latencies_are_those_of_the_newest_requests(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(harness, client, "segments: {tier: {header: x-tier, values: [free, paid]}}")
    now = harness.now()
    slow = {"total_ms": 800.0, "error": "backend_status", "status": 500, "served": ""}
    rows = [
        outcome(
            now - 100 + n,
            route="shop",
            assigned=variant,
            features=f'{{"tier":{tier}}}',
            **{"served": variant, "total_ms": 20.0, **(slow if tier == '"paid"' and n % 4 == 0 else {})},
        )
        for n, (variant, tier) in enumerate(
            [(v, t) for v in ("old", "new") for t in ('"free"', '"paid"', "null")] * 12
        )
    ]
    rows.append(outcome(now - 101, route="shop", assigned="old", features='{"size":3}'))
    rows.append(outcome(now - 1, route="shop", assigned="old", forced=True, features='{"tier":"free"}'))
    await harness.store.append(rows)
    found = (await client("reader").get("/-/routes/shop/segments")).json()
    assert found["latest"] == {"since": now - 101, "requests": 73}
    assert found["as_of"] == now
    latest = {one["value"]: one["variants"] for one in found["segments"]}
    for value, errors in (("free", 0), (None, 0), ("paid", 3)):
        for variant in ("old", "new"):
            one = latest[value][variant]["latest"]
            assert one["assigned"] == 12
            wrong = sum(r.assigned == variant and r.failed and r.features == '{"tier":"paid"}' for r in rows)
            assert one["errors"] == (wrong if errors else 0)
            assert one["error_rate"]["mean"] == one["errors"] / 12
    assert latest["free"]["old"]["latest"]["latency_ms"]["p50"] == pytest.approx(20, rel=0.02)
    monkeypatch.setattr("gateway.ingest.segments.MAX_REQUESTS", 10)
    await client("ops").post("/-/routes/shop/notes", json={"text": "something changed"})
    harness.clock.at += 2
    fewer = (await client("reader").get("/-/routes/shop/segments?baseline=new")).json()
    assert fewer["latest"]["requests"] == 10
