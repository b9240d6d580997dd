"""Sticky users over the stages of a canary, and users of whom nothing is reported: what they tell, and do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.sticky_stages import TEN, World, simulate
from policies.sequential.design_based import Period, Periods, UnitSums, WeightedSums, design_effect
from policies.types import PairSums, RewardSums


@pytest.mark.long
def test_the_users_of_each_stage_are_no_new_ones() -> None:
    """Pooled, they excluded zero in this run: ten stages took each user for up to ten."""
    now, pooled = simulate(World(skew=1.0, icc=0.7, stages=TEN), seeds=[3])
    assert (now.excluded, pooled.excluded) == (0, 1)
    assert now.widths[0] > 2 * pooled.widths[0]


@pytest.mark.long
def test_missing_values_of_busy_users_are_not_independent() -> None:
    now, pooled = simulate(World(skew=1.0, missing="zero"), seeds=[2])
    assert (now.excluded, pooled.excluded) == (0, 1)


@pytest.mark.parametrize(("silent", "loose"), [(0, 0), (40, 0), (40, 20_000)])
def test_the_variance_is_at_least_that_between_units(silent: int, loose: int) -> None:
    """Only rewards of 1 are reported; ``silent`` units are never rewarded, and send ten times as much; ``loose``
    requests have no unit."""
    rng = np.random.default_rng(3)
    number = np.append(rng.geometric(0.1, 400), rng.geometric(0.01, silent))
    rate = np.append(rng.beta(0.5, 2, 400), np.zeros(silent))
    number, rate = np.append(number, np.ones(loose, int)), np.append(rate, np.full(loose, 0.1))
    rewarded = rng.binomial(number, rate).astype(float)
    values, alone_rewarded = float(number.sum()), rewarded[number.size - loose :].sum()
    told = rewarded[: number.size - loose]
    told = told[told > 0]
    total = told.sum() + alone_rewarded
    alone = WeightedSums.of(RewardSums(values, total, total), 1.0)
    requests = PairSums(y=RewardSums(number.size, values, float((number.astype(float) ** 2).sum())))
    units = UnitSums(PairSums.of(told, told), values, values - total, loose=alone_rewarded, requests=requests)
    effect, groups = design_effect(alone, units)
    mean = total / values
    between = ((rewarded - mean * number) ** 2).sum() / alone.squared_deviations()
    assert between <= effect < 2.5 * between
    assert groups == pytest.approx(values**2 / (number**2).sum())
    unknown, _ = design_effect(alone, replace(units, requests=None))
    assert bool(unknown < between) is (silent > 0), "of units like those that were rewarded"


@pytest.mark.parametrize("young", [False, True])
@pytest.mark.parametrize("chosen", ["the same", "others"])
def test_failures_that_count_as_the_worst_value_vary_between_units(chosen: str, young: bool) -> None:
    """Of a metric whose worst value is 3: half of the requests of some units fail, and count as 3, not reported. A
    young leader knows a fifth of the requests by unit, and none of those that failed."""
    rng = np.random.default_rng(4)
    number, rate = rng.geometric(0.1, 400), rng.beta(0.5, 2, 400)
    order = rate if chosen == "the same" else -rate
    failed = np.where(order >= np.quantile(order, 0.9), number // 2, 0)
    rewarded = rng.binomial(number - failed, rate).astype(float)
    values, failures = float(number.sum()), float(failed.sum())
    total, squares = rewarded.sum() + 3 * failures, rewarded.sum() + 9 * failures
    alone = WeightedSums.of(RewardSums(values, total, squares), 1.0)
    told, part = rewarded[rewarded > 0], np.float64(0.2 if young else 1.0)
    units = UnitSums(
        PairSums.of(told, told),
        values,
        missing=values - told.sum(),
        requests=PairSums.of(failed * float(not young), number * part),
        worst=RewardSums(failures, 3 * failures, 9 * failures),
    )
    effect, _ = design_effect(alone, units)
    between = ((rewarded + 3 * failed - total / values * number) ** 2).sum() / alone.squared_deviations()
    assert between <= effect < (5.5 if young else 3.5) * between
    assert design_effect(alone, replace(units, worst=RewardSums()))[0] < between

    # In a bandit's period with a share of 0.8 each value has the weight 0.2, and all tell the same.
    every, w = RewardSums(values, total, squares), 0.2
    weighted = replace(
        units,
        weighted=PairSums.of(w * told, w * told),
        requests=PairSums.of(w * failed * float(not young), w * number * part),
    )
    period = Period({"a": 1 - w, "b": w}, {("a", "m"): every, ("b", "m"): every}, {("a", "m"): weighted})
    found, _ = Periods([period]).weighted("m", "a", "b")
    assert found.squares2 == pytest.approx(effect * WeightedSums.of(every, w).squares2)
