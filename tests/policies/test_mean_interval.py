"""Intervals of few values cover what they say, or are not shown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from policies.sequential.mean_interval import count_interval, real_interval
from policies.types import RewardSums

RUNS = 2_000


def sums(x: np.ndarray) -> RewardSums:
    return RewardSums(float(x.size), float(x.sum()), float((x * x).sum()))


def covered(
    interval: Callable[[RewardSums, float], tuple[float, float] | None],
    draw: Callable[[np.random.Generator], np.ndarray],
    mean: float,
) -> tuple[float, float]:
    """(share of runs with an interval, share of those that holds ``mean``)."""
    rng = np.random.default_rng(1)
    found = [interval(sums(draw(rng)), 0.95) for _ in range(RUNS)]
    shown = [ends for ends in found if ends is not None]
    return len(shown) / RUNS, sum(low <= mean <= high for low, high in shown) / max(len(shown), 1)


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_reals_of_few_values(n: int) -> None:
    shown, held = covered(real_interval, lambda rng: rng.normal(7, 3, n), 7.0)
    assert shown == 1.0
    assert held > 0.935


@pytest.mark.parametrize(("n", "share"), [(5, 0.82), (20, 0.87), (60, 0.91)])
def test_skewed_reals_are_covered_less_often_as_the_docs_say(n: int, share: float) -> None:
    _, held = covered(real_interval, lambda rng: rng.lognormal(0, 1, n), float(np.exp(0.5)))
    assert held == pytest.approx(share, abs=0.03)


def test_the_interval_of_reals_is_students() -> None:
    x = np.asarray([2.0, 3.5, 7.0, 1.0])
    wanted = stats.t.interval(0.95, 3, loc=x.mean(), scale=x.std(ddof=1) / 2)
    assert real_interval(sums(x), 0.95) == pytest.approx(wanted)
    assert real_interval(sums(x[:1]), 0.95) is None
    assert real_interval(sums(np.full(1000, 0.1)), 0.95) is None, "it would have no width"


@pytest.mark.parametrize(
    ("n", "shape", "mean"),
    [(20, 0.1, 20.0), (20, 0.3, 2.0), (30, 0.2, 5.0), (50, 0.05, 5.0), (60, 0.1, 0.5), (100, 0.05, 1.0)],
)
def test_bursty_counts(n: int, shape: float, mean: float) -> None:
    """Negative binomial counts: the smaller the shape, the more a few of them carry the sum."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.negative_binomial(shape, shape / (shape + mean), n).astype(float)

    shown, held = covered(count_interval, draw, mean)
    assert shown > 0.2
    assert held > 0.93


@pytest.mark.parametrize("n", [30, 100])
def test_bursts_among_zeros(n: int) -> None:
    """One value in six is a burst of about thirty."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(n) < 1 / 6, rng.poisson(30.0, n), 0.0)

    shown, held = covered(count_interval, draw, 5.0)
    assert shown > 0.5
    assert held > 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("n", "mean"), [(5, 20.0), (20, 2.0), (200, 0.2)])
def test_plain_counts(n: int, mean: float) -> None:
    shown, held = covered(count_interval, lambda rng: rng.poisson(mean, n).astype(float), mean)
    assert shown > 0.95
    assert held > 0.94


def test_a_single_burst_tells_nothing() -> None:
    assert count_interval(sums(np.asarray([0.0] * 19 + [40.0])), 0.95) is None
    assert count_interval(sums(np.zeros(20)), 0.95) is None


def test_an_interval_of_few_counts_is_finite() -> None:
    """1 minus the probability of the tail was 1, and the upper end infinite: no JSON could hold the report."""
    values = np.asarray([100.0, 200.0, 150.0, 50.0, 120.0])
    found = count_interval(sums(values), 0.95)
    assert found is not None
    carrying = values.sum() ** 2 / (values**2).sum()
    excess = values.var(ddof=1) / values.mean() - 1.0
    dispersion = 1.0 + excess * (1.0 + 2.0 / carrying)
    freedom = 1.0 / (1.0 / 4.0 + 3.0 / carrying * excess / (1.0 + excess))
    tail = stats.norm.sf(-stats.t.ppf(0.025, freedom))
    model = stats.gamma(1.0 + 620.0 / dispersion, scale=1.0 / (6.0 / 621.0 + 5.0 / dispersion))
    assert found == pytest.approx((model.ppf(tail), model.isf(tail)))
    assert 620.0 / 5.0 < found[1] < 1000.0
