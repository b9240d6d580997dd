"""A stop rule with an error rate: equals have no winner, and what is shown of one is not flattered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from policies.allocation.bandit import Bandit, Objective, Stop, refresh
from policies.allocation.model import Learned
from policies.sequential.winner import Aim, shown_lead
from policies.types import RewardSums

VARIANTS = ("v1", "v2")


def run(
    rates: tuple[float, ...], seed: int, alpha: float | None, requests: int = 6_000, looks: int = 60
) -> Any:
    """The standing in which a Thompson bandit with the default rule first names a winner; None for never."""
    rng, names = np.random.default_rng(seed), [f"v{k}" for k in range(len(rates))]
    plan = Bandit(tuple(names), (Objective("m"),), floor=0.01, stop=Stop(0.95, samples=100, alpha=alpha))
    counts, learned = np.zeros((len(rates), 2)), Learned()
    for _ in range(looks):
        shares, standing = refresh(plan, learned)
        if standing.stopped is not None:
            return standing
        n = rng.multinomial(requests // looks, shares.probabilities)
        for k, variant in enumerate(shares.variants):
            place = names.index(variant)
            counts[place] += n[k], rng.binomial(n[k], rates[place])
        sums = {(v, "m"): RewardSums(counts[k][0], counts[k][1], counts[k][1]) for k, v in enumerate(names)}
        learned = Learned(sums=sums)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.5, 0.5, 0.5)])
def test_among_equals_a_winner_is_named_in_at_most_alpha_of_runs(rates: tuple[float, ...]) -> None:
    runs = 40
    named = sum(run(rates, seed, 0.05) is not None for seed in range(runs))
    assert named <= binom.isf(1e-3, runs, 0.05)


@pytest.mark.long
def test_beliefs_alone_name_one_of_two_equals_in_many_runs() -> None:
    assert sum(run((0.1, 0.1), seed, None) is not None for seed in range(30)) > 8


@pytest.mark.slow
def test_a_real_winner_is_found_and_its_lead_is_not_flattered() -> None:
    found = [run((0.1, 0.2), seed, 0.05, requests=12_000) for seed in range(20)]
    assert [s.stopped for s in found if s is not None].count("v1") >= 18
    leads = [s.lead for s in found if s is not None]
    observed, shrunk = (
        float(np.mean([getattr(x, name) for x in leads])) for name in ("difference", "shrunk")
    )
    assert abs(shrunk - 0.1) < abs(observed - 0.1)
    assert all(0 < lead.interval[0] < lead.shrunk < lead.difference for lead in leads)


def test_each_goal_and_a_utility() -> None:
    sums = {
        ("a", "cost"): RewardSums(400, 2_000, 10_400),
        ("b", "cost"): RewardSums(400, 1_200, 4_000),
        ("a", "ok"): RewardSums(400, 200, 200),
        ("b", "ok"): RewardSums(400, 320, 320),
    }
    cost, ok = Aim("cost", "real", "minimize", 0.1), Aim("ok", "boolean", "maximize", 2.0)
    lead = shown_lead("b", ["a"], [cost, ok], sums, 0.05)
    assert lead is not None
    assert lead.difference == pytest.approx(0.1 * 2.0 + 2.0 * 0.3)
    assert shown_lead("a", ["b"], [cost, ok], sums, 0.05) is None
    assert shown_lead("b", ["a", "new"], [ok], sums, 0.05) is None  # nothing is known of it


def test_a_difference_whose_square_is_nothing_divides_by_nothing() -> None:
    sums = {("a", "m"): RewardSums(50, 0.0, 0.0), ("b", "m"): RewardSums(1e9, 1e-291, 0.0)}
    assert shown_lead("b", ["a"], [Aim("m", "fraction", "maximize", 1.0)], sums, 0.05) is None
