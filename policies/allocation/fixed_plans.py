"""Plans whose shares do not depend on rewards: single, split, shadow and canary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from policies.allocation.bandit import Bandit
from policies.allocation.bucketing import allocation
from policies.allocation.model import Allocation, normalised

Shadows = tuple[tuple[str, float], ...]
"""Each shadow with the share, in [0, 1], of the requests copied to it."""


@dataclass(frozen=True, slots=True)
class Single:
    """All requests to ``variant``."""

    variant: str
    shadows: Shadows = ()


@dataclass(frozen=True, slots=True)
class Split:
    """A/B/n: variants and their weights, in any unit (9 and 1, or 0.9 and 0.1)."""

    weights: tuple[tuple[str, float], ...]
    shadows: Shadows = ()

    @classmethod
    def of(cls, weights: Mapping[str, float], shadows: Mapping[str, float] | None = None) -> Split:
        return cls(tuple(weights.items()), tuple((shadows or {}).items()))


@dataclass(frozen=True, slots=True)
class Shadow:
    """All requests to ``primary``; copies go to the shadows, whose responses are only compared."""

    primary: str
    shadows: Shadows

    @classmethod
    def of(cls, primary: str, shadows: Mapping[str, float]) -> Shadow:
        return cls(primary, tuple(shadows.items()))


@dataclass(frozen=True, slots=True)
class Canary:
    """A share ``weight``, in [0, 1], of the requests to ``candidate``, the rest to ``baseline``.

    `policies.rollout.machine` moves the weight.
    """

    baseline: str
    candidate: str
    weight: float = 0.0
    shadows: Shadows = ()
    then: Bandit | None = None
    """The bandit that decides on the shares of the two after the last stage, if the rollout has one."""


def allocate_single(plan: Single) -> Allocation:
    """Give all of [0, 1) to the variant."""
    return allocation({plan.variant: 1.0}, shadows=plan.shadows)


def allocate_split(plan: Split, previous: Allocation | None = None) -> Allocation:
    """Give shares in proportion to the weights; an edit of the weights moves as few units as possible.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """
    shares = normalised([weight for _, weight in plan.weights])
    names = [name for name, _ in plan.weights]
    return allocation(dict(zip(names, shares, strict=True)), previous=previous, shadows=plan.shadows)


def allocate_shadow(plan: Shadow) -> Allocation:
    """Give all of [0, 1) to the primary.

    Raises:
        ValueError: a shadow's share lies outside [0, 1].
    """
    for name, share in plan.shadows:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of shadow {name!r} is {share!r}; write one between 0% and 100%")
    return allocation({plan.primary: 1.0}, shadows=plan.shadows)


def allocate_canary(plan: Canary) -> Allocation:
    """Give [0, w) to the candidate and [w, 1) to the baseline, w being the plan's weight.

    The ranges depend on the weight alone and not on its history, so a ramp up only adds units to the
    candidate, a ramp down only takes the last ones away, and all replicas agree.

    Raises:
        ValueError: the weight lies outside [0, 1].
    """
    w = plan.weight
    if not 0 <= w <= 1:
        raise ValueError(f"the candidate's weight is {w!r}; write one between 0% and 100%")
    shares = {plan.baseline: 1.0 - w, plan.candidate: w}
    return allocation(shares, anchor=(plan.candidate, plan.baseline), shadows=plan.shadows)


def shadow_due(count: int, share: float) -> bool:
    """Return whether request number ``count`` (from 0) is to be copied to a shadow with this ``share``.

    Of the first n requests exactly floor(n x share) are copied, for every n. Whole numbers count, because
    0.29 x 100 in floats is less than 29.
    """
    up, down = _ratio(share)
    return (count + 1) * up // down > count * up // down


@lru_cache(maxsize=1024)
def _ratio(share: float) -> tuple[int, int]:
    ratio = Fraction(share).limit_denominator(10**9)
    return ratio.numerator, ratio.denominator
