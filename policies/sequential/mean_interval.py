"""Intervals for the mean of a real or count metric that hold, for one look, from few values on.

A bandit's beliefs start from a prior that is drawn from the very values (`policies.bayes.prior`), which is right for
sharing traffic and too narrow to be shown: of five values such an interval covers 81 %.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from scipy import special

from policies.bayes.prior import carried_by_few
from policies.sequential.asymptotic import ROUNDING
from policies.types import RewardSums

BURSTS: Final = 2.0
"""Effective number of counts at which an estimated excess of dispersion is doubled: it is too small on average."""
CARRYING: Final = 3.0
"""Effective counts for each degree of freedom of that estimate."""


def real_interval(sums: RewardSums, level: float) -> tuple[float, float] | None:
    """Student's interval; None below two values, and of values that are all the same: it would have no width."""
    n = sums.count
    if n < 2 or _variance(sums) * (n - 1) <= ROUNDING * sums.squares:
        return None
    half = -float(special.stdtrit(n - 1, (1 - level) / 2)) * sqrt(_variance(sums) / n)
    return sums.mean - half, sums.mean + half


def count_interval(sums: RewardSums, level: float) -> tuple[float, float] | None:
    """A Gamma interval with the variance of the counts themselves (quasi-Poisson); None where a few bursts carry the
    sum, for then nothing can be said.

    Student's quantile takes the place of the normal one. The variance is known less well the more of it is excess over
    Poisson's, and the fewer counts carry the sum: k = (sum of y)^2 / sum of y^2 of them, which is few among any number
    of zeros. So that part has k / 3 degrees of freedom, and the excess is enlarged by 1 + 2 / k.
    """
    n, total = sums.count, sums.total
    if n < 2 or total < 0 or carried_by_few(sums):
        return None
    carrying = total * total / sums.squares
    excess = max(_variance(sums) / sums.mean - 1.0, 0.0)
    dispersion = 1.0 + excess * (1.0 + BURSTS / carrying)
    freedom = 1.0 / (1.0 / (n - 1) + CARRYING / carrying * excess / (1.0 + excess))
    tail = float(special.ndtr(special.stdtrit(freedom, (1 - level) / 2)))
    # The prior of the beliefs: an exponential with the mean of the values.
    shape, rate = 1.0 + total / dispersion, (n + 1.0) / (total + 1.0) + n / dispersion
    # The upper end from its own tail: of few counts that is below 1e-16, and 1 - tail would be 1, and the end infinite.
    return float(special.gammaincinv(shape, tail)) / rate, float(special.gammainccinv(shape, tail)) / rate


def _variance(sums: RewardSums) -> float:
    return max(0.0, sums.squares - sums.total * sums.total / sums.count) / (sums.count - 1)
