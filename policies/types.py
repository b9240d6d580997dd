"""Values that all policies and statistics share: sums of rewards, and the direction of a metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Goal = Literal["maximize", "minimize"]
"""Which way a metric is good."""
MetricType = Literal["boolean", "fraction", "real", "count"]
"""Which values a metric has."""
CLIENT_ERROR_RATE: Final = "client_error_rate"
"""A boolean metric that the gateway measures: whether the assigned variant's response was a client error (4xx)."""
ERROR_RATES: Final = ("error_rate", CLIENT_ERROR_RATE)
"""Metrics of how requests end: boolean, and less is better."""


@dataclass(frozen=True, slots=True)
class RewardSums:
    """Additive sums of one metric's reported values for one variant.

    ``count`` observations, ``total`` = Σ value, ``squares`` = Σ value². Sums commute and can be
    subtracted, so corrections and retractions leave no trace.
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> RewardSums:
        """Return the sums of ``values``."""
        return cls(float(values.size), float(values.sum()), float(values @ values))

    def __add__(self, other: RewardSums) -> RewardSums:
        return RewardSums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def __sub__(self, other: RewardSums) -> RewardSums:
        return RewardSums(self.count - other.count, self.total - other.total, self.squares - other.squares)

    def __mul__(self, factor: float) -> RewardSums:
        """Return the sums of ``factor`` times as many values."""
        return RewardSums(self.count * factor, self.total * factor, self.squares * factor)

    @property
    def mean(self) -> float:
        """Σ value / count; NaN when nothing was reported."""
        return self.total / self.count if self.count else float("nan")


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over units of two figures x and y, and of x + y, whose squares give their products."""

    x: RewardSums = field(default_factory=RewardSums)
    y: RewardSums = field(default_factory=RewardSums)
    both: RewardSums = field(default_factory=RewardSums)

    @classmethod
    def of(cls, x: NDArray[np.float64], y: NDArray[np.float64]) -> PairSums:
        """Return the sums over units of the figures ``x`` and ``y``, one of each for every unit."""
        return cls(*map(RewardSums.of, (x, y, x + y)))

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(self.x + other.x, self.y + other.y, self.both + other.both)

    def __sub__(self, other: PairSums) -> PairSums:
        return PairSums(self.x - other.x, self.y - other.y, self.both - other.both)

    def __mul__(self, factor: float) -> PairSums:
        """Return the sums over ``factor`` times as many units."""
        return PairSums(self.x * factor, self.y * factor, self.both * factor)


@dataclass(frozen=True, slots=True)
class Discounted:
    """Sums in which old decisions count less (`policies.allocation.bandit.discounted`).

    A type of its own, so that no promotion test takes them: their count is not a number of
    observations, and always-valid bounds do not hold for them.
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        """Σ weight x value / Σ weight; NaN when nothing was reported."""
        return self.total / self.count if self.count else float("nan")


Sums = RewardSums | Discounted
"""Sums that a belief about a mean can be computed from."""
