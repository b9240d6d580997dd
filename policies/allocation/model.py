"""The vocabulary of deciding: what a policy is compiled into, and what one request gets.

Pure data. Everything here is immutable, so one reference can be shared by every request
that is in flight and swapped for another between two of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from policies.sequential.design_based import Periods
from policies.types import Discounted, RewardSums


@dataclass(frozen=True, slots=True)
class Allocation:
    """A probability for each variant, as ranges of [0, 1), and the shadows that get copies.

    ``bounds[k]`` is the upper end of segment ``k`` (ascending, the last is 1.0) and ``owners[k]``
    the index into ``variants`` of the variant that owns it. A variant may own several segments;
    its probability is the sum of their lengths. See `policies.allocation.bucketing.allocation` for how the
    ranges are anchored so that a ramp moves no unit back.
    """

    variants: tuple[str, ...]
    probabilities: tuple[float, ...]
    bounds: tuple[float, ...]
    owners: tuple[int, ...]
    shadows: tuple[tuple[str, float], ...] = ()

    def pick(self, u: float) -> int:
        """Return the index of the variant that owns the point ``u`` of [0, 1): the decision of each request.

        Raises:
            ValueError: ``u`` is 1 or more.
        """
        try:
            return self.owners[bisect_right(self.bounds, u)]
        except IndexError:
            raise ValueError(f"a point lies in [0, 1), not at {u!r}") from None

    def probability(self, variant: str) -> float:
        """The exact probability with which ``variant`` is assigned; 0.0 for an unknown one."""
        return self.probabilities[self.variants.index(variant)] if variant in self.variants else 0.0

    def as_dict(self) -> dict[str, float]:
        return dict(zip(self.variants, self.probabilities, strict=True))


@dataclass(frozen=True, slots=True)
class Learned:
    """Everything that was learned since the plan was written, as the slow path hands it in.

    A part that a policy does not need may stay empty. A variant that is missing from ``sums`` has
    simply not been rewarded yet.
    """

    sums: Mapping[tuple[str, str], RewardSums] = field(default_factory=dict)
    """By (variant, metric), as `Store.reward_sums` returns them."""
    discounted: Mapping[tuple[str, str], Discounted] = field(default_factory=dict)
    """The same with old decisions counting less; read by bandits that have a half-life."""
    caps: Mapping[str, float] = field(default_factory=dict)
    """The largest share that a guardrail leaves a variant, in [0, 1]; 0 ejects it."""
    winner: str | None = None
    """Of a bandit, the variant that it was handed over to."""
    previous: Allocation | None = None
    """What is in force now, so that as few units as possible change their variant."""
    periods: Periods | None = field(default=None, compare=False)
    """The observations behind ``sums`` by period of constant propensities, for a stop rule; None: shares were
    constant."""


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    """``weights`` divided by their sum.

    Raises ValueError when a weight is negative or not finite, or all are zero.
    """
    total = sum(weights)
    if not weights or any(not 0 <= w < float("inf") for w in weights) or not 0 < total < float("inf"):
        raise ValueError("weights must be finite, not negative, and not all zero")
    return tuple(w / total for w in weights)
