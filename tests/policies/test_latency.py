"""Quantiles from histograms: against raw samples, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.sequential.latency import (
    quantile_difference,
    quantile_estimate,
    quantile_ratio,
)
from policies.sequential.mixtures import Floats

GAMMA = 1.02


def edges(i: int) -> tuple[float, float]:
    return GAMMA**i, GAMMA ** (i + 1)


def histogram(ms: Floats) -> dict[int, float]:
    buckets, counts = np.unique(np.floor(np.log(ms) / np.log(GAMMA)).astype(int), return_counts=True)
    return {int(b): float(n) for b, n in zip(buckets, counts, strict=True)}


@pytest.mark.parametrize(("p", "factor"), [(0.5, 1.3), (0.99, 1.3), (0.5, 1.0)])
def test_the_ratio(p: float, factor: float) -> None:
    rng = np.random.default_rng(5)
    a, b = histogram(rng.lognormal(3, 0.5, 30_000)), histogram(factor * rng.lognormal(3, 0.5, 30_000))
    low, high = quantile_ratio(a, b, p, 0.05, edges)
    assert low < factor < high
    assert high / low < 1.5
    back = quantile_ratio(b, a, p, 0.05, edges)
    assert back == pytest.approx((1 / high, 1 / low))


def test_the_difference() -> None:
    rng = np.random.default_rng(6)
    a, b = histogram(rng.lognormal(3, 0.5, 30_000)), histogram(5 + rng.lognormal(3, 0.5, 30_000))
    low, high = quantile_difference(a, b, 0.5, 0.05, edges)
    assert 3 < low < 5 < high < 7


def test_little_data_has_no_upper_end() -> None:
    few = histogram(np.asarray([3.0, 4.0, 5.0]))
    assert quantile_ratio(few, few, 0.99, 0.05, edges) == (0.0, math.inf)


def test_nothing_seen() -> None:
    assert quantile_ratio({}, {3: 5}, 0.5, 0.05, edges) == (0.0, math.inf)
    assert quantile_difference({3: 5}, {}, 0.5, 0.05, edges) == (-math.inf, math.inf)
    assert math.isnan(quantile_estimate({}, 0.5, edges))


def test_all_in_one_bucket() -> None:
    assert quantile_ratio({7: 10_000.0}, {7: 10_000.0}, 0.5, 0.05, edges) == pytest.approx((1 / GAMMA, GAMMA))


def test_the_estimate_is_within_a_bucket() -> None:
    rng = np.random.default_rng(7)
    x = rng.lognormal(3, 0.5, 10_000)
    for p in (0.01, 0.5, 0.999):
        assert quantile_estimate(histogram(x), p, edges) == pytest.approx(float(np.quantile(x, p)), rel=0.03)
