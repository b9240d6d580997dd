"""The lift of variants that a policy with features serves to different requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.contextual_lift import simulate, worlds
from policies.sequential.design_based import WeightedSums, inverse_weighted
from policies.types import PairSums


def test_the_sums_are_those_of_the_weighted_values() -> None:
    rng = np.random.default_rng(1)
    p, y = rng.uniform(0.01, 1, 500), rng.normal(3, 2, 500)
    w = 1 / p
    found, mean = inverse_weighted(PairSums.of(w * y, w)), float(w @ y / w.sum())
    assert (found.count, found.weight) == (500, pytest.approx(w.sum()))
    sample = found.sample()
    assert sample is not None
    assert sample.mean == pytest.approx(mean)
    assert sample.size == pytest.approx(w.sum() ** 2 / (w @ w))
    assert sample.squared_error == pytest.approx((w**2 @ (y - mean) ** 2) / w.sum() ** 2 * 500 / 499)
    assert sample.variance == pytest.approx((w**2 @ (y - mean) ** 2) / (w @ w) * 500 / 499)
    assert inverse_weighted(PairSums()) == WeightedSums()


def test_variants_that_serve_different_requests_are_compared_over_all_of_them() -> None:
    """Plain means exclude the truth in each run: the last variant served the requests that it is better for."""
    world = replace(worlds()["three, features decide"], requests=8_000)
    found = simulate(world, 0.05, range(3))
    assert (found.excluded, found.pooled) == (0, 3)
    assert 0 < found.width < 0.5
