"""The asymptotic sequence against an outside implementation and high-precision arithmetic."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from policies.sequential import asymptotic
from policies.sequential.asymptotic import Sample
from policies.types import RewardSums

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "cases" / "gbstats.json").read_text())[
    "cases"
]


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] == "seq_halfwidth"])
def test_half_widths(case: dict[str, Any]) -> None:
    given, out = case["input"], case["output"]
    assert asymptotic.asymptotic_rho(given["alpha"], given["tuning"]) == pytest.approx(out["rho2"], rel=1e-9)
    half = asymptotic.asymptotic_half_width(given["s2"], given["n"], given["alpha"], given["tuning"])
    assert half == pytest.approx(out["two_sided"], rel=1e-9)


def test_the_interval_from_sums_against_high_precision() -> None:
    """The formula of `difference_interval`, written again from the values themselves with 40 digits."""
    rng = np.random.default_rng(4)
    with mpmath.workdps(40):
        for n, m, alpha in ((900, 60, "0.05"), (75, 4_000, "0.003"), (500, 500, "0.0125")):
            drawn = rng.lognormal(0, 1, n), rng.lognormal(0.2, 1.2, m)
            b, c = ([mpmath.mpf(float(x)) for x in values] for values in drawn)
            half = mpmath_half_width(b, c, mpmath.mpf(alpha))
            difference = mpmath.fsum(c) / m - mpmath.fsum(b) / n
            first, second = (RewardSums(x.size, float(x.sum()), float((x * x).sum())) for x in drawn)
            assert asymptotic.difference_interval(
                Sample.of(first), Sample.of(second), float(alpha)
            ) == pytest.approx((float(difference - half), float(difference + half)), rel=1e-9)


def mpmath_half_width(b: list[Any], c: list[Any], alpha: Any) -> Any:
    def spread(x: list[Any]) -> Any:
        mean = mpmath.fsum(x) / len(x)
        return mpmath.fsum((value - mean) ** 2 for value in x) / (len(x) - 1)

    pooled = spread(b + c)
    error = mpmath.sqrt(max(pooled, spread(b)) / len(b) + max(pooled, spread(c)) / len(c))
    n = mpmath.mpf(4 * len(b) * len(c)) / (len(b) + len(c))
    rho2 = (-2 * mpmath.log(alpha) + mpmath.log(1 - 2 * mpmath.log(alpha))) / 5000
    t = n * rho2
    return error * mpmath.sqrt(2 * (t + 1) / t * mpmath.log(mpmath.sqrt(t + 1) / alpha))


def test_too_little_or_constant_data_gives_no_interval() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(3, 1, 60)
    real = RewardSums(60, float(x.sum()), float((x * x).sum()))
    few = RewardSums(49, 10.0, 5.0)
    flat = RewardSums(100, 100.0, 100.0)
    assert asymptotic.difference_interval(Sample.of(real), Sample.of(few), 0.05) is None
    assert asymptotic.difference_interval(Sample.of(flat), Sample.of(flat), 0.05) is None
    interval = asymptotic.difference_interval(Sample.of(real), Sample.of(flat), 0.05)
    assert interval is not None
    assert interval[1] - interval[0] > 4 * math.sqrt(asymptotic.variance(flat + real) / 60)
    assert math.isnan(asymptotic.variance(RewardSums(1, 1, 1)))


def test_the_ends_of_a_ratio_solve_its_equation() -> None:
    """Fieller: (mean_c - r mean_b)^2 = k^2 (variance_c + r^2 variance_b) at both ends r."""
    rng = np.random.default_rng(2)
    b, c = rng.gamma(4, 1, 4_000), rng.gamma(4, 1.2, 2_000)
    first, second = (RewardSums(x.size, float(x.sum()), float((x * x).sum())) for x in (b, c))
    ends = asymptotic.ratio_interval(Sample.of(first), Sample.of(second), 0.05)
    assert ends is not None
    assert ends[0] < 1.2 < ends[1]
    n = 4 * b.size * c.size / (b.size + c.size)
    k = asymptotic.asymptotic_half_width(n, n, 0.05)
    pooled = float(np.concatenate([b, c]).var(ddof=1))
    spread = [max(pooled, float(x.var(ddof=1))) / x.size for x in (b, c)]
    for r in ends:
        left, right = (c.mean() - r * b.mean()) ** 2, k**2 * (spread[1] + r * r * spread[0])
        assert left == pytest.approx(right, rel=1e-9)


def test_no_ratio_to_a_mean_that_may_be_zero() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(0.01, 1, 500)
    near_zero = RewardSums(500, float(x.sum()), float((x * x).sum()))
    assert asymptotic.ratio_interval(Sample.of(near_zero), Sample.of(near_zero), 0.05) is None


@pytest.mark.parametrize("alpha", [0.06, 0.05, 0.0167, 0.004, 1e-6])
@pytest.mark.parametrize("n", [50, 5_000, 1e7])
def test_each_end_alone_is_as_valid_as_a_one_sided_sequence(alpha: float, n: float) -> None:
    """Where the interval at `two_sided` ends, the mixture over the half of the means on that side has reached
    1 / alpha: integrated here in high precision."""
    level = asymptotic.two_sided(alpha)
    with mpmath.workdps(30):
        rho = mpmath.mpf(asymptotic.asymptotic_rho(level))
        total = mpmath.mpf(asymptotic.asymptotic_half_width(1.0, n, level)) * n
        scale = 1 / mpmath.sqrt(n + 1 / rho**2)  # the mixture's integrand is a normal density of this width

        def integrand(m: mpmath.mpf) -> mpmath.mpf:
            return 2 * mpmath.npdf(m, 0, rho) * mpmath.exp(m * total - m * m * n / 2)

        centre = total * scale**2
        won = mpmath.quad(integrand, [0, centre, centre + 12 * scale])
    assert won >= 1 / alpha
    assert level > 1.9 * alpha


def test_values_that_are_all_alike_give_no_interval_whatever_their_sums_round_to() -> None:
    first, second = (RewardSums.of(np.full(n, 0.1)) for n in (1_000, 60))
    rounded = RewardSums(first.count, first.total, first.squares * (1 + 1e-15))
    for one in (first, rounded):
        assert asymptotic.difference_interval(Sample.of(one), Sample.of(second), 0.05) is None
        assert asymptotic.ratio_interval(Sample.of(one), Sample.of(second), 0.05) is None


@pytest.mark.parametrize("unit", [1e-100, 1e99])
def test_a_ratio_does_not_depend_on_the_unit(unit: float) -> None:
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, 1.0, 500), rng.gamma(2.5, 1.0, 300)

    def ratio(scale: float) -> tuple[float, float] | None:
        first, second = (Sample.of(RewardSums.of(v * scale)) for v in values)
        return asymptotic.ratio_interval(first, second, 0.05)

    expected = ratio(1.0)
    assert expected is not None
    assert ratio(unit) == pytest.approx(expected, rel=1e-9)
