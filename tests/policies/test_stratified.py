"""Shares that move with time must not make a difference where there is none, nor hide one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.rollout.guardrails import judge_all
from policies.rollout.verdicts import Guardrail
from policies.sequential.stratified import Stratum, stratified
from policies.types import RewardSums


def drifting(rng: np.random.Generator, worse: float, strata: int = 200) -> list[tuple[Stratum, Stratum]]:
    """The world gets worse while the candidate's share grows: pooled, an equal candidate looks worse."""
    found = []
    for k in range(strata):
        share = 0.05 + 0.9 * k / strata
        rate = 0.01 + 0.10 * k / strata
        n = rng.binomial(200, share)
        baseline = Stratum(200 - n, rng.binomial(200 - n, rate))
        candidate = Stratum(n, rng.binomial(n, min(1.0, rate + worse)))
        found.append((baseline, candidate))
    return found


RAIL = [Guardrail("error_rate", max_increase=0.005)]


@pytest.mark.long
def test_an_equal_candidate_is_not_blamed_for_the_hour_of_the_day() -> None:
    rng = np.random.default_rng(1)
    failed = 0
    for _ in range(40):
        baseline, candidate = stratified(drifting(rng, 0.0)).evidence({}, 60.0)
        failed += judge_all(RAIL, baseline, candidate, 0.05).verdicts[0].verdict == "fail"
    assert failed <= 4  # nominal 5 %; pooled, nearly all of them fail
    pooled = drifting(np.random.default_rng(2), 0.0)
    raw = [sum(s[i].errors for s in pooled) / sum(s[i].requests for s in pooled) for i in (0, 1)]
    assert raw[1] > raw[0] + 0.02  # so the world does confound


def test_a_worse_candidate_is_still_found() -> None:
    rng = np.random.default_rng(3)
    baseline, candidate = stratified(drifting(rng, 0.05)).evidence({}, 60.0)
    assert judge_all(RAIL, baseline, candidate, 0.05).verdicts[0].verdict == "fail"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_both_sides_count_the_same(sizes: list[tuple[int, int]]) -> None:
    strata = [
        (
            Stratum(a, a / 2, {3: a}, {"m": RewardSums(a, a / 2, a / 2)}),
            Stratum(b, b, {3: b, 4: b}, {"m": RewardSums(b, b, b)}),
        )
        for a, b in sizes
    ]
    baseline, candidate = stratified(strata).evidence({"m": "boolean"}, 1.0)
    wanted = sum(min(a, b) for a, b in sizes)
    assert baseline.requests == pytest.approx(wanted)
    assert candidate.requests == pytest.approx(wanted)
    assert baseline.errors == pytest.approx(wanted / 2)
    assert candidate.errors == pytest.approx(wanted)
    if wanted:
        assert baseline.rewards["m"].count == pytest.approx(candidate.rewards["m"].count)
        assert baseline.rewards["m"].mean == pytest.approx(0.5)
