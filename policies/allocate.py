"""The single entry point of every policy: a plan and the learned state give an allocation."""

from __future__ import annotations

from policies.allocation import bandit
from policies.allocation.bandit import Bandit
from policies.allocation.fixed_plans import (
    Canary,
    Shadow,
    Single,
    Split,
    allocate_canary,
    allocate_shadow,
    allocate_single,
    allocate_split,
)
from policies.allocation.model import Allocation, Learned
from policies.contextual import bandit as contextual
from policies.contextual.bandit import Contextual

Plan = Single | Split | Shadow | Canary | Bandit | Contextual

_NOTHING = Learned()


def allocate(plan: Plan, learned: Learned = _NOTHING) -> Allocation:
    """Return the allocation of ``plan``: pure, so all replicas with the same arguments agree.

    Raises:
        ValueError: the plan can't be an allocation; the message says why.
    """
    match plan:
        case Single():
            return allocate_single(plan)
        case Split():
            return allocate_split(plan, learned.previous)
        case Shadow():
            return allocate_shadow(plan)
        case Canary():
            return allocate_canary(plan)
        case Bandit():
            return bandit.allocate(plan, learned)
        case Contextual():
            return contextual.allocate(plan, learned)
