"""Fixed shares: A/B/n."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.allocation.bucketing import allocation
from policies.allocation.model import Allocation, normalised


@dataclass(frozen=True, slots=True)
class Split:
    """The plan: variants and their weights, in any unit (9 and 1, or 0.9 and 0.1)."""

    weights: tuple[tuple[str, float], ...]
    shadows: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, weights: Mapping[str, float], shadows: Mapping[str, float] | None = None) -> Split:
        return cls(tuple(weights.items()), tuple((shadows or {}).items()))


def allocate(plan: Split, previous: Allocation | None = None) -> Allocation:
    """Shares in proportion to the weights; an edit of the weights moves as few units as it must.

    Raises ValueError when a weight is negative or not finite, or all are zero.
    """
    shares = normalised([weight for _, weight in plan.weights])
    names = [name for name, _ in plan.weights]
    return allocation(dict(zip(names, shares, strict=True)), previous=previous, shadows=plan.shadows)
