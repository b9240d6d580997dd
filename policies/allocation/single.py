"""Everything goes to one variant."""

from __future__ import annotations

from dataclasses import dataclass

from policies.allocation.bucketing import allocation
from policies.allocation.model import Allocation


@dataclass(frozen=True, slots=True)
class Single:
    """The plan: all requests to ``variant``."""

    variant: str
    shadows: tuple[tuple[str, float], ...] = ()


def allocate(plan: Single) -> Allocation:
    """All of [0, 1) belongs to the variant."""
    return allocation({plan.variant: 1.0}, shadows=plan.shadows)
