from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from policies.allocation.bandit import Bandit, Objective
from policies.allocation.fixed_plans import Single, Split
from policies.contextual.bandit import Contextual, ensemble
from policies.contextual.features import Categorical, Feature, Numeric, columns, encode
from policies.contextual.regression import LinearSums
from policies.simulation.contextual import ContextReport, run, shares_of
from policies.simulation.worlds_contextual import ContextWorld, Rows, standard, width

WORLDS = standard((0.4, 0.4), requests=3000)
PLAIN = WORLDS["features decide"]


def linear(world: ContextWorld, **rest: float) -> Contextual:
    return Contextual(world.variants, "m", world.features, world.goal, **{"floor": 0.01, **rest})  # type: ignore[arg-type]


def thompson(world: ContextWorld) -> Bandit:
    return Bandit(world.variants, (Objective("m", world.model, world.goal),), floor=0.01)


def simulate(name: str) -> tuple[ContextReport, ContextReport]:
    """(linear, without features) in the same world."""
    world = WORLDS[name]
    one, other = (
        run(plan, world, repetitions=6, refreshes=30, seed=3) for plan in (linear(world), thompson(world))
    )
    return one, other


@pytest.mark.long
def test_features_that_decide_are_learned_and_beat_the_best_single_variant() -> None:
    looking, blind = simulate("features decide")
    assert looking.regret.high < blind.regret.low
    assert looking.regret_single.high < 0 <= blind.regret_single.high
    assert looking.best_share.low > 0.75
    assert blind.best_share.high < 0.6


def test_features_that_say_nothing_cost_little() -> None:
    world = replace(WORLDS["features irrelevant"], means=(("v1", 0.3), ("v2", 0.4)))
    report = run(linear(world), world, repetitions=8, refreshes=30, seed=3)
    assert report.regret.high < 0.6 * report.even_regret.value
    assert report.regret == pytest.approx(report.regret_single), "the best for each is the best of all"


@pytest.mark.long
def test_what_drifts_in_the_features_alone_does_not_mislead() -> None:
    looking, blind = simulate("features drift")
    assert looking.regret.high < blind.regret.low


def test_a_request_without_the_feature_is_worth_what_the_others_average() -> None:
    world = replace(PLAIN, missing=1.0)
    rows = world.rows(np.random.default_rng(1), 500, 0.3)
    assert (rows.x[:, 1] == 0).all()
    assert (rows.x[:, 2] == 1).all()
    assert rows.seen == pytest.approx(np.full((500, 2), 0.4))
    assert rows.means.std() > 0.05
    assert run(linear(world), world, repetitions=2, refreshes=5).regret.value == 0.0


@pytest.mark.long
def test_preferences_that_turn_are_lost_on_a_policy_that_does_not_forget() -> None:
    report = simulate("preferences turn")[0]
    halves = [next(p for p in report.curve if p.requests >= n).best_share.value for n in (1500, 3000)]
    assert halves[0] > 0.7 > halves[1]


@pytest.mark.slow
def test_a_policy_that_forgets_follows_preferences_that_turn() -> None:
    world = replace(WORLDS["preferences turn"], requests=6000)
    for plan in (linear, thompson):
        kept, forgotten = (
            run(replace(plan(world), half_life=h), world, repetitions=5, refreshes=40, seed=3)
            for h in (None, 300.0)
        )
        if plan is linear:
            assert forgotten.regret.high < kept.regret.low
        assert forgotten.regret != kept.regret


@pytest.mark.long
def test_no_straight_line_can_follow_a_bent_world() -> None:
    looking, _ = simulate("no straight line")
    assert looking.regret_single.high > -0.1 * looking.even_regret.value


@pytest.mark.parametrize("drifts", [False, True])
@pytest.mark.parametrize(
    "features",
    [
        (Numeric("n", -5, 5),),
        (Categorical("c", ("x", "y", "z")), Numeric("n", 0, 2)),
        (Categorical("one", ("x",)),),
    ],
)
def test_rows_are_those_that_encode_writes(features: tuple[Feature, ...], drifts: bool) -> None:
    world = replace(PLAIN, features=features, drifts=drifts)
    rows = world.rows(np.random.default_rng(2), 400, 0.0)
    assert rows.x.shape == (400, width(world)) == (400, len(columns(features)))
    for row in rows.x[:50].tolist():
        assert tuple(row) == pytest.approx(encode(features, decoded(features, row)), abs=1e-3)
    assert abs(rows.seen[:, 1].mean() - 0.4) < 0.03 or drifts


