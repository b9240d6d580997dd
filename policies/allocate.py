"""One way in for every policy: a plan and what was learned give an allocation."""

from __future__ import annotations

from policies.allocation import bandit, canary, shadow, single, split
from policies.allocation.bandit import Bandit
from policies.allocation.canary import Canary
from policies.allocation.model import Allocation, Learned
from policies.allocation.shadow import Shadow
from policies.allocation.single import Single
from policies.allocation.split import Split
from policies.contextual import bandit as contextual
from policies.contextual.bandit import Contextual

Plan = Single | Split | Shadow | Canary | Bandit | Contextual

_NOTHING = Learned()


def allocate(plan: Plan, learned: Learned = _NOTHING, now: float = 0.0) -> Allocation:
    """The allocation of ``plan``; pure, and alike on every replica that passes the same.

    ``now`` is in seconds since the epoch; no policy of today depends on it by itself (time enters with
    the discounted sums and the rollout's weight), but callers should pass it. Raises ValueError when the
    plan can't be an allocation, and says why.
    """
    match plan:
        case Single():
            return single.allocate(plan)
        case Split():
            return split.allocate(plan, learned.previous)
        case Shadow():
            return shadow.allocate(plan)
        case Canary():
            return canary.allocate(plan, learned.weight)
        case Bandit():
            return bandit.allocate(plan, learned)
        case Contextual():
            return contextual.allocate(plan, learned)
