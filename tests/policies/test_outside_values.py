"""The always-valid tests that act, against their definitions written again in high precision.

Nothing of the product is used for the expected values: mixtures are integrated or written with `mpmath`'s functions,
ends of intervals are found as roots, and what buckets of a histogram leave open is tried case by case.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import mpmath
import numpy as np
import pytest

from policies.sequential.latency import quantile_difference, quantile_ratio
from policies.sequential.mixtures import gamma_exponential_log_mixture
from policies.sequential.stratified import Stratum, stratified
from policies.sequential.two_sample import (
    BoundedMartingale,
    RateMartingale,
    UnitShareMartingale,
    difference_interval,
    mean_interval,
    rate_log_martingale,
    ratio_interval,
)
from policies.types import RewardSums

SCALES = (16, 400, 10_000, 250_000)
Number = Any
"""An `mpmath.mpf`; the package has no types."""


@pytest.fixture(autouse=True)
def _digits() -> Any:
    with mpmath.workdps(20):
        yield


def rho(v: Number, alpha: str = "0.05") -> Number:
    """Howard et al. (2021), Section 3.5, two-sided."""
    level = mpmath.mpf(alpha)
    return v / (-2 * mpmath.log(level) + mpmath.log(1 - 2 * mpmath.log(level)))


def rate(p: Number, yes: Number, n: Number) -> Number:
    """The mean over four scales of the beta-binomial Bayes factor against the rate ``p``; its log."""
    p = mpmath.mpf(p)
    factors = []
    for scale in SCALES:
        k = rho(mpmath.mpf(scale)) - 1
        drawn = mpmath.beta(k * p + yes, k * (1 - p) + n - yes) / mpmath.beta(k * p, k * (1 - p))
        factors.append(drawn / (p**yes * (1 - p) ** (n - yes)))
    return mpmath.log(mpmath.fsum(factors) / len(factors))


def gamma_exponential(s: Number, v: Number, r: Number, c: Number) -> Number:
    """The mixture of exp(l s - psi(l) v) over 0 < l < 1/c in closed form; its log (Proposition 9).

    psi(l) = (-log(1 - c l) - c l) / c^2, and x = 1/c - l has the Gamma density of shape r/c^2 and rate r/c, cut at
    1/c; so the integrand is a power of x times an exponential.
    """
    s, v, r, c = map(mpmath.mpf, (s, v, r, c))
    if s <= -(v + r) / c:
        return mpmath.mpf("-inf")  # so far below that what is left of the mixture is counted as nothing
    lead = s / c + v / c**2 + v / c**2 * mpmath.log(c)
    prior = _log_integral(r / c**2, r / c, 1 / c)
    return lead + _log_integral((v + r) / c**2, s + (v + r) / c, 1 / c) - prior


def _log_integral(power: Number, speed: Number, end: Number) -> Number:
    """log of the integral of x^(power - 1) exp(-speed x) from 0 to ``end``."""
    return mpmath.log(mpmath.gammainc(power, 0, speed * end)) - power * mpmath.log(speed)


def integrated(s: float, v: float, r: float, c: float) -> Number:
    """`gamma_exponential` from its definition, by quadrature."""

    def density(x: Number) -> Number:
        return x ** (r / c**2 - 1) * mpmath.exp(-r / c * x)

    def factor(x: Number) -> Number:
        tilt = 1 / c - x
        return mpmath.exp(tilt * s - (-mpmath.log(c * x) - c * tilt) / c**2 * v) * density(x)

    return mpmath.log(mpmath.quad(factor, [0, 0.5 / c, 1 / c]) / mpmath.quad(density, [0, 0.5 / c, 1 / c]))


def bounded(mean: Number, x: list[float]) -> Number:
    """Deviations from a supposed mean, both directions and three scales of variance averaged; its log."""
    deviations = [mpmath.mpf(y) - mean for y in x]
    s, v = mpmath.fsum(deviations), mpmath.fsum(y * y for y in deviations)
    found = []
    for scale in (1, 30, 1_000):
        r = rho(mpmath.mpf(scale), "0.1")
        found.append(mpmath.exp(gamma_exponential(s, v, r, max(mean, mpmath.mpf("0.01")))))
        found.append(mpmath.exp(gamma_exponential(-s, v, r, max(1 - mean, mpmath.mpf("0.01")))))
    return mpmath.log(mpmath.fsum(found) / len(found))


@pytest.mark.parametrize(("p", "yes", "n"), [(0.01, 7, 300), (0.4, 0, 12), (0.25, 26_000, 100_000)])
def test_martingale_of_a_rate(p: float, yes: int, n: int) -> None:
    found = float(rate_log_martingale(np.asarray(p), np.asarray(float(yes)), np.asarray(float(n))))
    assert found == pytest.approx(float(rate(p, yes, n)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("s", "v", "r", "c"), [(3, 20, 4, 0.5), (-1, 5, 3, 1), (6, 10, 8, 0.8), (0, 9, 2, 0.7)]
)
def test_gamma_exponential_mixture(s: float, v: float, r: float, c: float) -> None:
    found, expected = float(gamma_exponential_log_mixture(s, v, r, c)), gamma_exponential(s, v, r, c)
    assert found == pytest.approx(float(expected), rel=1e-8, abs=1e-9)
    with mpmath.workdps(12):
        assert float(integrated(s, v, r, c)) == pytest.approx(float(expected), rel=1e-7)


VALUES = np.random.default_rng(2).beta(2, 5, 25).round(3).tolist()


@pytest.mark.parametrize("mean", [0.15, 0.3, 0.6])
def test_martingales_of_values_between_0_and_1(mean: float) -> None:
    sums = RewardSums(len(VALUES), sum(VALUES), sum(y * y for y in VALUES))
    expected = bounded(mpmath.mpf(mean), VALUES)
    assert float(BoundedMartingale(sums)(np.asarray(mean))) == pytest.approx(float(expected), rel=1e-8)
    both = mpmath.log((mpmath.exp(expected) + mpmath.exp(rate(mean, sums.total, sums.count))) / 2)
    assert float(UnitShareMartingale(sums)(np.asarray(mean))) == pytest.approx(float(both), rel=1e-8)


def least_product(
    baseline: tuple[int, int], candidate: tuple[int, int], factor: Number, shift: Number
) -> Number:
    """The least product of both martingales over all pairs "candidate = factor * baseline + shift"; its log."""

    def together(m: Number) -> Number:
        return rate(m, *baseline) + rate(factor * m + shift, *candidate)

    centres = (
        mpmath.mpf(baseline[0]) / baseline[1],
        (mpmath.mpf(candidate[0]) / candidate[1] - shift) / factor,
    )
    least, most = max(0, -shift / factor), min(1, (1 - shift) / factor)
    low, high = (
        min(max(c, least + mpmath.mpf("1e-12")), most - mpmath.mpf("1e-12")) for c in sorted(centres)
    )
    for _ in range(28):  # both martingales fall towards their centres, and are convex between them
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if together(left) < together(right) else (left, high)
    return together((low + high) / 2)


PAIRS = [((10, 400), (12, 100), 0.05), ((300, 1_000), (420, 1_200), 0.003), ((40, 9_000), (3, 900), 0.0125)]


@pytest.mark.long
@pytest.mark.parametrize(("baseline", "candidate", "alpha"), PAIRS)
def test_ends_of_a_difference_and_a_ratio_of_rates(
    baseline: tuple[int, int], candidate: tuple[int, int], alpha: float
) -> None:
    """At each end the least product over all pairs of rates is exactly 1 / alpha."""
    level = -float(mpmath.log(alpha))
    first, second = RateMartingale(*baseline), RateMartingale(*candidate)
    for end in difference_interval(first, second, alpha):
        assert float(least_product(baseline, candidate, mpmath.mpf(1), mpmath.mpf(end))) == pytest.approx(
            level, abs=2e-3
        )
    for end in ratio_interval(first, second, alpha):
        assert float(least_product(baseline, candidate, mpmath.mpf(end), mpmath.mpf(0))) == pytest.approx(
            level, abs=2e-3
        )


@pytest.mark.parametrize(("yes", "n", "alpha"), [(3, 50, 0.05), (700, 1_000, 0.01), (0, 40, 0.05)])
def test_ends_of_a_rate(yes: int, n: int, alpha: float) -> None:
    low, high = mean_interval(RateMartingale(yes, n), alpha)
    level = -float(mpmath.log(alpha))
    assert float(rate(high, yes, n)) == pytest.approx(level, abs=1e-3)
    if yes:
        assert float(rate(low, yes, n)) == pytest.approx(level, abs=1e-3)
    else:
        assert low == 0.0


# Latency: every place of the quantile, and every split of its bucket, tried one by one -----------------
def ends(bucket: int) -> tuple[float, float]:
    return 2.0**bucket, 2.0 ** (bucket + 1)


BASELINE = {0: 30, 1: 50, 2: 15, 4: 5}
CANDIDATE = {1: 10, 2: 14, 3: 12, 5: 4}


def places(histogram: dict[int, int], p: float) -> list[tuple[float, float, float]]:
    """(low, high, least evidence) of each interval of milliseconds in which the quantile may lie."""
    n = sum(histogram.values())
    found = []
    edges = sorted({edge for bucket in histogram for edge in ends(bucket)})
    for low, high in zip([0.0, *edges], [*edges, float("inf")], strict=True):
        below = sum(count for bucket, count in histogram.items() if ends(bucket)[1] <= low)
        inside = sum(count for bucket, count in histogram.items() if ends(bucket)[0] == low)
        # Counts are whole, yet the evidence may be least between two of them.
        grid = [below + inside * mpmath.mpf(k) / 16 for k in range(17)] if inside else [below]
        found.append((low, high, float(min(rate(p, k, n) for k in grid))))
    return found


@pytest.mark.parametrize(("p", "alpha"), [(0.5, 0.05), (0.9, 0.2)])
def test_quantiles_of_histograms(p: float, alpha: float) -> None:
    level = -float(mpmath.log(alpha))
    first, second = places(BASELINE, p), places(CANDIDATE, p)
    pairs = [(b, c) for b, c in product(first, second) if b[2] + c[2] < level]
    ratio = min(c[0] / b[1] for b, c in pairs), max(c[1] / b[0] if b[0] else float("inf") for b, c in pairs)
    assert quantile_ratio(BASELINE, CANDIDATE, p, alpha, ends) == ratio
    difference = min(c[0] - b[1] for b, c in pairs), max(c[1] - b[0] for b, c in pairs)
    assert quantile_difference(BASELINE, CANDIDATE, p, alpha, ends) == difference


def test_matched_strata_in_whole_fractions() -> None:
    """Each stratum counts min(n, m) observations of either side, the larger side's in proportion."""
    strata = [
        ((100, 3, 40), (10, 2, 7)),
        ((20, 0, 11), (60, 9, 30)),
        ((0, 0, 0), (5, 5, 1)),
        ((7, 1, 7), (7, 0, 2)),
    ]
    sides = [
        [Stratum(n, e, {1: n - e, 2: e} if n else {}, {"m": RewardSums(n, y, y)}) for n, e, y in pair]
        for pair in strata
    ]
    found = stratified((b, c) for b, c in sides).evidence({"m": "boolean"}, 1.0)
    for place, evidence in enumerate(found):
        expected = [Fraction(0)] * 3
        for pair in strata:
            n = pair[place][0]
            kept = Fraction(min(pair[0][0], pair[1][0]), n) if n else Fraction(0)
            expected = [total + kept * value for total, value in zip(expected, pair[place], strict=True)]
        requests, errors, rewards = map(float, expected)
        assert (evidence.requests, evidence.errors) == pytest.approx((requests, errors))
        assert evidence.latency == pytest.approx({1: requests - errors, 2: errors})
        assert evidence.rewards["m"].total == pytest.approx(rewards)
        assert evidence.rewards["m"].count == pytest.approx(requests)
