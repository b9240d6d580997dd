"""The asymptotic confidence sequence for means without bounds, for one variant and for two.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), "Time-uniform central limit theory and
asymptotic confidence sequences", Annals of Statistics 52(6). It holds at all times in the
limit, as a z-interval holds at one time in the limit: with finite variance, and not from the first
handful of values on. `MIN_VALUES` values of each variant are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from policies.types import RewardSums

MIN_VALUES: Final = 50
"""Values of each variant below which there is no interval: the limit theorem does not hold yet."""
TUNING_VALUES: Final = 5_000.0
"""Number of values at which the interval is tightest."""
ROUNDING: Final = 1e-10
"""Part of a sum of squares that may be rounding: a million additions of 0.1 are off by 1e-11."""
MAX_ONE_SIDED: Final = 0.06
"""Level up to which `two_sided` gains anything."""


def two_sided(alpha: float) -> float:
    """Return the level of an interval each of whose ends, taken alone, is wrong with probability ``alpha`` at most.

    The sequence mixes a normal distribution of means; half of it, on one side, multiplies the e-value of a deviation of
    z standard errors there by 2 Phi(z). At levels up to 6 % a crossing lies beyond z = 2.06, where Phi is 0.98.
    """
    return 1.96 * alpha if alpha <= MAX_ONE_SIDED else alpha


def asymptotic_rho(alpha: float, tuning: float = TUNING_VALUES) -> float:
    """Return the parameter that makes the sequence tightest at ``tuning`` values (their Appendix B.2).

    rho^2 = (-2 log alpha + log(1 - 2 log alpha)) / tuning.
    """
    return math.sqrt((-2 * math.log(alpha) + math.log1p(-2 * math.log(alpha))) / tuning)


def asymptotic_half_width(variance: float, n: float, alpha: float, tuning: float = TUNING_VALUES) -> float:
    """Return the half-width around the mean of ``n`` values of ``variance``, in their unit (Theorem 2.2).

    sigma sqrt(2 (n r^2 + 1) / (n r)^2 log(1/alpha sqrt(n r^2 + 1))), r = `asymptotic_rho`.
    """
    rho = asymptotic_rho(alpha, tuning)
    grown = n * rho * rho + 1
    return math.sqrt(variance * 2 * grown / (n * rho) ** 2 * math.log(math.sqrt(grown) / alpha))


def variance(sums: RewardSums) -> float:
    """Return the sample variance, Bessel-corrected; NaN below two values."""
    if sums.count < 2:
        return math.nan
    centred = sums.squares - sums.total * sums.total / sums.count
    return max(centred, 0.0) / (sums.count - 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """One variant's values: their mean, their variance, and the squared standard error of the mean.

    ``size``: the number of equally weighted values that would tell as much.
    """

    size: float
    mean: float
    variance: float
    squared_error: float

    @classmethod
    def of(cls, sums: RewardSums) -> Sample:
        """Return the sample whose values all count alike."""
        spread = variance(sums)
        return cls(sums.count, sums.mean, spread, spread / sums.count if sums.count else math.nan)

    def scaled(self, scale: float) -> Sample:
        """Return the sample that ``scale`` times as much of the same data would give."""
        return Sample(self.size * scale, self.mean, self.variance, self.squared_error / scale)


def _pooled(first: Sample, second: Sample) -> float:
    """The variance of the values of both samples together."""
    n, m = first.size, second.size
    between = n * m / (n + m) * (first.mean - second.mean) ** 2
    return ((n - 1) * first.variance + (m - 1) * second.variance + between) / (n + m - 1)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both means, the squared standard errors of both, and the number of values that the sequence is tuned by."""

    baseline: float
    candidate: float
    baseline_error: float
    candidate_error: float
    n: float

    def multiplier(self, alpha: float, tuning: float) -> float:
        """Half the interval's width in standard errors."""
        return asymptotic_half_width(self.n, self.n, alpha, tuning)


def _pair(baseline: Sample, candidate: Sample) -> _Pair | None:
    """The inputs of an interval; None where there can be none.

    A variant whose rare values have not come yet seems not to vary, so no variant counts as varying less than
    the values of both together. The sequence is tuned by the equal shares that would tell as much,
    4 / (1/n_b + 1/n_c) values: the total number would call fifty candidate values many.
    """
    if min(baseline.size, candidate.size) < MIN_VALUES:
        return None
    pooled = _pooled(baseline, candidate)
    if not pooled > ROUNDING * max(baseline.mean**2, candidate.mean**2):
        return None
    return _Pair(
        baseline.mean,
        candidate.mean,
        max(pooled / baseline.size, baseline.squared_error),
        max(pooled / candidate.size, candidate.squared_error),
        4 / (1 / baseline.size + 1 / candidate.size),
    )


def difference_interval(
    baseline: Sample, candidate: Sample, alpha: float, tuning: float = TUNING_VALUES
) -> tuple[float, float] | None:
    """Return (low, high) for candidate's mean - baseline's; None where there can be none (see `MIN_VALUES`).

    The sequence of Section 3, in multiples of the standard error of the difference; see `_pair` for the error and
    for the number that the sequence is tuned by.
    """
    pair = _pair(baseline, candidate)
    if pair is None:
        return None
    half = pair.multiplier(alpha, tuning) * math.sqrt(pair.baseline_error + pair.candidate_error)
    difference = pair.candidate - pair.baseline
    return difference - half, difference + half


def ratio_interval(
    baseline: Sample, candidate: Sample, alpha: float, tuning: float = TUNING_VALUES
) -> tuple[float, float] | None:
    """Return (low, high) for candidate's mean / baseline's, by Fieller's theorem; None as in `difference_interval`.

    None, too, while the baseline's mean may be zero: then no bounded interval exists.
    """
    pair = _pair(baseline, candidate)
    if pair is None:
        return None
    if pair.baseline <= 0:
        return None
    # In units of the baseline's mean: fourth powers of values may overflow.
    k, ratio = pair.multiplier(alpha, tuning) / pair.baseline, pair.candidate / pair.baseline
    a = 1.0 - k * k * pair.baseline_error
    # Fieller's quadratic then has no bounded set of solutions.
    if a <= 0:
        return None
    c = ratio * ratio - k * k * pair.candidate_error
    root = math.sqrt(max(ratio * ratio - a * c, 0.0))
    return (ratio - root) / a, (ratio + root) / a
