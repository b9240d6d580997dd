"""What the control API tells of a bandit with features."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import stats

from gateway.compile.ensembles import described, draw
from gateway.compile.plans import plan
from gateway.config.load import load
from gateway.control.gateway_api import RouteStatus
from gateway.control.handlers.record import _sealed
from gateway.control.reports.lift_over_time import lift_over_time
from gateway.control.reports.route import Evidence, report
from gateway.control.schemas.routes import RouteReport
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.record.context import pack
from gateway.record.decision_id import Opened
from gateway.state.base import Counts
from policies.allocate import allocate
from policies.contextual.bandit import Contextual
from policies.contextual.features import encode, fingerprint
from policies.contextual.regression import LinearSums, fit
from policies.sequential.design_based import inverse_weighted
from policies.sequential.metric_comparison import compare_weighted
from policies.types import PairSums, RewardSums
from tests.support.one_route import one_route

FEATURES = "{tier: {header: x-tier, values: [free, paid]}, age: {json: age, maximum: 100}}"
TEXT = one_route(
    f"{{type: bandit, algorithm: linear, metric: right, features: {FEATURES}}}",
    metrics="right: {type: boolean}",
)
DOCUMENT = load(TEXT, source="test", env={})
PLAN = plan(DOCUMENT, "r")
assert isinstance(PLAN, Contextual)
LIVE = RouteStatus(1, 1, allocate(PLAN), {}, {}, described(PLAN, None))
REWARDS = {
    ("v1", "right"): Rewarded(RewardSums(90, 80, 80), RewardSums(90, 80, 80)),
    ("v2", "right"): Rewarded(RewardSums(90, 10, 10), RewardSums(90, 10, 10)),
}


def test_nobody_is_best_for_all() -> None:
    found = report("r", DOCUMENT, Evidence(rewards=REWARDS), LIVE, None, now=1.0)
    RouteReport.model_validate(found)
    assert (found["metric"], found["goal"]) == ("right", "maximize")
    assert found["variants"]["v1"]["rewards"]["right"]["mean"] == pytest.approx(80 / 90)
    assert found["variants"]["v1"]["probability_best"] is None
    assert found["variants"]["v1"]["expected_loss"] is None
    assert found["variants"]["v2"]["lift"] == {}
    assert found["contextual"]["coefficients"] == {}
    assert found["contextual"]["features"] == ["tier", "age"]


def test_variants_are_compared_over_all_requests() -> None:
    """By inverse propensities, over the times at which both could be drawn; not without a floor."""
    rng, pairs = np.random.default_rng(6), {}
    for variant, mean in (("v1", 0.3), ("v2", 0.8)):
        w, y = 1 / rng.choice([0.05, 0.95], 400), rng.random(400) < mean
        pairs[variant] = PairSums.of(w * y, w)
    rewards = {key: replace(one, inverse=pairs[key[0]]) for key, one in REWARDS.items()}
    buckets = [
        RewardedBucket(
            10.0 * n,
            v,
            1,
            Counts(400, expected=share),
            {"right": rewards[v, "right"]},
        )
        for n, shares in enumerate(({"v1": 400.0, "v2": 400.0}, {"v1": 400.0, "v2": 0.0}))
        for v, share in shares.items()
        if n == 0 or v == "v1"
    ]
    evidence = Evidence(rewards=rewards, buckets=buckets)
    found = report("r", DOCUMENT, evidence, LIVE, None, now=1.0)
    RouteReport.model_validate(found)
    assert set(found["variants"]["v2"]["lift"]) == {"right"}, "errors and latencies have no weights"
    lift, each = found["variants"]["v2"]["lift"]["right"], [inverse_weighted(pairs[v]) for v in ("v1", "v2")]
    wanted = compare_weighted(*each, ratio=False)
    assert lift["absolute"] == pytest.approx(wanted.candidate - wanted.baseline)
    assert lift["interval"] == pytest.approx(wanted.interval(0.05, 1.0))
    assert (lift["method"], lift["better"]) == ("weighted", True)
    assert isinstance(PLAN, Contextual)
    drawn = partial(
        lift_over_time, PLAN.variants, DOCUMENT.metrics, buckets, baseline="v1", points=60, by_request=True
    )
    last = drawn(metric="right", now=20.0)["v2"][-1]
    assert last == {"time": 20.0} | {
        key: lift[key] for key in ("absolute", "interval", "better", "adjusted_by")
    }
    assert drawn(metric="error_rate", now=20.0) == {}
    edited = load(TEXT.replace("metric: right", "metric: right, floor: 0%"), source="test", env={})
    assert report("r", edited, evidence, LIVE, None, now=1.0)["variants"]["v2"]["lift"] == {}


def test_sticky_units_of_a_bandit_with_features_are_compared_by_the_variance_between_them() -> None:
    """Eighty units of each variant with five requests each, all of which are right or all wrong."""
    rng, rewards, sides = np.random.default_rng(8), {}, []
    for variant, mean in (("v1", 0.3), ("v2", 0.8)):
        unit, w = np.arange(400) // 5, 1 / rng.choice([0.2, 0.8], 400)
        y = (rng.random(80) < mean).astype(float)[unit]
        own = PairSums.of(*(np.bincount(unit, part).astype(float) for part in (w * y, w)))
        values = RewardSums(400, y.sum(), y.sum())
        means = RewardSums(80, y[::5].sum(), y[::5].sum())
        rewards[variant, "right"] = Rewarded(values, means, weighted=own, inverse=PairSums.of(w * y, w))
        deviations = w * (y - w @ y / w.sum())
        effect = np.square(np.bincount(unit, deviations)).sum() / np.square(deviations).sum()
        groups = w.sum() ** 2 / np.square(np.bincount(unit, w)).sum()
        sides.append(inverse_weighted(PairSums.of(w * y, w)).by_unit(float(effect), float(groups)))
    buckets = [
        RewardedBucket(10.0, v, 1, Counts(400, expected=400.0), {"right": rewards[v, "right"]})
        for v in ("v1", "v2")
    ]
    edited = load(TEXT.replace("variants:", "unit: {header: x-id}\n    variants:"), source="test", env={})
    found = report("r", edited, Evidence(rewards=rewards, buckets=buckets), LIVE, None, now=1.0)
    lift, wanted = found["variants"]["v2"]["lift"]["right"], compare_weighted(*sides, ratio=False)
    assert (lift["method"], lift["unit"]) == ("weighted", "units")
    assert lift["absolute"] == pytest.approx(wanted.candidate - wanted.baseline)
    assert lift["interval"] == pytest.approx(wanted.interval(0.05, 1.0))
    drawn = lift_over_time(
        ("v1", "v2"),
        DOCUMENT.metrics,
        buckets,
        metric="right",
        baseline="v1",
        points=9,
        now=20.0,
        by_request=True,
        sticky=True,
    )
    assert drawn["v2"][-1]["interval"] == pytest.approx(lift["interval"])


def test_coefficients_come_with_their_credible_intervals() -> None:
    assert isinstance(PLAN, Contextual)
    rng = np.random.default_rng(2)
    rows = [encode(PLAN.features, {"tier": ("free", "paid")[k % 2], "age": k % 100}) for k in range(80)]
    sums = {"v1": LinearSums.of(rows, [0.5 * row[2] + rng.normal(0, 0.1) for row in rows])}
    shown = described(PLAN, draw(PLAN, sums, {}, (1, 2)))
    json.dumps(shown, allow_nan=False)
    found = report("r", DOCUMENT, Evidence(), replace(LIVE, contextual=shown), None, now=1.0)
    RouteReport.model_validate(found)
    assert found["contextual"]["rewards"] == {"v1": 80.0, "v2": 0.0}
    (made, _) = fit([sums["v1"], LinearSums.empty(PLAN.width)])
    scale = np.sqrt(made.b / made.a * np.linalg.inv(made.precision)[2, 2])
    low, high = stats.t(2 * made.a, made.mean[2], scale).interval(0.95)
    paid = found["contextual"]["coefficients"]["v1"]["tier=paid"]
    assert paid["mean"] == pytest.approx(made.mean[2])
    assert paid["interval"] == pytest.approx([low, high])


def test_segments_hold_the_predictions_of_every_variant() -> None:
    assert isinstance(PLAN, Contextual)
    rows = [encode(PLAN.features, {"tier": ("free", "paid")[k % 2], "age": k % 100}) for k in range(400)]
    # v1 is right for free users, v2 for paid ones.
    sums = {
        "v1": LinearSums.of(rows, [row[1] for row in rows]),
        "v2": LinearSums.of(rows, [row[2] for row in rows]),
    }
    found = report("r", DOCUMENT, Evidence(rows=sums), LIVE, None, now=1.0)
    RouteReport.model_validate(found)
    by = {(one["feature"], one["value"]): one for one in found["contextual"]["segments"]}
    assert list(by)[:3] == [("", "all requests"), ("tier", "free"), ("tier", "paid")]
    assert by["tier", "free"]["rewards"] == 400
    assert by["tier", "free"]["means"]["v1"]["mean"] == pytest.approx(1.0, abs=0.02)
    assert by["tier", "free"]["differences"]["v2"]["absolute"] == pytest.approx(-1.0, abs=0.02)
    assert by["tier", "paid"]["differences"]["v2"]["absolute"] == pytest.approx(1.0, abs=0.02)
    low, high = by["", "all requests"]["differences"]["v2"]["interval"]
    assert low < 0 < high, "over all requests neither is better"
    assert "v1" not in by["tier", "free"]["differences"], "the baseline"


def test_a_sealed_id_says_what_the_policy_saw() -> None:
    assert isinstance(PLAN, Contextual)
    row = encode(PLAN.features, {"tier": "paid", "age": 75})
    of = fingerprint(PLAN.features)
    opened = Opened(bytes(16), 1.0, 7, "r", "v1", "v1", 3, 0.5, False, pack(of, row))
    assert _sealed(opened)["context"] == {"fingerprint": of.hex(), "row": list(row)}
    assert _sealed(opened._replace(context=b""))["context"] is None
