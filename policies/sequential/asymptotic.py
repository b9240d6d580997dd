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

from policies.allocation.model import RewardSums

MIN_VALUES: Final = 50
"""Values of each variant below which there is no interval: the limit theorem does not hold yet."""
TUNING_VALUES: Final = 5_000.0
"""Number of values at which the interval is tightest."""


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
    """The sample variance, Bessel-corrected; NaN below two values."""
    if sums.count < 2:
        return math.nan
    centred = sums.squares - sums.total * sums.total / sums.count
    return max(centred, 0.0) / (sums.count - 1)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both means, the variances of both means, and the number of values that the sequence is tuned by."""

    baseline: float
    candidate: float
    baseline_variance: float
    candidate_variance: float
    n: float

    def multiplier(self, alpha: float, tuning: float) -> float:
        """How many standard errors the interval is wide to each side."""
        return asymptotic_half_width(self.n, self.n, alpha, tuning)


def _pair(baseline: RewardSums, candidate: RewardSums) -> _Pair | None:
    """What an interval needs of both; None where no interval can be had.

    A variant whose rare values have not come yet looks as if it did not vary, so no variant counts as
    varying less than the values of both together. The sequence is tuned by the equal shares that would
    tell as much, 4 / (1/n_b + 1/n_c) values: the total number would call fifty candidate values many.
    """
    if min(baseline.count, candidate.count) < MIN_VALUES:
        return None
    pooled = variance(baseline + candidate)
    if not pooled > 0:
        return None
    return _Pair(
        baseline.mean,
        candidate.mean,
        max(pooled, variance(baseline)) / baseline.count,
        max(pooled, variance(candidate)) / candidate.count,
        4 / (1 / baseline.count + 1 / candidate.count),
    )


def difference_interval(
    baseline: RewardSums, candidate: RewardSums, alpha: float, tuning: float = TUNING_VALUES
) -> tuple[float, float] | None:
    """(low, high) for candidate's mean - baseline's; None where no interval can be had (see `MIN_VALUES`).

    The sequence of Section 3 for shares that are constant within the window, in multiples of the standard
    error sqrt(s_b^2 / n_b + s_c^2 / n_c); see `_pair` for s and for the number that it is tuned by.
    """
    pair = _pair(baseline, candidate)
    if pair is None:
        return None
    half = pair.multiplier(alpha, tuning) * math.sqrt(pair.baseline_variance + pair.candidate_variance)
    difference = pair.candidate - pair.baseline
    return difference - half, difference + half


def ratio_interval(
    baseline: RewardSums, candidate: RewardSums, alpha: float, tuning: float = TUNING_VALUES
) -> tuple[float, float] | None:
    """(low, high) for candidate's mean / baseline's, by Fieller's theorem; None as in `difference_interval`.

    None, too, while the baseline's mean may be zero: then no bounded interval exists.
    """
    pair = _pair(baseline, candidate)
    if pair is None:
        return None
    k2 = pair.multiplier(alpha, tuning) ** 2
    a = pair.baseline**2 - k2 * pair.baseline_variance
    if a <= 0 or pair.baseline <= 0:
        return None
    b = pair.baseline * pair.candidate
    c = pair.candidate**2 - k2 * pair.candidate_variance
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a
