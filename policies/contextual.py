"""Linear Thompson sampling on declared features, with propensities that are exact by construction.

Drawing coefficients for every request would leave its propensity unknown: the probability that a draw
favours the chosen variant has no closed form for more than two variants, and no other bandit gateway
records it. Here the leader draws a finite *ensemble* of coefficients from the posterior when it moves
(M for each variant), and a request with features x gets the variants with the shares

    floor + (1 - K floor) * #{m : x·w_mk is the best of the K} / M.

Its unit's point picks among these. So the shares *are* the propensities, to the last digit, whatever M is;
as M grows they tend to Thompson sampling's own (Lu & Van Roy, "Ensemble Sampling", 2017, bound what a
finite ensemble loses). The same unit with the same features keeps its variant while the ensemble stands,
and every replica that draws with the same seed from the same sums decides alike. One product of a
(M K, d) matrix with the row decides (`benchmarks/policies.py` has the cost); rows that recur are
remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

import numpy as np

from policies.assign import allocation
from policies.features import Feature, Raw, columns, encode
from policies.linear import Array, Coefficients, LinearSums, fit
from policies.model import Allocation, Decision, Goal, Learned
from policies.shares import capped, floored

REMEMBERED = 4096
"""Rows whose shares an ensemble keeps."""


@dataclass(frozen=True, slots=True)
class Contextual:
    """The plan. ``draws`` is M, even; ``strength`` is what the prior is worth, in rows."""

    variants: tuple[str, ...]
    metric: str
    features: tuple[Feature, ...]
    goal: Goal = "maximize"
    floor: float = 0.01
    draws: int = 256
    strength: float = 1.0
    shadows: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError("a contextual bandit needs at least one variant")
        most = 1.0 / len(self.variants)
        if not 0 <= self.floor <= most + 1e-12:
            raise ValueError(
                f"a floor of {self.floor:g} for each of {len(self.variants)} variants is more than "
                f"everything; write one between 0 and {most:g}"
            )
        if self.draws < 2 or self.draws % 2:
            raise ValueError(f"draws come in pairs: write an even number above zero, not {self.draws}")
        if not self.strength > 0:
            raise ValueError(f"the prior's strength is {self.strength!r}; write a number above zero")

    @property
    def width(self) -> int:
        """d: the columns of an encoded row."""
        return len(columns(self.features))


def allocate(plan: Contextual, learned: Learned) -> Allocation:
    """Even shares (caps apply): what requests get until there is an ensemble."""
    even = [1.0 / len(plan.variants)] * len(plan.variants)
    shares = capped(even, [learned.caps.get(name, 1.0) for name in plan.variants])
    made = dict(zip(plan.variants, shares, strict=True))
    return allocation(made, previous=learned.previous, shadows=plan.shadows)


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """M draws of every variant's coefficients: immutable, and all that a request needs."""

    plan: Contextual
    coefficients: Array
    """(M, K, d); with the sign that makes more better."""
    caps: tuple[float, ...]
    posteriors: tuple[Coefficients, ...]
    _remembered: object = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_remembered", lru_cache(maxsize=REMEMBERED)(self._decisions))

    def shares(self, row: Sequence[float]) -> tuple[float, ...]:
        """The K exact probabilities for an encoded row (d numbers); they sum to 1."""
        k = len(self.plan.variants)
        best = (self.coefficients @ np.asarray(row)).argmax(axis=1)
        votes = np.bincount(best, minlength=k) / self.plan.draws
        return tuple(capped(floored(votes.tolist(), self.plan.floor), self.caps))

    def decide(self, raw: Raw, u: float) -> Decision:
        """What the request with these features, whose unit is at point ``u``, gets."""
        return self.decide_row(encode(self.plan.features, raw), u)

    def decide_row(self, row: tuple[float, ...], u: float) -> Decision:
        """The same for an encoded row."""
        bounds, decisions = self._remembered(row)  # type: ignore[operator]
        for bound, decision in zip(bounds, decisions, strict=True):
            if u < bound:
                return decision  # type: ignore[no-any-return]
        raise ValueError(f"a point lies in [0, 1), not at {u!r}")

    def _decisions(self, row: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[Decision, ...]]:
        """Bounds and what lies below each, for those variants that have a share at all."""
        rows = enumerate(zip(self.plan.variants, self.shares(row), strict=True))
        own = tuple(Decision(name, k, share, forced=False) for k, (name, share) in rows if share)
        bounds = list(accumulate(decision.propensity for decision in own))
        bounds[-1] = 1.0  # the sum of the shares but for rounding
        return tuple(bounds), own


def ensemble(
    plan: Contextual,
    sums: Mapping[str, LinearSums],
    rng: np.random.Generator,
    caps: Mapping[str, float] | None = None,
) -> Ensemble:
    """Draws an ensemble from what was learned; ``sums`` by variant, those missing have learned nothing.

    Pass a Generator seeded by (route, epoch) to let every replica draw the same. Raises ValueError when
    the caps leave less than everything, or sums are of another width than the plan's features.
    """
    empty = LinearSums.empty(plan.width)
    mine = [sums.get(name, empty) for name in plan.variants]
    if any(s.xr.shape != (plan.width,) for s in mine):
        raise ValueError(
            f"sums must be over rows of {plan.width} columns: {', '.join(columns(plan.features))}"
        )
    fitted = fit(mine, plan.strength)
    sign = 1.0 if plan.goal == "maximize" else -1.0
    limits = tuple((caps or {}).get(name, 1.0) for name in plan.variants)
    capped(
        [1.0 / len(limits)] * len(limits), limits
    )  # refuses caps that can't hold, before any request meets them
    return Ensemble(
        plan, sign * np.stack([c.draw(rng, plan.draws) for c in fitted], axis=1), limits, tuple(fitted)
    )
