"""Reports against figures worked out by hand or by scipy alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gateway.config.load import load
from gateway.config.service import MetricConfig
from gateway.control.gateway_api import RouteStatus
from gateway.control.reports.estimates import estimate, reward_estimate
from gateway.control.reports.route import Evidence, report, shares
from gateway.control.reports.series import FIGURES, series, step_for, steps
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.record.histogram import index
from gateway.state.base import Counts, Published, Retention
from policies.allocation.bucketing import allocation
from policies.sequential.two_sample import RateMartingale, mean_interval
from policies.types import RewardSums
from tests.control.conftest import Client
from tests.support.harness import ROUTES, Harness
from tests.support.made import outcome, shadowed
from tests.support.seed import World, live_through

DOCUMENT = load(ROUTES, source="test", env={})
LIVE = RouteStatus(
    17, 3, allocation({"v1": 0.03, "v2": 0.97}, shadows=(("v3", 0.5),)), {}, {"v3": {"sent": 9}}
)


def test_shares_are_written_as_people_write_them() -> None:
    assert shares(allocation({"v1": 1 - 0.9, "v2": 0.9})) == {"v1": 0.1, "v2": 0.9}
    assert shares(allocation({"v1": 1e-13, "v2": 1 - 1e-13}))["v2"] < 1, "not everything"


def booleans(good: int, n: int) -> RewardSums:
    return RewardSums(n, good, good)


def alone(sums: RewardSums) -> Rewarded:
    """Values that are each an observation."""
    return Rewarded(sums, sums)


def each_alone(sums: Mapping[tuple[str, str], RewardSums]) -> Evidence:
    return Evidence(rewards={key: alone(one) for key, one in sums.items()})


def made(evidence: Evidence, route: str = "digits", live: RouteStatus = LIVE) -> dict[str, Any]:
    found = report(route, DOCUMENT, evidence, live, None, now=100.0)
    json.dumps(found, allow_nan=False)  # whatever comes in, what goes out is JSON
    return found


def test_an_interval_is_the_beta_posteriors() -> None:
    low, high = stats.beta(1 + 95, 1 + 5).ppf([0.025, 0.975])
    found = estimate("boolean", booleans(95, 100))
    assert found["count"] == 100
    assert found["mean"] == pytest.approx(0.95)
    assert found["interval"] == pytest.approx([low, high], abs=1e-12)


def test_an_interval_is_never_narrower_than_its_mean_calls_for() -> None:
    """3 of 3: the credible interval alone would end below the mean that stands beside it."""
    low, high = estimate("boolean", booleans(3, 3))["interval"]
    assert high == 1.0
    assert low == pytest.approx(stats.beta(4, 1).ppf(0.025), abs=1e-12)


def test_an_interval_lies_within_the_declared_range() -> None:
    """Of revenue that few customers make it began below zero."""
    sums, real = RewardSums(465, 199.5, 20_000.0), {"type": "real", "minimum": 0.0}
    free = reward_estimate(MetricConfig.model_validate({"type": "real"}), Rewarded(sums, sums))["interval"]
    kept = reward_estimate(MetricConfig.model_validate(real), Rewarded(sums, sums))["interval"]
    assert free[0] < 0
    assert kept == [0.0, free[1]]
    low, high = reward_estimate(MetricConfig.model_validate(real | {"maximum": 0.1}), Rewarded(sums, sums))[
        "interval"
    ]
    assert (low, high) == (0.0, sums.mean), "values of an earlier range"


def test_real_and_count_metrics_have_their_own_models() -> None:
    values = [1.0, 2.5, 2.0, 4.0, 3.5, 2.2]
    sums = RewardSums(len(values), sum(values), sum(v * v for v in values))
    low, high = estimate("real", sums)["interval"]
    t_low, t_high = stats.t.interval(0.95, 5, stats.tmean(values), stats.sem(values))
    assert (low, high) == pytest.approx((t_low, t_high), rel=1e-9)
    counts = estimate("count", RewardSums(20, 40, 120))
    # Not bursty (variance 2.1, mean 2): Gamma with the prior of one observation at the mean, shape 1 + 40, rate
    # 21/41 + 20. Effectively 40^2 / 120 counts carry the sum: a third of them are the degrees of freedom of the part of
    # the variance that is excess, which is enlarged by 1 + 2 / them.
    carrying, excess = 40**2 / 120, 40 / 19 / 2 - 1
    dispersion = 1 + (1 + 2 / carrying) * excess
    freedom = 1 / (1 / 19 + 3 / carrying * excess / (1 + excess))
    tail = stats.norm.sf(stats.t.isf(0.025, freedom))
    wanted = stats.gamma(1 + 40 / dispersion, scale=1 / (21 / 41 + 20 / dispersion)).ppf([tail, 1 - tail])
    assert counts["interval"] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("model", ["boolean", "fraction", "real", "count"])
def test_thin_or_impossible_data_give_null_and_no_error(model: Any) -> None:
    assert estimate(model, RewardSums()) == {"count": 0, "mean": None, "interval": None}
    for sums in (RewardSums(1, 1, 1), RewardSums(5, -3, 9), RewardSums(2, 5e9, 2e19), RewardSums(3, 0, 0)):
        json.dumps(estimate(model, sums), allow_nan=False)


def test_the_contracts_shape() -> None:
    evidence = Evidence(
        counts={
            "v1": Counts(assigned=120, served=118, errors=2, fallbacks=1, latency={index(3.1): 118}, expected=118.5),
            "v2": Counts(assigned=4000, served=4000, latency={index(6.0): 3970, index(50.0): 30}),
        },
        rewards={("v1", "correct"): alone(booleans(95, 100)), ("v2", "correct"): alone(booleans(2960, 3000))},
        agreement={"v3": (905, 900, 883)},
        alarms=[{"code": "sample_ratio_mismatch", "message": "look"}],
    )  # fmt: skip
    found = made(evidence)
    assert (found["route"], found["policy"], found["epoch"], found["revision"]) == ("digits", "bandit", 17, 3)
    assert found["allocation"] == pytest.approx({"v1": 0.03, "v2": 0.97})
    assert found["shadows"] == {"v3": 0.5}
    assert found["rollout"] is None
    v1, v2 = found["variants"]["v1"], found["variants"]["v2"]
    assert {k: v1[k] for k in ("assigned", "served", "errors", "fallbacks")} == {
        "assigned": 120,
        "served": 118,
        "errors": 2,
        "fallbacks": 1,
    }
    assert v1["latency_ms"]["p50"] == pytest.approx(3.1, rel=0.015)
    assert v2["latency_ms"]["p99"] == pytest.approx(6.0, rel=0.015)
    assert v1["gateway_ms"] is None
    assert v1["error_rate"]["interval"] == pytest.approx(stats.beta(3, 119).ppf([0.025, 0.975]), abs=1e-12)
    assert found["agreement"]["v3"]["compared"] == 900
    assert found["agreement"]["v3"]["rate"] == pytest.approx(883 / 900)
    low, high = found["agreement"]["v3"]["interval"]
    assert (low, high) == pytest.approx(mean_interval(RateMartingale(883, 900), 0.05)), (
        "looked at all the time"
    )
    fixed = stats.beta(884, 18).ppf([0.025, 0.975])
    assert low < fixed[0] < fixed[1] < high
    assert found["alarms"] == [{"code": "sample_ratio_mismatch", "message": "look"}]
    assert found["shadow_counts"] == {"v3": {"sent": 9}}


def test_probability_best_and_expected_loss_agree_with_simulation() -> None:
    sums = {("v1", "correct"): booleans(80, 100), ("v2", "correct"): booleans(88, 100)}
    found = made(each_alone(sums))["variants"]
    a = stats.beta(81, 21).rvs(400_000, random_state=1)
    b = stats.beta(89, 13).rvs(400_000, random_state=2)
    assert found["v1"]["probability_best"] + found["v2"]["probability_best"] == pytest.approx(1, abs=1e-9)
    assert found["v2"]["probability_best"] == pytest.approx((b > a).mean(), abs=0.004)
    assert found["v1"]["expected_loss"] == pytest.approx((b - a).clip(0).mean(), rel=0.01)
    assert found["v3"]["probability_best"] is None, "a shadow is no contender"


def test_a_policy_without_a_metric_is_compared_by_the_first_that_has_data() -> None:
    live = RouteStatus(1, 1, allocation({"old": 0.9, "new": 0.1}), {}, {})
    sums = {
        ("old", "delay"): RewardSums(50, 500, 5200),
        ("new", "delay"): RewardSums(50, 450, 4300),
        ("old", "correct"): booleans(3, 4),
    }
    found = made(each_alone(sums), "shop", live)
    assert (found["metric"], found["goal"]) == ("delay", "minimize")
    assert found["variants"]["new"]["probability_best"] > 0.9, "less is better"
    assert (found["baseline"], found["candidate"]) == ("old", "new")
    assert [s["weight"] for s in found["stages"]] == [0.1, 0.5]
    single = made(each_alone({("old", "correct"): booleans(3, 4)}), "shop", live)
    assert single["metric"] is None
    assert single["variants"]["old"]["probability_best"] is None


def test_values_of_a_metric_that_changed_its_type_are_no_error() -> None:
    found = made(each_alone({("v1", "correct"): RewardSums(10, 900, 90_000)}))
    assert found["metric"] is None
    assert found["variants"]["v1"]["rewards"]["correct"] == {
        "count": 10, "mean": 90.0, "interval": None, "observations": 10, "missing": 0, "waiting": 0,
    }  # fmt: skip


def test_a_utility_says_what_it_weighs() -> None:
    text = ROUTES.replace("metric: correct, floor", "utility: {correct: 2, delay: 1}, floor")
    document = load(text, source="test", env={})
    found = report("digits", document, Evidence(), LIVE, None, 0.0)
    assert found["metric"] == "2·correct − delay"
    assert sum(v["probability_best"] or 0 for v in found["variants"].values()) == pytest.approx(1)


def test_series_adds_up_and_rolls() -> None:
    declared = DOCUMENT.metrics
    buckets = [
        RewardedBucket(
            start=10.0 * k,
            variant=name,
            epoch=k + 1,
            counts=Counts(assigned=a, errors=k % 2, expected=a + 0.5, latency={index(4.0): a}),
            rewards={"correct": alone(booleans(1, 2))},
        )
        for k in range(6)
        for name, a in (("v1", 1), ("v2", 3))
    ]
    before = {("v1", "correct"): alone(booleans(10, 10))}
    found = series(("v1", "v2", "v3"), declared, buckets, before, window=20.0)
    assert [b["start"] for b in found] == [0, 10, 20, 30, 40, 50]
    assert [b["epoch"] for b in found] == [1, 2, 3, 4, 5, 6]
    last = found[-1]["variants"]
    assert last["v2"]["share"] == 0.75
    assert last["v2"]["allocated"] == pytest.approx(3.5 / 5)
    assert last["v3"]["share"] == 0
    assert last["v1"]["to_date"]["correct"]["count"] == 10 + 12
    assert last["v1"]["to_date"]["correct"]["mean"] == pytest.approx(16 / 22)
    assert last["v1"]["rolling"]["correct"]["count"] == 4
    assert last["v1"]["rolling_error_rate"] == estimate("boolean", booleans(1, 2))
    assert last["v1"]["rewards"]["correct"]["count"] == 2
    json.dumps(found, allow_nan=False)


def test_a_value_that_has_left_the_window_leaves_nothing_behind() -> None:
    """Its square did: sums from which it was subtracted kept an error of 100, and the interval no width."""
    rng = np.random.default_rng(1)
    values = rng.normal(1.0, 0.5, (30, 4))
    values[5, 0] = 1e9
    each = [alone(RewardSums.of(row)) for row in values]
    buckets = [
        RewardedBucket(10.0 * k, "v1", 1, Counts(assigned=4), {"delay": one}) for k, one in enumerate(each)
    ]
    declared = {"delay": DOCUMENT.metrics["delay"]}
    for k, bucket in enumerate(series(("v1",), declared, buckets, {}, window=60.0)):
        inside = values[max(0, k - 5) : k + 1].ravel()
        expected = stats.t.interval(0.95, inside.size - 1, inside.mean(), stats.sem(inside))
        rolling = bucket["variants"]["v1"]["rolling"]["delay"]
        assert rolling["count"] == inside.size
        assert rolling["interval"] == pytest.approx(expected)


@pytest.mark.parametrize("total", [9.0, -9.0])
def test_a_ratio_to_all_but_nothing_is_not_told(total: float) -> None:
    """It is infinite, which JSON can't hold: no report of the route could be read."""
    sums = {("v1", "delay"): RewardSums(9, 1e-310, 0.0), ("v2", "delay"): RewardSums(9, total, 9)}
    lift = made(each_alone(sums))["variants"]["v2"]["lift"]["delay"]
    assert (lift["absolute"], lift["relative"]) == (total / 9, None)


