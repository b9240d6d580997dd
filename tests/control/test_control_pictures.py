"""Densities of differences, and the lift as it stood over time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from gateway.config.service import MetricConfig
from gateway.control.reports.distributions import distributions
from gateway.control.reports.lift import Comparisons
from gateway.control.reports.lift_over_time import lift_over_time
from gateway.control.reports.observed import of_newest
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.state.base import Counts
from policies.types import RewardSums
from tests.control.conftest import Client
from tests.support.harness import Harness
from tests.support.seed import World, live_through

SHOP = World("shop", {"old": 0.7, "new": 0.85}, {"old": 20.0, "new": 30.0})


async def read(client: Client, path: str) -> Any:
    found = await client("reader").get(f"/-/{path}")
    assert found.status_code == 200, found.text
    return found.json()


def test_the_density_of_a_difference_is_that_of_draws() -> None:
    sums = {("a", "m"): RewardSums(400, 300, 300), ("b", "m"): RewardSums(60, 51, 51)}
    declared = {"m": MetricConfig(type="boolean")}
    found = distributions(("a", "b"), declared, sums, {}, "a")["differences"]["m"]
    assert list(found["variants"]) == ["b"]
    points, density = np.array(found["points"]), np.array(found["variants"]["b"])
    assert integrate.trapezoid(density, points) == pytest.approx(1.0, abs=0.01)
    rng = np.random.default_rng(3)
    draws = stats.beta(52, 10).rvs(200_000, random_state=rng) - stats.beta(301, 101).rvs(
        200_000, random_state=rng
    )
    mean = integrate.trapezoid(points * density, points)
    assert mean == pytest.approx(draws.mean(), abs=0.002)
    spread = integrate.trapezoid((points - mean) ** 2 * density, points) ** 0.5
    assert spread == pytest.approx(draws.std(), rel=0.03)


async def test_the_last_point_is_the_report_and_each_is_what_was_known_then(
    harness: Harness, client: Client
) -> None:
    standing: list[tuple[float, Any]] = []
    for seed in range(6):
        await live_through(harness, SHOP, steps=1, per_step=80, step=60.0, seed=seed)
        # A reward belongs to the time of its decision, so that all of it is known by then.
        standing.append((harness.clock(), (await read(client, "routes/shop"))["variants"]["new"]["lift"]))
    for metric in ("correct", "error_rate", "client_error_rate", "latency_p50"):
        found = await read(client, f"routes/shop/lift?metric={metric}&points=200")
        assert (found["baseline"], list(found["variants"])) == ("old", ["new"])
        points = found["variants"]["new"]
        assert [p["time"] for p in points] == sorted(p["time"] for p in points)
        known = {p["time"]: p for p in points}
        drawn = [(time, lift) for time, lift in standing if time in known]
        assert len(drawn) >= (2 if metric == "latency_p50" else 6)  # latencies have few points
        assert drawn[-1] == standing[-1]
        for time, lift in drawn:
            assert known[time]["absolute"] == pytest.approx(lift[metric]["absolute"]), (metric, time)
            assert known[time]["interval"] == pytest.approx(lift[metric]["interval"]), (metric, time)
            assert known[time]["better"] == lift[metric]["better"]
    few = "routes/shop/lift?metric=correct&points=12"
    times = [p["time"] for p in (await read(client, few))["variants"]["new"]]
    assert len(times) <= 12
    await live_through(harness, SHOP, steps=1, per_step=80, step=10.0, seed=6)
    later = [p["time"] for p in (await read(client, few))["variants"]["new"]]
    assert later[: len(times) - 1] == times[:-1]  # so that they need not be computed again


async def test_a_bandits_shares_are_weighed_and_a_baseline_may_be_named(
    harness: Harness, client: Client
) -> None:
    await live_through(harness, World("digits", {"v1": 0.8, "v2": 0.9}), steps=6, per_step=60)
    report = await read(client, "routes/digits?baseline=v2")
    found = await read(client, "routes/digits/lift?metric=correct&baseline=v2")
    last, lift = found["variants"]["v1"][-1], report["variants"]["v1"]["lift"]["correct"]
    assert lift["method"] == "weighted"
    assert (last["absolute"], last["interval"]) == (lift["absolute"], lift["interval"])
    pictures = await read(client, "routes/digits/distributions?baseline=v2")
    assert pictures["baseline"] == "v2"
    assert list(pictures["differences"]["correct"]["variants"]) == ["v1"]


async def test_the_units_of_a_bandit_are_its_observations_in_pictures_too(
    harness: Harness, client: Client
) -> None:
    """The interval of a boolean metric was that of requests, narrower than the report's."""
    text = harness.revision().document.replace("  digits:\n", "  digits:\n    unit: {header: x-user-id}\n")
    changed = await client("ops").put("/-/config", content=text, headers={"if-match": "*"})
    assert changed.status_code == 200, changed.text
    await live_through(harness, World("digits", {"v1": 0.6, "v2": 0.8}, units=60), steps=1, per_step=200)
    lift = (await read(client, "routes/digits"))["variants"]["v2"]["lift"]["correct"]
    assert (lift["method"], lift["unit"]) == ("pooled", "units")
    last = (await read(client, "routes/digits/lift?metric=correct"))["variants"]["v2"][-1]
    assert last["interval"] == pytest.approx(lift["interval"])


