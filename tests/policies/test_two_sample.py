"""Rates and bounded means against each other: exact martingales, and intervals that fit the evidence."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.sequential.two_sample import (
    BoundedMartingale,
    MeanMartingale,
    RateMartingale,
    bounded_log_martingale,
    difference_interval,
    mean_interval,
    rate_log_martingale,
    ratio_interval,
)
from policies.types import RewardSums
from tests.policies.oracles import evidence_against


def error_rate_difference(
    baseline: tuple[float, float], candidate: tuple[float, float], alpha: float
) -> tuple[float, float]:
    """The interval for candidate's error rate - baseline's, of (errors, requests) each."""
    return difference_interval(RateMartingale(*baseline), RateMartingale(*candidate), alpha)


def bounded(x: object) -> BoundedMartingale:
    values = np.asarray(x, dtype=np.float64)
    return BoundedMartingale(RewardSums(values.size, float(values.sum()), float((values**2).sum())))


@pytest.mark.parametrize("p", [0.001, 0.2, 0.5, 0.97])
def test_the_rate_martingale_is_one(p: float) -> None:
    """Its mean under the true rate is 1 after any number of observations."""
    n = 40
    k = np.arange(n + 1.0)
    chance = np.asarray([math.comb(n, int(i)) * p**i * (1 - p) ** (n - i) for i in k])
    mean = np.sum(chance * np.exp(rate_log_martingale(np.asarray(p), k, np.asarray(float(n)))))
    assert mean == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("mean", [0.1, 0.5, 0.8])
def test_the_bounded_martingale_never_gains_on_average(mean: float) -> None:
    """Over every path of seven values from {0, m, 1} with mean m the e-value averages at most 1."""
    values, weights = (0.0, mean, 1.0), (0.5 * (1 - mean), 0.5, 0.5 * mean)
    total = 0.0
    for path in product(range(3), repeat=7):
        x = [values[i] for i in path]
        sums = RewardSums(7, sum(x), sum(v * v for v in x))
        chance = math.prod(weights[i] for i in path)
        total += chance * math.exp(float(bounded_log_martingale(np.asarray(mean), sums)))
    assert total <= 1 + 1e-9


def test_a_rate_and_its_sums_agree_about_the_sign() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.binomial(1, 0.2, 2_000), rng.binomial(1, 0.3, 1_000)
    exact = error_rate_difference((float(x.sum()), x.size), (float(y.sum()), y.size), 0.05)
    through_sums = difference_interval(bounded(x), bounded(y), 0.05)
    assert exact[0] > 0
    assert through_sums[0] > 0
    assert exact == pytest.approx(through_sums, abs=0.02)


def test_a_small_variance_narrows_the_interval() -> None:
    rng = np.random.default_rng(1)
    x = rng.beta(200, 50, 2_000)
    low, high = mean_interval(bounded(x), 0.05)
    low_rate, high_rate = mean_interval(RateMartingale(float(x.sum()), x.size), 0.05)
    assert low < 0.8 < high
    assert high - low < (high_rate - low_rate) / 5


ARMS = st.one_of(
    st.tuples(st.integers(0, 2_000), st.integers(0, 2_000)).map(lambda t: RateMartingale(min(t), max(t))),
    st.lists(st.floats(0, 1), max_size=30).map(bounded),
)


@settings(max_examples=60, deadline=None)
@given(ARMS, ARMS, st.sampled_from([0.05, 0.001]))
def test_the_ends_are_where_the_evidence_turns(a: MeanMartingale, b: MeanMartingale, alpha: float) -> None:
    low, high = difference_interval(a, b, alpha)
    assert -1 <= low <= high <= 1
    threshold, width = -math.log(alpha), high - low
    for end, outwards in [(low, -1), (high, 1)]:
        inside, outside = end - outwards * 0.01 * width, end + outwards * 0.01 * width
        assert float(evidence_against(a, b, shift=inside)) < threshold + 1e-6
        if -1 < outside < 1:
            assert float(evidence_against(a, b, shift=outside)) > threshold - 1e-6


@settings(max_examples=60, deadline=None)
@given(ARMS, ARMS)
def test_the_ratio_has_its_ends_there_too(a: MeanMartingale, b: MeanMartingale) -> None:
    low, high = ratio_interval(a, b, 0.05)
    assert 0 <= low <= high
    threshold = -math.log(0.05)
    inwards = min(0.03, math.log(high / low) / 4) if low > 0 and high < math.inf else 0.03
    for end, sign in [(low, 1), (high, -1)]:
        if 1e-6 < end < 1e6:
            inside, outside = end * math.exp(sign * inwards), end * math.exp(-sign * 0.03)
            assert float(evidence_against(a, b, factor=outside)) > threshold - 1e-6
            assert float(evidence_against(a, b, factor=inside)) < threshold + 1e-6


def test_nothing_seen_excludes_nothing() -> None:
    nothing = RateMartingale(0, 0)
    assert mean_interval(nothing, 0.05) == (0.0, 1.0)
    assert difference_interval(nothing, nothing, 0.05) == (-1.0, 1.0)
    assert ratio_interval(nothing, nothing, 0.05) == (0.0, math.inf)


def test_no_errors_at_all() -> None:
    low, high = error_rate_difference((0, 10_000), (0, 1_000), 0.05)
    assert -0.002 < low < 0 < high < 0.01
    assert ratio_interval(RateMartingale(0, 10_000), RateMartingale(0, 1_000), 0.05) == (0.0, math.inf)


def test_a_candidate_that_always_fails_is_found_within_a_dozen_requests() -> None:
    low, _ = error_rate_difference((0, 10), (10, 10), 0.05)
    assert low > 0.05
    low, _ = error_rate_difference((0, 1_000), (6, 6), 0.05)
    assert low > 0.05


def test_a_billion_requests() -> None:
    low, high = error_rate_difference((900_000, 1e9), (1_000_000, 1e9), 0.05)
    assert 0.00009 < low < 0.0001 < high < 0.00011


def test_claims_that_no_means_satisfy_are_refuted() -> None:
    assert evidence_against(RateMartingale(1, 2), RateMartingale(1, 2), shift=1.5) == math.inf


def test_arrays_of_arms_are_each_what_they_are_alone() -> None:
    failed, n = np.asarray([0.0, 5.0, 50.0]), np.asarray([100.0, 100.0, 1_000.0])
    together = evidence_against(RateMartingale(failed, n), RateMartingale(failed[::-1], n[::-1]), shift=0.01)
    alone = [
        float(evidence_against(RateMartingale(a, b), RateMartingale(c, d), shift=0.01))
        for a, b, c, d in zip(failed, n, failed[::-1], n[::-1], strict=True)
    ]
    assert together == pytest.approx(np.asarray(alone))