def test_two_epochs_of_one_bucket_are_one_bucket() -> None:
    buckets = [
        RewardedBucket(
            0.0, "v1", epoch, Counts(assigned=5, latency={index(2.0): 5}), {"correct": alone(booleans(2, 3))}
        )
        for epoch in (4, 5)
    ]
    (only,) = series(("v1",), DOCUMENT.metrics, buckets, {}, window=10.0)
    assert only["epoch"] == 5
    assert only["variants"]["v1"]["assigned"] == 10
    assert only["variants"]["v1"]["rewards"]["correct"]["count"] == 6


@pytest.mark.parametrize(
    ("span", "wanted", "step"),
    [(3600, None, 30), (900, None, 10), (86_400, None, 900), (3600, 12, 20), (3600, 0.1, 10)],
)
def test_steps_are_round_multiples_of_the_stores(span: float, wanted: float | None, step: float) -> None:
    assert step_for(span, wanted) == step


@pytest.mark.parametrize(
    ("span", "wanted", "age", "step"),
    [
        (3600, None, 7199, 30),
        (3600, None, 7200, 60),
        (1800, 10, 86_400, 60),
        (7200, 90, 86_400, 120),
        (604_800, 1800, 604_800, 3600),
        (1000, None, 100 * 86_400, 86_400),
    ],
)
def test_steps_are_multiples_of_what_is_kept_for_so_long(
    span: float, wanted: float | None, age: float, step: float
) -> None:
    assert step_for(span, wanted, age=age) == step


