"""One variant answers; others are sent copies of the request, and their answers are only compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from policies.allocation.bucketing import allocation
from policies.allocation.model import Allocation


@dataclass(frozen=True, slots=True)
class Shadow:
    """The plan: all requests to ``primary``, and a share of them, in [0, 1], copied to each shadow."""

    primary: str
    shadows: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, primary: str, shadows: Mapping[str, float]) -> Shadow:
        return cls(primary, tuple(shadows.items()))


def allocate(plan: Shadow) -> Allocation:
    """All of [0, 1) belongs to the primary. Raises ValueError for a share outside [0, 1]."""
    for name, share in plan.shadows:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of shadow {name!r} is {share!r}; write one between 0 % and 100 %")
    return allocation({plan.primary: 1.0}, shadows=plan.shadows)


def shadow_due(count: int, share: float) -> bool:
    """Whether request number ``count`` (from 0) is to be copied.

    Of the first n requests exactly floor(n x share) are due, for every n, by counting in whole
    numbers: no chance, so a share is met as well as whole requests can meet it (29 % of 100 is 29,
    which 0.29 x 100 in floats is not).
    """
    up, down = _ratio(share)
    return (count + 1) * up // down > count * up // down


@lru_cache(maxsize=1024)
def _ratio(share: float) -> tuple[int, int]:
    ratio = Fraction(share).limit_denominator(10**9)
    return ratio.numerator, ratio.denominator
