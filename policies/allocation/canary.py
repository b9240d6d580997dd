"""A candidate gets a set share beside the baseline; `policies.rollout.machine` moves the share."""

from __future__ import annotations

from dataclasses import dataclass

from policies.allocation.bandit import Bandit
from policies.allocation.bucketing import allocation
from policies.allocation.model import Allocation


@dataclass(frozen=True, slots=True)
class Canary:
    """The plan: ``weight`` in [0, 1] of the requests to ``candidate``, the rest to ``baseline``."""

    baseline: str
    candidate: str
    weight: float = 0.0
    shadows: tuple[tuple[str, float], ...] = ()
    then: Bandit | None = None
    """What decides on the shares of the two after the last stage, where a rollout says so."""


def allocate(plan: Canary, weight: float | None = None) -> Allocation:
    """The candidate owns [0, w), the baseline [w, 1); ``weight`` overrides the plan's own.

    The ranges depend on the weight alone and not on how it was reached, so a ramp up only adds units
    to the candidate, a ramp down only takes the last ones away, and every replica agrees. Raises
    ValueError for a weight outside [0, 1].
    """
    w = plan.weight if weight is None else weight
    if not 0 <= w <= 1:
        raise ValueError(f"the candidate's weight is {w!r}; write one between 0 % and 100 %")
    shares = {plan.baseline: 1.0 - w, plan.candidate: w}
    return allocation(shares, anchor=(plan.candidate, plan.baseline), shadows=plan.shadows)