async def test_buckets_of_a_folded_time_hold_what_their_length_says(harness: Harness, client: Client) -> None:
    begin = harness.clock()
    await live_through(harness, World("digits", {"v1": 0.9, "v2": 0.9}), steps=60, per_step=5, step=10.0)
    harness.clock.at = begin + 4 * 3600
    while await harness.store.prune(Retention(), now=harness.clock()):
        pass
    query = f"since={begin}&until={begin + 600}&step=10"
    found = (await client("reader").get(f"/-/routes/digits/series?{query}")).json()
    assert found["step"] == 60
    whole = [b for b in found["buckets"] if begin <= b["start"] and b["start"] + 60 <= begin + 600]
    assert {sum(v["assigned"] for v in b["variants"].values()) for b in whole} == {30}


def test_allocations_begin_with_the_one_in_force() -> None:
    history = [Published("r", k, {"v1": 1.0}, (1.0,), (0,), "config", time=100.0 * k) for k in range(1, 6)]
    assert [s["epoch"] for s in steps(history, 250.0, 450.0)] == [2, 3, 4]
    assert steps([], 0.0, 1.0) == []


@pytest.mark.long
async def test_reports_follow_rewards_at_once_and_traffic_within_a_second(
    harness: Harness, client: Client
) -> None:
    http = client("reader")
    world = World("digits", {"v1": 0.9, "v2": 0.9}, metric=None)
    assert (await http.get("/-/routes/digits")).json()["variants"]["v1"]["assigned"] == 0
    await live_through(harness, world, steps=1, per_step=40)
    rewarded = World("digits", {"v1": 0.9, "v2": 0.9}, feedback=1.0)
    await live_through(harness, rewarded, steps=1, per_step=40)
    found = (await http.get("/-/routes/digits")).json()
    assert sum(v["rewards"]["correct"]["count"] for v in found["variants"].values()) == 40
    await live_through(harness, world, steps=1, per_step=40)
    await asyncio.sleep(1.05)
    found = (await http.get("/-/routes/digits")).json()
    assert sum(v["assigned"] for v in found["variants"].values()) == 120


