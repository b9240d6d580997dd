from __future__ import annotations

import json
from math import inf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.allocation.model import RewardSums
from policies.bayes.uplift import EffectPrior, belief
from policies.sequential.fixed import Effect, effect

CASES = json.loads((Path(__file__).parent / "cases" / "gbstats_bayes.json").read_text())["cases"]
EFFECTS = [case for case in CASES if case["kind"].startswith("bayes_effect")]


def sums_of(side: dict[str, Any]) -> RewardSums:
    return RewardSums(side["n"], side["sum"], side.get("sum_squares", side["sum"]))


@pytest.mark.parametrize("case", EFFECTS, ids=lambda c: f"{c['kind']}-{c['input']['control']['n']}")
def test_beliefs_of_another_tool(case: dict[str, Any]) -> None:
    given, out = case["input"], case["output"]
    found = effect(
        sums_of(given["control"]),
        sums_of(given["treatment"]),
        relative=given["difference"] == "relative",
        boolean=given["stat"] == "prop",
    )
    prior = given.get("prior")
    made = belief(found, EffectPrior(prior["mean"], sqrt(prior["variance"])) if prior else EffectPrior())
    assert made.posterior.mean == pytest.approx(out["expected"], rel=1e-9)
    assert made.posterior.sd == pytest.approx(out["uplift"]["stddev"], rel=1e-9)
    ends = [made.posterior.quantile(p) for p in (0.025, 0.975)]
    assert ends == pytest.approx(out["ci"], rel=1e-9)
    assert made.chance == pytest.approx(out["chanceToWin"], rel=1e-9)
    # Theirs lists staying first; at 14 standard deviations their own small risk has few digits.
    assert made.risk_of_staying == pytest.approx(out["risk"][0], rel=1e-9)
    assert made.risk_of_switching == pytest.approx(
        out["risk"][1], rel=1e-2 if out["risk"][1] < 1e-40 else 1e-9
    )


def test_risks_are_the_two_halves_of_the_effect() -> None:
    made = belief(Effect(0.3, 0.04, 100, 98))
    draws = np.random.default_rng(1).normal(0.3, 0.2, 1_000_000)
    assert made.risk_of_switching == pytest.approx(np.maximum(-draws, 0).mean(), abs=2e-4)
    assert made.risk_of_staying - made.risk_of_switching == pytest.approx(0.3)


def test_a_prior_keeps_small_experiments_modest() -> None:
    small, large = Effect(0.5, 0.25, 10, 8), Effect(0.5, 0.0001, 10_000, 9_998)
    prior = EffectPrior(0.0, 0.1)
    assert belief(small, prior).posterior.mean < 0.03
    assert belief(large, prior).posterior.mean > 0.49


@pytest.mark.parametrize("variance", [0.0, inf, float("nan")])
def test_an_effect_without_variance_is_refused(variance: float) -> None:
    with pytest.raises(ValueError, match="finite variance above zero"):
        belief(Effect(0.1, variance, 10, 8))
