"""Variants against each other: in always-valid intervals of the same sums that the report shows."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from gateway.config.service import MetricConfig
from gateway.control.reports.lift import HEALTH, Comparisons
from gateway.control.reports.observed import Observed
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.record.events import Outcome
from gateway.state.base import Counts
from policies.sequential.design_based import WeightedSums
from policies.sequential.metric_comparison import compare_weighted
from policies.sequential.two_sample import (
    BoundedMartingale,
    RateMartingale,
    UnitShareMartingale,
    difference_interval,
    ratio_interval,
)
from policies.types import RewardSums
from tests.control.conftest import Client
from tests.support.harness import Harness
from tests.support.made import reward
from tests.support.seed import World, live_through

SAME = World("digits", {"v1": 0.8, "v2": 0.8, "v3": 0.8})
APART = World("digits", {"v1": 0.5, "v2": 0.95, "v3": 0.95})


async def read(client: Client, path: str = "routes/digits") -> Any:
    found = await client("reader").get(f"/-/{path}")
    assert found.status_code == 200, found.text
    return found.json()


async def test_the_lift_under_constant_shares_is_the_exact_interval(harness: Harness, client: Client) -> None:
    await live_through(harness, World("shop", {"old": 0.5, "new": 0.95}), steps=10, per_step=40)
    report = await read(client, "routes/shop")
    assert report["compared_with"] == "old"
    rates = {
        name: RateMartingale(v["rewards"]["correct"]["mean"] * n, n)
        for name, v in report["variants"].items()
        if (n := v["rewards"]["correct"]["observations"])
    }
    lift = report["variants"]["new"]["lift"]["correct"]
    assert (lift["baseline"], lift["method"], lift["unit"]) == ("old", "pooled", "requests")
    assert lift["interval"] == pytest.approx(difference_interval(rates["old"], rates["new"], 0.05))
    ratio = ratio_interval(rates["old"], rates["new"], 0.05)
    assert lift["relative_interval"] == pytest.approx([end - 1 for end in ratio])
    assert lift["better"] is True


@pytest.mark.long
async def test_a_bandits_lift_weighs_each_decision_by_the_shares_of_its_moment(
    harness: Harness, client: Client
) -> None:
    """Its shares move, so the difference is that of the overlap-weighted means of the record."""
    outcomes = await live_through(harness, World("digits", {"v1": 0.8, "v2": 0.85}), steps=15, per_step=60)
    weights: dict[str, float] = defaultdict(float)
    totals: dict[str, float] = defaultdict(float)
    for one in outcomes:
        for given in (await harness.store.decision(one.decision)).rewards:
            weights[one.assigned] += 1 - one.propensity
            totals[one.assigned] += (given.value or 0.0) * (1 - one.propensity)
    report = await read(client)
    lift = report["variants"]["v2"]["lift"]["correct"]
    assert lift["method"] == "weighted"
    expected = totals["v2"] / weights["v2"] - totals["v1"] / weights["v1"]
    assert lift["absolute"] == pytest.approx(expected, rel=1e-9)
    low, high = lift["interval"]
    assert low < expected < high
    assert report["standings"]["correct"]["leader"] == ("v2" if expected > 0 else "v1")
    assert report["variants"]["v1"]["lift"] == {}
    assert set(report["variants"]["v2"]["lift"]) == {"correct", *HEALTH}
    assert report["variants"]["v2"]["lift"]["latency_p50"]["method"] == "matched"


async def test_errors_of_sticky_units_count_by_unit(harness: Harness, client: Client) -> None:
    """Five users whose requests all fail on one variant are five observations, not hundreds."""
    text = harness.revision().document.replace("  shop:\n", "  shop:\n    unit: {header: x-user-id}\n")
    changed = await client("ops").put(
        "/-/config", content=text, headers={"if-match": harness.revision().etag}
    )
    assert changed.status_code == 200, changed.text
    world = World("shop", {"old": 0.5, "new": 0.5}, errors={"new": 1.0}, units=5)
    await live_through(harness, world, steps=10, per_step=60)
    lift = (await read(client, "routes/shop"))["variants"]["new"]["lift"]["error_rate"]
    assert lift["unit"] == "units"
    assert lift["absolute"] == 1.0
    assert lift["interval"] == pytest.approx(
        difference_interval(
            UnitShareMartingale(RewardSums(5, 0, 0)), UnitShareMartingale(RewardSums(5, 5, 5)), 0.05
        )
    )
    since = (await read(client, "routes/shop?since=1"))["variants"]["new"]["lift"]
    assert "error_rate" not in since, "the units of a part of the record are not known"


async def test_a_part_of_a_sticky_bandits_record_is_compared_by_all_values_of_its_units(
    harness: Harness, client: Client
) -> None:
    """Their sums stand where each unit came first: a part had those of new units, which send the fewest requests."""
    text = harness.revision().document.replace("  digits:\n", "  digits:\n    unit: {header: x-user-id}\n")
    changed = await client("ops").put(
        "/-/config", content=text, headers={"if-match": harness.revision().etag}
    )
    assert changed.status_code == 200, changed.text
    rng, made, values = np.random.default_rng(4), list[Outcome](), dict[bytes, float]()
    world = World("digits", {}, metric=None, units=500)
    for seed in range(20):
        outcomes = await live_through(harness, world, steps=1, per_step=150, seed=seed)
        outcomes = [o._replace(unit=o.unit**2 // 500) for o in outcomes]  # few send most of them
        values |= {o.decision: float(rng.random() < 0.2 + 0.6 * (o.unit % 2)) for o in outcomes}
        await harness.store.reward([reward(values[o.decision], of=o, period="all") for o in outcomes])
        made += outcomes
    part = [o for o in made if o.time >= made[1500].time // 10 * 10]
    drawn = {(o.epoch, o.assigned): o.propensity for o in made}
    sides = []
    for variant, other in (("v1", "v2"), ("v2", "v1")):
        mine = [o for o in part if o.assigned == variant]
        w = np.asarray([q / (o.propensity + q) for o in mine for q in (drawn[o.epoch, other],)])
        y = np.asarray([values[o.decision] for o in mine])
        deviations, units = w * (y - w @ y / w.sum()), [o.unit for o in mine]
        effect = (np.bincount(units, deviations) ** 2).sum() / (deviations**2).sum()
        sums = [float(part.sum()) for part in (w, w * y, w * y**2, w**2, (w * y) * w, (w * y) ** 2)]
        groups = w.sum() ** 2 / (np.bincount(units, w) ** 2).sum()
        sides.append(WeightedSums(len(mine), *sums).by_unit(float(effect), float(groups)))
    exact = compare_weighted(*sides, ratio=False)
    lift = (await read(client, f"routes/digits?since={part[0].time // 10 * 10}"))["variants"]["v2"]["lift"][
        "correct"
    ]
    assert lift["method"] == "weighted"
    assert lift["absolute"] == pytest.approx(exact.candidate - exact.baseline)
    (low, high), by_unit = lift["interval"], exact.interval(0.05 / 3, 1.0)
    assert by_unit is not None
    assert low < by_unit[0] < by_unit[1] < high, "as wide at least as between the units of the part"


@pytest.mark.long
async def test_two_that_are_the_same_are_undecided(harness: Harness, client: Client) -> None:
    await live_through(harness, SAME, steps=20, per_step=40)
    report = await read(client)
    standing = report["standings"]["correct"]
    assert standing["leads"] is False
    assert standing["trails"] is False
    low, high = standing["difference"]["interval"]
    assert low < 0 < high


async def test_the_baseline_can_be_chosen(harness: Harness, client: Client) -> None:
    await live_through(harness, APART, steps=5, per_step=40)
    report = await read(client, "routes/digits?baseline=v2")
    assert report["compared_with"] == "v2"
    assert report["variants"]["v1"]["lift"]["correct"]["absolute"] < 0
    refused = await client("reader").get("/-/routes/digits?baseline=nope")
    assert refused.status_code == 422
    assert "v1, v2, v3" in refused.json()["error"]["message"]


async def test_the_step_of_a_rollout_keeps_its_evidence(harness: Harness, client: Client) -> None:
    """T3: the verdict that decided is told until the next step, whatever the new window says."""
    verdict = {"metric": "error_rate", "verdict": "fail", "estimate": 0.066, "interval": [0.011, 0.153]}
    step = {"source": "running", "target": "rolled_back", "reason": "why", "actor": "", "evidence": [verdict]}
    harness.rollouts["shop"] = {"state": "rolled_back", "phase": "canary", "stage": 0, "verdicts": []}
    await harness.emit("rollout", "shop", step)
    for n in range(30):
        await harness.emit("allocation", "shop", {"epoch": n})
    report = await read(client, "routes/shop")
    assert report["rollout"]["decided"]["evidence"] == [verdict]
    assert report["rollout"]["decided"]["time"] == harness.clock()
    listed = (await read(client, "routes"))["routes"]
    assert next(r for r in listed if r["route"] == "shop")["rollout"]["decided"]["target"] == "rolled_back"


async def test_the_list_tells_alarms(harness: Harness, client: Client) -> None:
    """T1: the page that people keep open says that an experiment is broken."""
    alarms = [{"code": "no_rewards", "message": "No reward was ever reported for v2."}]
    await harness.store.save("alarms", "digits", json.dumps(alarms), expected=0)
    listed = {r["route"]: r["alarms"] for r in (await read(client, "routes"))["routes"]}
    assert listed == {"digits": alarms, "shop": [], "quiet": []}


async def test_the_list_tells_alarms_of_the_gateway_as_a_whole(harness: Harness, client: Client) -> None:
    """They were in events, metrics and the log alone: a look at the status later showed none."""
    now = harness.clock()
    kept = [
        {
            "code": "engine_silent",
            "message": "Nodes do not follow their routes: e1 of edge.",
            "since": now - 1e6,
        },
        {"code": "record_loss", "message": "8 outcomes were not recorded.", "since": now - 60},
    ]
    await harness.store.save("alarms", "", json.dumps(kept), expected=0)
    assert (await read(client, "routes"))["alarms"] == kept


async def test_only_the_metrics_that_a_route_names_are_its_own(harness: Harness, client: Client) -> None:
    uses = {name: (await read(client, f"routes/{name}"))["uses"] for name in ("digits", "shop", "quiet")}
    assert uses == {"digits": ["correct"], "shop": [], "quiet": []}


def test_quantiles_of_few_latencies_are_not_subtracted() -> None:
    counts = {
        name: Counts(assigned=9, served=9, latency={40: 8, cell: 1})
        for name, cell in (("old", 41), ("new", 90))
    }
    found = Comparisons(("old", "new"), {}, Observed(counts=counts)).lift("new", "old")["latency_p99"]
    assert (found["absolute"], found["interval"], found["relative"]) == (None, None, None)


def test_a_capped_metric_is_compared_exactly() -> None:
    """Thirty values of each: too few for the asymptotic interval, enough for the exact one."""
    sums = {("old", "spend"): RewardSums(30, 30, 30), ("new", "spend"): RewardSums(30, 270, 2430)}
    spend = MetricConfig.model_validate({"type": "real", "minimum": 0, "cap": 10})
    observed = Observed(rewards={key: Rewarded(one, one) for key, one in sums.items()})
    found = Comparisons(("old", "new"), {"spend": spend}, observed).lift("new", "old")["spend"]
    first, second = (
        BoundedMartingale(RewardSums(s.count, s.total / 10, s.squares / 100)) for s in sums.values()
    )
    low, high = difference_interval(first, second, 0.05)
    assert found["interval"] == pytest.approx([10 * low, 10 * high])
    assert found["better"] is True


def test_a_ratio_without_an_upper_end_says_so() -> None:
    """It read "+56755800625552.84%"."""
    counts = {"old": Counts(100, 100, 1), "new": Counts(3, 3, 2)}
    found = Comparisons(("old", "new"), {}, Observed(counts)).lift("new", "old")["error_rate"]
    assert -1 < found["relative_interval"][0] < 0
    assert found["relative_interval"][1] is None


@pytest.mark.parametrize(
    ("sticky", "later", "method"), [(False, 0.0, "pooled"), (False, 0.001, "matched"), (True, 0.0, "matched")]
)
def test_few_values_are_compared_where_shares_moved(*, sticky: bool, later: float, method: str) -> None:
    """After the rollback of a candidate that had few requests, its difference had no interval.

    It is that of the time before, if the shares were constant then; ``later`` is the candidate's share afterwards.
    """
    canary = {"old": Counts(380, 380, 4, expected=380), "new": Counts(20, 20, 15, expected=20)}
    after = {
        "old": Counts(400, 400, 4, expected=400 * (1 - later)),
        "new": Counts(0, 0, 0, expected=400 * later),
    }
    sums = {"old": RewardSums(380, 376, 376), "new": RewardSums(20, 5, 5)}
    good = {v: Rewarded(one, one) for v, one in sums.items()}
    buckets = [
        RewardedBucket(10.0 * n, v, 1 if n < 1 else 2, counts[v], {"ok": good[v]} if n < 1 else {})
        for n, counts in enumerate([canary, *[after] * 50])
        for v in counts
    ]
    observed = Observed(
        {"old": Counts(20_380, 20_380, 204), "new": canary["new"]},
        {(v, "ok"): one for v, one in good.items()},
        buckets,
        sticky=sticky,
    )
    declared = {"ok": MetricConfig.model_validate({"type": "boolean"})}
    lift = Comparisons(("old", "new"), declared, observed).lift("new", "old")
    for metric, low, high in [("ok", -1, 0)] if sticky else [("ok", -1, 0), ("error_rate", 0, 1)]:
        assert (lift[metric]["method"], lift[metric]["better"]) == (method, False)
        assert low < lift[metric]["interval"][0] < lift[metric]["interval"][1] < high
    if method == "pooled":
        exact = difference_interval(RateMartingale(4, 380), RateMartingale(15, 20), 0.05)
        assert lift["error_rate"]["interval"] == pytest.approx(exact)