def test_each_point_of_sticky_units_is_of_the_newest_epoch_by_then() -> None:
    """In the first epoch one variant gets everything; the third begins within a bucket of the second."""
    rng, declared, buckets = np.random.default_rng(6), {"m": MetricConfig(type="real")}, []
    for epoch, starts in ((1, range(0, 50, 10)), (2, range(50, 150, 10)), (3, range(140, 250, 10))):
        for variant in ("b", "a"):
            for start in starts:
                value = (
                    RewardSums(60, float(rng.normal(60)), 120)
                    if variant == "a" or epoch > 1
                    else RewardSums()
                )
                counts = Counts(assigned=int(value.count), served=int(value.count), expected=value.count)
                rewards = {"m": Rewarded(value, value)}
                buckets.append(RewardedBucket(float(start), variant, epoch, counts, rewards))
    facts: dict[str, Any] = {"metric": "m", "baseline": "a", "now": 250.0, "sticky": True, "by_epoch": True}
    points = lift_over_time(("a", "b"), declared, buckets, points=99, **facts)["b"]
    assert [point["time"] for point in points] == [float(time) for time in range(60, 251, 10)]
    for point in points:
        known = of_newest([bucket for bucket in buckets if bucket.start < point["time"]])
        assert len(known.buckets) == 2 * (point["time"] - (50 if point["time"] <= 140 else 140)) / 10
        then = Comparisons(("a", "b"), declared, known).difference("m", "b", "a")
        assert then is not None
        assert point == {"time": point["time"]} | then


async def test_what_only_the_record_tells_of_units_is_not_drawn(harness: Harness, client: Client) -> None:
    """How many requests each user sent without a reward is in the record, not in the sums over time."""
    text = harness.revision().document.replace("  shop:\n", "  shop:\n    unit: {header: x-user-id}\n")
    text = text.replace("correct: {type: boolean,", "correct: {type: boolean, missing: zero, window: 10s,")
    changed = await client("ops").put(
        "/-/config", content=text, headers={"if-match": harness.revision().etag}
    )
    assert changed.status_code == 200, changed.text
    await live_through(harness, replace(SHOP, units=2_000), steps=10, per_step=300)
    for query in ("", "?since=1"):
        lift = (await read(client, f"routes/shop{query}"))["variants"]["new"]["lift"]["correct"]
        assert (lift["absolute"] > 0, lift["interval"] is None) == (True, bool(query))
    assert (await read(client, "routes/shop/lift?metric=correct"))["variants"] == {}


async def test_what_can_not_be_drawn_is_refused_or_empty(harness: Harness, client: Client) -> None:
    http = client("reader")
    for query in ("", "?metric=nothing", "?metric=correct&baseline=nobody", "?metric=correct&what=1"):
        refused = await http.get(f"/-/routes/shop/lift{query}")
        assert refused.status_code == 422, query
    assert (await http.get("/-/routes/shop/distributions?baseline=nobody")).status_code == 422
    assert (await read(client, "routes/shop/lift?metric=correct"))["variants"] == {}
