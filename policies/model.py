"""The vocabulary of deciding: what a policy is compiled into, and what one request gets.

Pure data. Everything here is immutable, so one reference can be shared by every request
that is in flight and swapped for another between two of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allocation:
    """A probability for each variant, as ranges of [0, 1), and the shadows that run beside.

    ``bounds[k]`` is the upper end of segment ``k`` (ascending, the last is 1.0) and ``owners[k]``
    the index into ``variants`` of the variant that owns it. A variant may own several segments;
    its probability is the sum of their lengths. See `policies.assign.allocation` for how the
    ranges are anchored so that a ramp moves no unit back.
    """

    variants: tuple[str, ...]
    probabilities: tuple[float, ...]
    bounds: tuple[float, ...]
    owners: tuple[int, ...]
    shadows: tuple[tuple[str, float], ...] = ()

    def pick(self, u: float) -> int:
        """The index of the variant that owns the point ``u`` of [0, 1)."""
        return self.owners[bisect_right(self.bounds, u)]

    def probability(self, variant: str) -> float:
        """The exact probability with which ``variant`` is assigned; 0.0 for an unknown one."""
        return self.probabilities[self.variants.index(variant)] if variant in self.variants else 0.0

    def as_dict(self) -> dict[str, float]:
        return dict(zip(self.variants, self.probabilities, strict=True))


@dataclass(frozen=True, slots=True)
class RewardSums:
    """Additive sums of one metric's reported values for one variant.

    ``count`` observations, ``total`` = Σ value, ``squares`` = Σ value². Sums commute and can be
    subtracted, so corrections and retractions leave no trace.
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: RewardSums) -> RewardSums:
        return RewardSums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def __sub__(self, other: RewardSums) -> RewardSums:
        return RewardSums(self.count - other.count, self.total - other.total, self.squares - other.squares)

    @property
    def mean(self) -> float:
        """Σ value / count; NaN when nothing was reported."""
        return self.total / self.count if self.count else float("nan")


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    """``weights`` divided by their sum.

    Raises ValueError when a weight is negative or not finite, or all are zero.
    """
    total = sum(weights)
    if not weights or any(not 0 <= w < float("inf") for w in weights) or not 0 < total < float("inf"):
        raise ValueError("weights must be finite, not negative, and not all zero")
    return tuple(w / total for w in weights)