async def test_many_who_ask_at_once_cost_one_report(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    counts = harness.store.counts

    async def counted(*args: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return await counts(*args, **more)

    monkeypatch.setattr(harness.store, "counts", counted)
    http = client("reader")
    answers = await asyncio.gather(*(http.get("/-/routes/digits") for _ in range(20)))
    assert len({a.text for a in answers}) == 1
    assert asked == 2, "once for the report, once for its last minutes"


async def test_lists_leave_out_what_a_key_may_not_see(client: Client) -> None:
    names = {}
    for key in ("reader", "digits-reader", "two-reader"):
        names[key] = [r["route"] for r in (await client(key).get("/-/routes")).json()["routes"]]
    assert names == {
        "reader": ["digits", "shop", "quiet"],
        "digits-reader": ["digits"],
        "two-reader": ["digits", "shop"],
    }


async def test_an_epoch_and_a_beginning_can_be_asked_for(harness: Harness, client: Client) -> None:
    start = harness.clock()
    await live_through(harness, World("digits", {"v1": 0.9, "v2": 0.9}), steps=4, per_step=20)
    http = client("reader")

    async def assigned(query: str) -> int:
        found = (await http.get(f"/-/routes/digits?{query}")).json()
        return sum(v["assigned"] for v in found["variants"].values())

    assert await assigned("") == 80
    assert await assigned(f"since={start + 20}") == 40
    assert 0 < await assigned("epoch=1") < 80


async def test_a_series_has_the_fields_that_are_asked_for(harness: Harness, client: Client) -> None:
    await live_through(harness, World("digits", {"v1": 0.9, "v2": 0.9}), steps=3, per_step=20, step=10.0)

    async def variants(query: str) -> list[dict[str, Any]]:
        found = (await client("reader").get(f"/-/routes/digits/series?step=10{query}")).json()["buckets"]
        return [variant for bucket in found for variant in bucket["variants"].values()]

    everything = await variants("")
    assert {name for one in everything for name in one} == FIGURES
    few = ["assigned", "latency_ms", "to_date"]
    assert await variants(f"&fields={','.join(few)}") == [
        {name: one[name] for name in few} for one in everything
    ]


async def test_a_series_of_the_last_seconds_ends_now(harness: Harness, client: Client) -> None:
    await live_through(harness, World("digits", {"v1": 0.9, "v2": 0.9}), steps=3, per_step=20, step=10.0)
    http, now = client("reader"), harness.clock()
    last = (await http.get("/-/routes/digits/series?last=20&step=10")).json()
    assert (last["since"], last["until"]) == (now - 20, now)
    assert last == (await http.get(f"/-/routes/digits/series?since={now - 20}&until={now}&step=10")).json()


async def test_a_new_route_shows_the_rate_of_the_time_that_there_is(harness: Harness, client: Client) -> None:
    began = harness.clock()
    await live_through(harness, World("digits", {"v1": 0.9, "v2": 0.9}), steps=3, per_step=20, step=10.0)

    async def recent() -> list[dict[str, Any]]:
        http = client("reader")
        listed = (await http.get("/-/routes")).json()["routes"]
        of_list = next(one for one in listed if one["route"] == "digits")
        return [of_list["recent"], (await http.get("/-/routes/digits")).json()["recent"]]

    for found in await recent():
        assert found["assigned"] == 60
        assert found["seconds"] == harness.clock() - began // 10 * 10
    part = await client("reader").get(f"/-/routes/digits?since={harness.clock() - 10}")
    assert part.json()["recent"]["seconds"] == 300, "it is of all decisions of that time"
    await live_through(harness, World("digits", {"v1": 0.9, "v2": 0.9}), steps=1, per_step=1, step=400.0)
    assert [found["seconds"] for found in await recent()] == [300, 300]


async def test_series_say_no_to_the_impossible(client: Client) -> None:
    http = client("reader")
    for query in (
        "since=200&until=100",
        "since=0&until=1800000000&step=10",
        "step=-1",
        "fields=assigned,p99",
        "since=100&last=60",
        "last=0",
    ):
        answer = await http.get(f"/-/routes/digits/series?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
    iso = await http.get(
        "/-/routes/digits/series?since=2027-01-15T08:00:00Z&until=2027-01-15T09:00:00%2B00:00"
    )
    assert iso.json()["until"] - iso.json()["since"] == 3600


FAILED: dict[int, dict[str, Any]] = {
    0: {"status": 500},
    1: {"status": 0, "error": "backend_timeout"},
    2: {"status": 500},
}
"""By number of the request, how its shadow fails."""


async def test_a_shadow_beside_the_primary(harness: Harness, client: Client) -> None:
    made = []
    for k in range(400):
        about = outcome(harness.clock() - 50 + k / 10, route="digits")
        failed = FAILED.get(k, {})
        slow: dict[str, Any] = {"latency_ms": 9000.0} if failed else {"latency_ms": 15.0 + k % 5}
        made.append(
            shadowed(of=about, primary_ms=10.0 + k % 5, agrees=None if failed else True, **{**slow, **failed})
        )
    await harness.store.append([], made)
    http = client("reader")
    found = (await http.get("/-/routes/digits/shadow?shadow=v3")).json()
    assert (found["seen"], found["failed"]) == (400, [["status 500", 2], ["backend_timeout", 1]])
    assert found["latency_ms"]["p50"] == pytest.approx(17.0, rel=0.02)
    assert found["primary_ms"]["p50"] == pytest.approx(12.0, rel=0.02)
    p50 = found["latency"]["p50"]
    assert p50["relative"] == pytest.approx(17 / 12 - 1, abs=0.05)
    low, high = p50["relative_interval"]
    assert 0 < low < 17 / 12 - 1 < high, "shown to be slower"
    assert p50["better"] is False
    none = (await http.get("/-/routes/shop/shadow?shadow=new")).json()
    assert (none["seen"], none["latency"]) == (0, {"p50": None, "p99": None})
    assert (await http.get("/-/routes/digits/shadow?shadow=v9")).status_code == 422


async def test_the_series_of_a_bandit_does_not_read_its_epochs_one_by_one(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live_through(harness, World("digits", {"v1": 0.9, "v2": 0.95}), steps=6, per_step=20, step=10.0)
    read: list[int] = []
    from_store = harness.store.series

    async def counted(*args: Any, **kwargs: Any) -> Any:
        found = await from_store(*args, **kwargs)
        read.append(len(found))
        return found

    monkeypatch.setattr(harness.store, "series", counted)
    found = (await client("reader").get("/-/routes/digits/series?step=3600")).json()["buckets"]
    assert sum(v["assigned"] for bucket in found for v in bucket["variants"].values()) == 120
    cells = [name for bucket in found for name, v in bucket["variants"].items() if v["assigned"]]
    assert read == [len(cells)], "one bucket of each variant, whatever the epoch"
