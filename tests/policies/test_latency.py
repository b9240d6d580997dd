"""Quantiles from histograms: against raw samples, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.sequential.latency import (
    quantile_difference,
    quantile_estimate,
    quantile_interval,
    quantile_ratio,
)
from policies.sequential.mixtures import Floats
from policies.sequential.two_sample import RateMartingale, mean_interval

GAMMA = 1.02


def edges(i: int) -> tuple[float, float]:
    return GAMMA**i, GAMMA ** (i + 1)


def histogram(ms: Floats) -> dict[int, float]:
    buckets, counts = np.unique(np.floor(np.log(ms) / np.log(GAMMA)).astype(int), return_counts=True)
    return {int(b): float(n) for b, n in zip(buckets, counts, strict=True)}


@pytest.mark.parametrize("p", [0.5, 0.95, 0.99])
def test_the_interval_holds_the_quantile_and_shrinks(p: float) -> None:
    rng = np.random.default_rng(3)
    x = rng.lognormal(3, 0.5, 50_000)
    true = float(np.quantile(x, p))
    widths = []
    for n in (2_000, 10_000, 50_000):
        low, high = quantile_interval(histogram(x[:n]), p, 0.05, edges)
        assert low < true < high
        widths.append(high / low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 1.15


@pytest.mark.slow
def test_the_interval_is_that_of_the_order_statistics() -> None:
    """A value is kept exactly when the share below it could be p; buckets only widen."""
    rng = np.random.default_rng(4)
    x = np.sort(rng.lognormal(3, 0.5, 1_000))
    p = 0.9
    kept = [i for i in range(1_001) if inside(p, mean_interval(RateMartingale(i, 1_000), 0.05))]
    low, high = quantile_interval(histogram(x), p, 0.05, edges)
    exact_low, exact_high = x[kept[0] - 1], x[kept[-1]]
    assert low <= exact_low <= low * GAMMA**3
    assert high / GAMMA**3 <= exact_high <= high


def inside(p: float, interval: tuple[float, float]) -> bool:
    return interval[0] <= p <= interval[1]


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
    assert quantile_interval(few, 0.99, 0.05, edges)[1] == math.inf
    assert quantile_ratio(few, few, 0.99, 0.05, edges) == (0.0, math.inf)


def test_nothing_seen() -> None:
    assert quantile_interval({}, 0.5, 0.05, edges) == (0.0, math.inf)
    assert quantile_ratio({}, {3: 5}, 0.5, 0.05, edges) == (0.0, math.inf)
    assert quantile_difference({3: 5}, {}, 0.5, 0.05, edges) == (-math.inf, math.inf)
    assert math.isnan(quantile_estimate({}, 0.5, edges))


def test_all_in_one_bucket() -> None:
    low, high = quantile_interval({7: 10_000.0}, 0.5, 0.05, edges)
    assert (low, high) == edges(7)
    assert quantile_ratio({7: 10_000.0}, {7: 10_000.0}, 0.5, 0.05, edges) == pytest.approx((1 / GAMMA, GAMMA))


def test_the_estimate_is_within_a_bucket() -> None:
    rng = np.random.default_rng(7)
    x = rng.lognormal(3, 0.5, 10_000)
    for p in (0.01, 0.5, 0.999):
        assert quantile_estimate(histogram(x), p, edges) == pytest.approx(float(np.quantile(x, p)), rel=0.03)
