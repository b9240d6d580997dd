"""Betting confidence sequences: validity by enumeration, sharpness, and refusals."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from policies.betting import betting_interval, log_capital, predictable_bets
from policies.contrast import Rate, mean_interval


def test_capital_never_gains_on_average_and_never_looks_ahead() -> None:
    """Each of the two halves is a martingale, so their larger one never exceeds their sum: mean at most 1."""
    p, mean = 0.3, 0.0
    for path in product((0.0, 1.0), repeat=8):
        chance = math.prod(p if x else 1 - p for x in path)
        mean += chance * float(np.exp(log_capital(path, [p], 0.05)[0, -1]))
    assert mean <= 1 + 1e-12
    early, late = predictable_bets([0.2, 0.9, 0.5], 0.05), predictable_bets([0.2, 0.9, 0.1], 0.05)
    assert early == pytest.approx(late)


@pytest.mark.parametrize("shape", [(10, 30), (200, 50)])
def test_it_covers_and_beats_the_rate_interval(shape: tuple[float, float]) -> None:
    rng = np.random.default_rng(8)
    mean = shape[0] / sum(shape)
    x = rng.beta(*shape, 2_000)
    low, high = betting_interval(x, 0.05)
    assert (low <= mean).all()
    assert (mean <= high).all()
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) <= 0).all()
    rate = mean_interval(Rate(float(x.sum()), x.size), 0.05)
    assert high[-1] - low[-1] < rate[1] - rate[0]


def test_constant_ends_of_the_range() -> None:
    low, high = betting_interval(np.zeros(500), 0.05)
    assert low[-1] == 0.0
    assert high[-1] < 0.05
    low, high = betting_interval(np.ones(500), 0.05)
    assert high[-1] == 1.0
    assert low[-1] > 0.95


@pytest.mark.parametrize("x", [[0.5, 1.5], [-0.1], [math.nan], [[0.5]]])
def test_only_values_between_zero_and_one(x: object) -> None:
    with pytest.raises(ValueError, match="within"):
        betting_interval(x, 0.05)  # type: ignore[arg-type]
