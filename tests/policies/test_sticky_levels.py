"""Sticky users, a bandit that moves its shares, and a level that moves for all variants alike."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.sticky_levels import LEVELS, Users, plan, simulate
from policies.sequential.design_based import Period, Periods, UnitSums, WeightedSums, design_effect
from policies.types import PairSums, RewardSums


@pytest.mark.long
@pytest.mark.parametrize(("level", "seed"), [("20 to 60 %", 3), ("99 %, at last 50 %", 0)])
def test_a_level_that_moves_names_no_winner_among_equals(level: str, seed: int) -> None:
    """With the mean of each user's stay, runs with three times the level at the end all named one.

    In these two runs guardrails on such means failed, too: of rewards, and of errors in the outage.
    """
    found = simulate(Users(), LEVELS[level], plan(2), seeds=[seed])
    assert (found.named, found.excluded, found.failed.total()) == (0, 0, 0)
    assert len(found.widths) == 1


@pytest.mark.long
def test_a_real_difference_names_a_winner() -> None:
    found = simulate(Users(), LEVELS["constant, 20 %"], plan(2), seeds=[0], gain=0.2)
    assert (found.named, found.excluded, found.failed.total()) == (1, 0, 0)


@pytest.mark.long
def test_a_guardrail_finds_a_real_loss() -> None:
    found = simulate(Users(), LEVELS["constant, 20 %"], plan(2), seeds=[0], gain=-0.15)
    assert found.failed == {"good": 1, "error_rate": 1}


def sums(values: np.ndarray) -> RewardSums:
    return RewardSums(values.size, float(values.sum()), float((values**2).sum()))


def made(
    rng: np.random.Generator, units: int, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(period, unit, value) of one variant's rewards, whose shares are given by period."""
    unit = rng.integers(units, size=900)
    period = rng.integers(shares.size, size=900)
    value = rng.normal(np.repeat(rng.normal(0, 1, units), 1)[unit], 1.0)
    return period, unit, value


def test_the_variance_is_that_between_units() -> None:
    """Of two variants: against the sum over units of the squared sum of their weighted deviations."""
    rng, shares = np.random.default_rng(5), np.asarray([0.2, 0.5, 0.9])
    period, unit, value = made(rng, 60, shares)
    w = 1 - shares[period]
    per_unit = np.bincount(unit, w * value, 60), np.bincount(unit, w, 60)
    pairs = PairSums(*(sums(part) for part in (*per_unit, per_unit[0] + per_unit[1])))
    each = [
        Period(
            {"a": float(p), "b": float(1 - p)},
            {("a", "m"): sums(value[period == k]), ("b", "m"): RewardSums(9, 1, 9)},
            {("a", "m"): UnitSums(pairs, value.size)} if k == 0 else {},
        )
        for k, p in enumerate(shares)
    ]
    found = Periods(each).weighted("m", "a", "b")[0]
    mean = (w * value).sum() / w.sum()
    between = np.square(per_unit[0] - mean * per_unit[1]).sum() / w.sum() ** 2
    assert found.total / found.weight == pytest.approx(mean)
    assert found.squared_deviations() / found.weight**2 == pytest.approx(between)
    assert found.groups == pytest.approx(per_unit[1].sum() ** 2 / np.square(per_unit[1]).sum())
    sample = found.sample()
    assert sample is not None
    assert sample.squared_error == pytest.approx(between * 900 / 899)


@pytest.mark.parametrize("requests", [False, True])
def test_units_known_for_a_part_of_the_time_are_as_large_in_the_rest(requests: bool) -> None:
    """Fifty units with twenty values each; of a third of the time, with seven or six. They are all right or wrong."""
    alone, right = WeightedSums.of(RewardSums(1000, 500, 500), 1.0), np.repeat((0.0, 1.0), 25)

    def units(number: np.ndarray) -> UnitSums:
        of_all = PairSums(y=sums(number)) if requests else None
        return UnitSums(PairSums.of(right * number, number), 1000, requests=of_all)

    whole, part = (design_effect(alone, units(n)) for n in (np.full(50, 20.0), np.tile((7.0, 6.0), 25)))
    assert whole == pytest.approx((20.0, 50.0))
    assert part == pytest.approx(whole, rel=0.02)


def test_few_units_say_nothing_however_many_values_they_have() -> None:
    few = WeightedSums.of(RewardSums(5000, 1000, 1000), 0.5).by_unit(1.0, 20.0).sample()
    assert few is not None
    assert few.size == 20.0


def test_missing_values_and_those_without_a_unit() -> None:
    """All of one user's values are missing or none; a value without a unit is a unit of its own."""
    one = sums(np.full(50, 10.0))  # 50 users with ten values of 1 each; w = 1
    clicks = UnitSums(PairSums(one, one, sums(np.full(50, 20.0))), 1000, missing=500)
    effect, groups = design_effect(WeightedSums.of(RewardSums(1000, 500, 500), 1.0), clicks)
    assert effect == pytest.approx(10.0)
    assert groups == pytest.approx(100.0)
    loose = UnitSums(PairSums(one, sums(np.full(50, 20.0)), sums(np.full(50, 30.0))), 2000, loose=1000)
    effect, groups = design_effect(WeightedSums.of(RewardSums(2000, 1000, 1000), 1.0), loose)
    assert effect == pytest.approx(1.0), "users whose values vary as independent ones do, or less"
    assert design_effect(WeightedSums.of(RewardSums(9, 0, 0), 1.0), UnitSums(PairSums(), 9))[0] == 1.0
