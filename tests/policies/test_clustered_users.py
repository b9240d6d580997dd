from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.allocation.bandit import Bandit, Objective
from policies.allocation.bucketing import allocation
from policies.allocation.fixed_plans import Split
from policies.simulation.bandit import run
from policies.simulation.clustered_users import ServedUsers, UserPopulation
from policies.simulation.worlds import World, standard
from policies.types import MetricType

EQUAL = replace(standard(requests=3000)["heavy users"], means=(("v1", 0.3), ("v2", 0.3)))


def intervals_that_hold(world: World) -> float:
    report = run(Split.of(dict.fromkeys(world.variants, 1.0)), world, repetitions=60, refreshes=10, seed=2)
    assert report.coverage is not None
    return report.coverage.value


@pytest.mark.long
def test_counting_the_rewards_of_heavy_users_makes_intervals_that_do_not_hold() -> None:
    assert intervals_that_hold(EQUAL) < 0.5
    assert intervals_that_hold(replace(EQUAL, users=UserPopulation(once_per_unit=True))) >= 0.95
    assert intervals_that_hold(replace(EQUAL, users=None)) > 0.9


def test_a_population_of_equally_busy_and_independent_users_changes_nothing() -> None:
    assert intervals_that_hold(replace(EQUAL, users=UserPopulation(units=300, skew=0.0, icc=1e-4))) > 0.9


def test_a_bandit_keeps_units_where_they_are() -> None:
    world = replace(EQUAL, means=(("v1", 0.2), ("v2", 0.5)))
    plan = Bandit(world.variants, (Objective("m"),), floor=0.01)
    report = run(plan, world, repetitions=10, refreshes=20, seed=1)
    assert report.regret.high < report.even_regret
    assert report.shares["v2"] > 0.8


def test_the_busiest_unit_sends_as_much_as_zipf_says() -> None:
    activity = UserPopulation(units=3).activity
    assert activity == pytest.approx(np.array([6, 3, 2]) / 11)


@pytest.mark.parametrize("model", ["boolean", "fraction", "count", "real"])
def test_units_earn_the_mean_and_their_rewards_go_together(model: MetricType) -> None:
    """Of two rewards of one unit the correlation is `icc`, for each kind of metric that has one by its own."""
    world = World("w", (("a", 0.4), ("b", 0.4)), model=model, sd=2.0)
    users, rng = UserPopulation(icc=0.3), np.random.default_rng(1)
    unit = users.unit_means(model, rng.random(60_000), np.full(60_000, 0.4), 2.0)
    assert unit.mean() == pytest.approx(0.4, abs=0.02)
    pair = [world.draw_each(rng, np.ones(60_000, dtype=np.int64), unit)[:, 1] for _ in range(2)]
    correlation = np.corrcoef(pair[0], pair[1])[0, 1]
    # A fraction is the average of two flips and a real value has its own sd beside: both are less, or more, alike.
    expected = {"boolean": 0.3, "count": 0.3, "fraction": 0.3 * 2 / 1.3, "real": 0.3 / 1.3}[model]
    assert correlation == pytest.approx(expected, abs=0.015)


def test_requests_go_where_the_ranges_say_and_sums_add_up() -> None:
    world = EQUAL
    served = ServedUsers(UserPopulation(units=50), "boolean", 1.0, (2, 2), np.random.default_rng(3))
    made = [allocation({"v2": 0.0, "v1": 1.0}), allocation({"v1": 0.25, "v2": 0.75})]
    n, added, since = served.serve(made, world.variants, 40_000, np.array([0.3, 0.3]), world.draw_each)
    assert n.sum(axis=1).tolist() == [40_000, 40_000]
    assert n[0].tolist() == [40_000, 0]
    assert (added.sum(axis=1)[..., 0] == n).all()
    assert (since == 0).all()
    owner = [made[1].variants[made[1].pick(u)] for u in served.points[1].tolist()]
    mine = served.users.activity[[name == "v2" for name in owner]].sum()
    assert n[1, 1] / 40_000 == pytest.approx(mine, abs=0.02)


def test_a_unit_that_reports_once_is_one_observation_however_much_it_sends() -> None:
    served = ServedUsers(
        UserPopulation(units=5, once_per_unit=True), "boolean", 1.0, (1, 2), np.random.default_rng(3)
    )
    made = [allocation({"v1": 1.0, "v2": 0.0})]
    total = np.zeros(3)
    for _ in range(4):
        total += served.serve(made, EQUAL.variants, 300, np.array([0.3, 0.3]), EQUAL.draw_each)[1][
            0, :, 0
        ].sum(axis=0)
    count, of = served.sums[0, :, 0, 0], served.sums[0, :, 0, 1]
    assert total[0] == 5
    assert total[1] == pytest.approx((of / count).sum())
    assert total[2] == pytest.approx(((of / count) ** 2).sum())


def test_what_is_forgotten_of_a_unit_is_as_old_as_its_first_value() -> None:
    """With a half-life of 2 periods a unit is one observation in each two; corrections are of that one's age."""
    made = [allocation({"v1": 1.0, "v2": 0.0})]
    users = UserPopulation(units=4, skew=0.0, once_per_unit=True)
    served = ServedUsers(users, "boolean", 1.0, (1, 2), np.random.default_rng(3), span=2.0)
    keep = 0.5**0.5
    sums, faded = np.zeros(3), np.zeros(3)
    expected: dict[int, np.ndarray] = {}
    for period in range(6):
        _, added, since = served.serve(made, EQUAL.variants, 200, np.array([0.3, 0.3]), EQUAL.draw_each)
        sums += added[0, :, 0].sum(axis=0)
        faded = keep * faded + (keep ** (period - since[0, :, 0]) @ added[0, :, 0])
        mean = served.sums[0, :, 0, 1] / served.sums[0, :, 0, 0]
        first = period - period % 2
        expected[first] = np.array([4.0, mean.sum(), (mean * mean).sum()])
        assert sums == pytest.approx(sum(expected.values()))
        assert faded == pytest.approx(sum(keep ** (period - at) * one for at, one in expected.items()))


@pytest.mark.long
def test_a_policy_that_forgets_handles_sticky_users() -> None:
    plan = Bandit(EQUAL.variants, (Objective("m"),), floor=0.01, half_life=300.0)
    world = replace(EQUAL, means=(("v1", 0.1), ("v2", 0.6)), users=UserPopulation(once_per_unit=True))
    report = run(plan, world, repetitions=10, refreshes=30, seed=1)
    assert report.regret.high < report.even_regret


def test_impossible_populations_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one unit"):
        UserPopulation(units=0)
    with pytest.raises(ValueError, match="icc between 0 and 1"):
        UserPopulation(icc=1.0)
    with pytest.raises(ValueError, match="no delayed, missing or forged"):
        replace(EQUAL, delay=0.1)
