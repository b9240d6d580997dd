"""Tests for one look only.

They are what most tools show, and they are wrong in a gateway that looks each second: a nominal 5 %
becomes tens of per cent (docs/benchmarks_statistics.md has the measured figure). Use them where there is one look
by construction, a finished experiment or a simulation; everywhere else the always-valid modules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import chi2
from scipy.stats import t as student

from policies.allocation.model import RewardSums
from policies.sequential.asymptotic import variance


@dataclass(frozen=True, slots=True)
class Effect:
    """An estimated difference: its value, the variance of the estimate, values in all, degrees of freedom."""

    estimate: float
    variance: float
    n: float
    freedom: float


def effect(
    baseline: RewardSums, candidate: RewardSums, *, relative: bool = False, boolean: bool = False
) -> Effect:
    """Candidate's mean - baseline's, or (relative) that over the baseline's mean, by the delta method.

    ``boolean``: the variance of each value is p (1 - p). Degrees of freedom: Welch (1947).
    """
    first = _variance(baseline, boolean) / baseline.count
    second = _variance(candidate, boolean) / candidate.count
    difference, spread = candidate.mean - baseline.mean, first + second
    if relative:
        spread = second / baseline.mean**2 + first * candidate.mean**2 / baseline.mean**4
        difference /= baseline.mean
    freedom = (first + second) ** 2 / (first**2 / (baseline.count - 1) + second**2 / (candidate.count - 1))
    return Effect(difference, spread, baseline.count + candidate.count, freedom)


def _variance(sums: RewardSums, boolean: bool) -> float:
    return sums.mean * (1 - sums.mean) if boolean else variance(sums)


def welch_interval(effect: Effect, alpha: float) -> tuple[float, float]:
    """(low, high) of Welch's t-interval, for one look."""
    half = float(student.isf(alpha / 2, effect.freedom)) * math.sqrt(effect.variance)
    return effect.estimate - half, effect.estimate + half


def welch_p_value(effect: Effect) -> float:
    """Two-sided p-value of Welch's t-test of "no difference", for one look."""
    t = abs(effect.estimate) / math.sqrt(effect.variance)
    return float(2 * student.sf(t, effect.freedom))


def chi_squared_p_value(observed: Sequence[float], shares: Sequence[float]) -> float:
    """Pearson's chi-squared test of counts against fixed shares, for one look. Shares need not sum to 1."""
    total, whole = sum(observed), sum(shares)
    expected = [total * share / whole for share in shares]
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 0)
    return float(chi2.sf(statistic, len(observed) - 1))
