"""Differences of variants whose shares moved: against high precision, and by simulation."""

from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest

from benchmarks import moving_shares
from policies.sequential.asymptotic import Sample, difference_interval
from policies.sequential.design_based import Period, Periods
from policies.sequential.metric_comparison import compare_weighted
from policies.types import RewardSums

Values = dict[str, list[float]]
ALPHA = 0.05


def periods(values: list[tuple[dict[str, float], Values]]) -> Periods:
    """Periods of (propensities, values by variant)."""
    return Periods(
        [
            Period(
                shares, {(v, "m"): RewardSums(len(x), sum(x), sum(y * y for y in x)) for v, x in seen.items()}
            )
            for shares, seen in values
        ]
    )


def drawn(rng: np.random.Generator) -> list[tuple[dict[str, float], Values]]:
    found: list[tuple[dict[str, float], Values]] = []
    for share, level in ((0.5, 1.0), (0.1, 3.0), (0.8, 0.5)):
        n = int(400 * share)
        values = {"v1": rng.lognormal(0, 1, 400 - n) * level, "v2": rng.lognormal(0.2, 1, n) * level}
        found.append(({"v1": 1 - share, "v2": share}, {v: x.tolist() for v, x in values.items()}))
    return found


def test_the_interval_against_high_precision() -> None:
    """The formulas of the module, written again from the values themselves with 40 digits."""
    seen = drawn(np.random.default_rng(5))
    with mpmath.workdps(40):
        error, means, sizes = mpmath.mpf(0), [], []
        spreads = []
        for variant in ("v1", "v2"):
            rows = [
                (
                    mpmath.mpf(1)
                    / mpmath.mpf(p[variant])
                    / (1 / mpmath.mpf(p["v1"]) + 1 / mpmath.mpf(p["v2"])),
                    y,
                )
                for p, values in seen
                for y in map(mpmath.mpf, values[variant])
            ]
            weight = mpmath.fsum(w for w, _ in rows)
            mean = mpmath.fsum(w * y for w, y in rows) / weight
            bessel = mpmath.mpf(len(rows)) / (len(rows) - 1)
            size = weight**2 / mpmath.fsum(w * w for w, _ in rows)
            spread = mpmath.fsum(w * (y - mean) ** 2 for w, y in rows) / weight * bessel
            linear = mpmath.fsum((w * (y - mean)) ** 2 for w, y in rows) / weight**2 * bessel
            means.append(mean)
            sizes.append(size)
            spreads.append((spread, linear))
        n, m = sizes
        pooled = (
            (n - 1) * spreads[0][0] + (m - 1) * spreads[1][0] + n * m / (n + m) * (means[1] - means[0]) ** 2
        ) / (n + m - 1)
        error = mpmath.sqrt(max(pooled / n, spreads[0][1]) + max(pooled / m, spreads[1][1]))
        t = 4 * n * m / (n + m) * (-2 * mpmath.log(ALPHA) + mpmath.log(1 - 2 * mpmath.log(ALPHA))) / 5000
        half = error * mpmath.sqrt(2 * (t + 1) / t * mpmath.log(mpmath.sqrt(t + 1) / ALPHA))
        expected = [float(means[1] - means[0] + sign * half) for sign in (-1, 1)]
    comparison = compare_weighted(*_pair(periods(seen)), ratio=False)
    assert comparison.interval(ALPHA, 1.0) == pytest.approx(expected, rel=1e-9)


def _pair(found: Periods) -> tuple[Any, Any]:
    first, second = found.weighted("m", "v1", "v2")
    return first, second


def test_constant_shares_give_the_interval_of_the_plain_sums() -> None:
    rng = np.random.default_rng(3)
    blocks: list[tuple[dict[str, float], Values]] = [
        (
            {"v1": 0.8, "v2": 0.2},
            {"v1": rng.normal(2, 1, 240).tolist(), "v2": rng.normal(2.5, 1, 60).tolist()},
        )
        for _ in range(3)
    ]
    found = periods(blocks)
    whole = [[y for _, values in blocks for y in values[v]] for v in ("v1", "v2")]
    plain = [Sample.of(RewardSums(len(x), sum(x), sum(y * y for y in x))) for x in whole]
    assert not found.moved("v1", "v2")
    weighted = compare_weighted(*_pair(found), ratio=False).interval(ALPHA, 1.0)
    assert weighted == pytest.approx(difference_interval(plain[0], plain[1], ALPHA), rel=1e-2)


def test_periods_in_which_one_could_not_be_drawn_count_for_neither() -> None:
    seen = drawn(np.random.default_rng(5))
    alone: tuple[dict[str, float], Values] = ({"v1": 1.0}, {"v1": [1e6] * 100})
    assert periods([*seen, alone]).moved("v1", "v2")
    assert _pair(periods([*seen, alone])) == _pair(periods(seen))
    assert _pair(periods([alone]))[0].sample() is None


def test_the_order_of_periods_does_not_matter() -> None:
    seen = drawn(np.random.default_rng(6))
    orders = [_pair(periods([seen[i] for i in order])) for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0))]
    for before, after in pairwise(orders):
        for one, other in zip(before, after, strict=True):
            assert astuple(one.sample()) == pytest.approx(astuple(other.sample()), rel=1e-12)


@pytest.mark.parametrize("share", [moving_shares.bandit, moving_shares.ramp])
def test_no_difference_is_seen_where_only_time_makes_one(share: moving_shares.Share) -> None:
    """Both variants improve threefold while the shares move: pooling sees a difference, the weights do not."""
    draw = moving_shares.binary(0.3)
    design, pooled = moving_shares.false_alarms(draw, share, moving_shares.rising, runs=30)
    assert design <= 3
    assert pooled >= 20