def decoded(features: tuple[Feature, ...], row: list[float]) -> dict[str, str | float]:
    """Raw values that a request with this row could have had."""
    raw: dict[str, str | float] = {}
    at = 1
    for feature in features:
        if isinstance(feature, Numeric):
            raw[feature.name] = feature.minimum + (row[at] + 1) / 2 * (feature.maximum - feature.minimum)
            at += 2
        else:
            found = [value for k, value in enumerate(feature.values) if row[at + k]]
            raw[feature.name] = found[0] if found else "another"
            at += len(feature.values)
    return raw


def test_many_rows_at_once_get_the_shares_that_each_would() -> None:
    rng = np.random.default_rng(5)
    plan = linear(PLAIN, floor=0.05)
    x = PLAIN.rows(rng, 40, 0.2).x
    sums = {v: LinearSums.of(x, rng.random(40)) for v in plan.variants}
    for caps in ({}, {"v1": 0.3}):
        drawn = ensemble(plan, sums, rng, caps)
        assert shares_of(drawn, x) == pytest.approx(np.array([drawn.shares(row) for row in x.tolist()]))


@pytest.mark.slow
def test_the_draw_follows_the_propensities() -> None:
    report = run(linear(PLAIN, floor=0.1), PLAIN, repetitions=30, refreshes=10, seed=2)
    assert report.weight.low < 1.0 < report.weight.high
    assert report.weight.high - report.weight.low < 0.1


def test_an_even_split_loses_what_arithmetic_says() -> None:
    world = replace(PLAIN, tilt=0.2)
    report = run(Split.of(dict.fromkeys(world.variants, 1.0)), world, repetitions=50, refreshes=3, seed=1)
    exact = 3000 * 0.5 * 0.2  # E|s| = ½, and half of the requests lose 2 x 0.2 |s|
    assert report.regret.low < exact < report.regret.high
    assert report.even_regret.low < exact < report.even_regret.high
    one = run(Single("v1"), world, repetitions=20, refreshes=3, seed=1)
    assert one.regret.low < exact < one.regret.high
    assert one.regret_single.low <= 10


@pytest.mark.parametrize(
    ("model", "mean", "variance"),
    [("boolean", 0.3, 0.21), ("fraction", 0.3, 0.105), ("count", 2.5, 2.5), ("real", -4.0, 9.0)],
)
def test_rewards_are_those_of_the_metric(model: str, mean: float, variance: float) -> None:
    world = ContextWorld("w", (("a", mean), ("b", mean)), PLAIN.features, model=model, sd=3.0)  # type: ignore[arg-type]
    drawn = world.rewards(np.random.default_rng(1), np.full(100_000, mean))
    assert drawn.mean() == pytest.approx(mean, abs=0.04)
    assert drawn.var() == pytest.approx(variance, rel=0.03)


def test_less_is_better_where_the_goal_says_so() -> None:
    world = replace(PLAIN, goal="minimize", requests=2000)
    report = run(linear(world), world, repetitions=4, refreshes=20, seed=1)
    assert report.best_share.low > 0.7


def test_the_same_seed_gives_the_same_report_as_plain_data() -> None:
    told: list[tuple[int, int]] = []
    one, two, other = (
        run(linear(PLAIN), PLAIN, repetitions=2, refreshes=4, seed=s, progress=lambda *a: told.append(a))
        for s in (1, 1, 2)
    )
    assert one == two != other
    assert told[:2] == [(1, 2), (2, 2)]
    data = json.loads(json.dumps(one.as_dict()))
    assert data["curve"][-1]["regret"] == data["regret"]


def test_a_plan_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no variant 'else'"):
        run(Single("else"), PLAIN)
    with pytest.raises(ValueError, match="other features"):
        run(Contextual(PLAIN.variants, "m", PLAIN.features[:1]), PLAIN)
    with pytest.raises(ValueError, match="to minimize, the world to maximize"):
        run(Contextual(PLAIN.variants, "m", PLAIN.features, "minimize"), PLAIN)
    with pytest.raises(ValueError, match="one boolean metric to maximize"):
        run(Bandit(PLAIN.variants, (Objective("m", "real"),)), PLAIN)


@pytest.mark.parametrize(
    "bad",
    [
        {"means": (("a", 0.5),)},
        {"features": ()},
        {"tilt": 0.5},
        {"missing": 1.5},
        {"missing": 0.5, "drifts": True},
        {"bent": True, "features": (Categorical("c", ("x",)),)},
        {"model": "count", "means": (("a", 0.1), ("b", 3.0)), "tilt": 0.2},
    ],
)
def test_worlds_that_cannot_be_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs|missing|tilt"):
        replace(PLAIN, **bad)  # type: ignore[arg-type]


def test_rows_are_a_fresh_draw_each_time() -> None:
    rng = np.random.default_rng(1)
    one, two = (PLAIN.rows(rng, 5, 0.0) for _ in range(2))
    assert isinstance(one, Rows)
    assert not np.array_equal(one.x, two.x)
