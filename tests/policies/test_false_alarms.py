"""Looked at all the time, no always-valid test cries wolf more often than it says; a fixed one does.

The full tables, with more repetitions, are printed by `peeking.py` and kept in docs/benchmarks_statistics.md.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from tests.policies import peeking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def not_above(share: float, repetitions: int, nominal: float = peeking.ALPHA) -> bool:
    """Whether so many alarms are believable at the nominal rate: one wrong answer in ten thousand."""
    return bool(round(share * repetitions) <= binom.isf(1e-4, repetitions, nominal))


@pytest.mark.parametrize(
    ("world", "limit"),
    [
        (peeking.constant(0.01, 0.01, 0.1, 400, 50), 0.0),
        (peeking.constant(0.01, 0.015, 0.1, 400, 50), 0.005),
        (peeking.constant(0.001, 0.006, 0.01, 400, 200), 0.005),
        (peeking.constant(0.3, 0.3, 0.5, 400, 2), 0.0),
    ],
)
def test_error_rates(world: peeking.Rates, limit: float) -> None:
    fail, passed = peeking.error_rate(world, limit, 1_000, np.random.default_rng(1))
    assert not_above(float((np.isfinite(fail) | np.isfinite(passed)).mean()), 1_000)


def test_an_incident_that_hits_both_raises_no_false_alarm() -> None:
    rates = np.full(400, 0.01)
    rates[100:130] = 0.3
    fail, _ = peeking.error_rate(peeking.Rates(rates, rates, 0.1, 50), 0.0, 1_000, np.random.default_rng(2))
    assert not_above(float(np.isfinite(fail).mean()), 1_000)


def test_a_difference_is_found() -> None:
    world = peeking.constant(0.001, 0.05, 0.1, 400, 50)
    fail, passed = peeking.error_rate(world, 0.005, 200, np.random.default_rng(3))
    assert np.isfinite(fail).all()
    assert np.isinf(passed).all()
    assert np.median(fail) < 400


def test_fraction_metrics() -> None:
    assert not_above(peeking.bounded_means(200, 10, 400, np.random.default_rng(4)), 400)


def test_real_metrics() -> None:
    rng = np.random.default_rng(5)
    share = peeking.unbounded_means(400, 10, 1_000, rng, lambda size: rng.lognormal(0, 1, size))
    assert not_above(share, 1_000)


@pytest.mark.parametrize("p", [0.5, 0.99])
def test_latency_quantiles(p: float) -> None:
    assert not_above(peeking.quantiles(p, 500, 20, 1_000, np.random.default_rng(6)), 1_000)


def test_sample_ratio_with_moving_shares() -> None:
    ours, fixed = peeking.sample_ratio(150, 60, 60, np.random.default_rng(7))
    assert not_above(ours, 60)
    assert fixed > 0.9


def test_whole_rollouts_end_as_they_should() -> None:
    rng = np.random.default_rng(9)
    good = [peeking.rollout(0.01, 1.0, 0.9, rng) for _ in range(4)]
    assert [end for end, _ in good].count("promoted") == 4
    for world in [(0.2, 1.0, 0.9), (0.01, 2.0, 0.9), (0.01, 1.0, 0.6)]:
        bad = [peeking.rollout(*world, rng) for _ in range(3)]
        assert [end for end, _ in bad].count("rolled_back") == 3
        assert max(served for _, served in bad) < 2_500


def test_a_fixed_test_does_cry_wolf() -> None:
    world = peeking.constant(0.1, 0.1, 0.5, 1_000, 10)
    assert peeking.z_test(world, 1_000, np.random.default_rng(8)) > 0.25
