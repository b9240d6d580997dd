"""Intervals for the mean of a real or count metric that hold, for one look, from few values on.

A bandit's beliefs start from a prior that is drawn from the very values (`policies.bayes.prior`), which is right for
sharing traffic and too narrow to be shown: of five values such an interval covers 81 %.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from scipy import special

from policies.types import RewardSums

MIN_TELLING: Final = 4.0
"""Effective number of counts that carry the sum, below which their burstiness is unknown."""
BURSTS: Final = 20.0
"""Observations after which an estimated dispersion can be taken at its word; before, it is too small on average."""


def real_interval(sums: RewardSums, level: float) -> tuple[float, float] | None:
    """Student's interval; None below two values."""
    n = sums.count
    if n < 2:
        return None
    half = -float(special.stdtrit(n - 1, (1 - level) / 2)) * sqrt(_variance(sums) / n)
    return sums.mean - half, sums.mean + half


def count_interval(sums: RewardSums, level: float) -> tuple[float, float] | None:
    """A Gamma interval with the variance of the counts themselves (quasi-Poisson); None where a few bursts carry the
    sum, for then nothing can be said.

    Student's quantile takes the place of the normal one, and the excess over Poisson's dispersion is enlarged by
    1 + 20 / n: it is estimated, and of few bursty values too small on average.
    """
    n, total = sums.count, sums.total
    if n < 2 or total < 0 or total * total <= MIN_TELLING * sums.squares:
        return None
    excess = max(_variance(sums) / sums.mean - 1.0, 0.0)
    dispersion = 1.0 + excess * (1.0 + BURSTS / n)
    tail = float(special.ndtr(special.stdtrit(n - 1, (1 - level) / 2)))
    # The prior of the beliefs: an exponential with the mean of the values.
    shape, rate = 1.0 + total / dispersion, (n + 1.0) / (total + 1.0) + n / dispersion
    low, high = (float(special.gammaincinv(shape, p)) / rate for p in (tail, 1 - tail))
    return low, high


def _variance(sums: RewardSums) -> float:
    return max(0.0, sums.squares - sums.total * sums.total / sums.count) / (sums.count - 1)
