"""The allocation that each route of a document begins with, from what is published and the state of rollouts. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gateway.compile.ensembles import Drawn, described, expected, restore
from gateway.compile.plans import RolloutOverride, overridden
from gateway.state.base import Published
from policies.allocate import Plan, allocate
from policies.allocation import bandit
from policies.allocation.bandit import Bandit
from policies.allocation.model import Allocation, Learned
from policies.contextual.bandit import Contextual, Ensemble
from policies.rollout import state as rollout
from policies.rollout.state import State
from policies.rollout.table import Status


@dataclass(frozen=True, slots=True)
class RouteAllocation:
    """The allocation of one route as this process serves it."""

    epoch: int
    allocation: Allocation
    plan: Plan
    published: bool
    """Whether the store has it (under this epoch)."""
    reason: str = "config"
    drawn: Drawn | None = None
    """The ensemble of a bandit with features; None until something was learned."""

    @property
    def ensemble(self) -> Ensemble | None:
        return self.drawn.ensemble if self.drawn is not None else None

    @property
    def contextual(self) -> dict[str, Any] | None:
        """What a bandit with features has learned, for people; None for other policies."""
        return described(self.plan, self.drawn) if isinstance(self.plan, Contextual) else None


def override_of(state: State, plan: rollout.Plan) -> RolloutOverride:
    """The changes that a rollout in ``state`` makes to the plan of its canary."""
    share = rollout.shadow_share(state, plan)
    shadows = ((state.candidate, share),) if share else ()
    promoted = state.status is Status.PROMOTED
    place = {
        "phase": state.phase,
        "stage": state.stage,
        "state": state.status,
        "baseline": state.baseline,
        "candidate": state.candidate,
    }
    return RolloutOverride(state.weight, shadows, state.competing, state.deciding, promoted, place)


def arranged(
    found: Plan, override: RolloutOverride | None, stored: Published | None, packed: bytes
) -> RouteAllocation:
    """The allocation that a route begins with: the published one (``stored``, its ensemble ``packed``) if it fits.

    Raises:
        ValueError: The plan can't be allocated.
    """
    wanted = overridden(found, override)
    previous = fitting(stored, wanted) if stored is not None else None
    drawn = None
    of_features = stored is not None and expected(stored.evidence)
    if isinstance(wanted, Contextual):
        drawn = restore(wanted, packed) if packed else None
        fresh = previous if drawn is not None and previous is not None else allocate(wanted)
    elif isinstance(wanted, Bandit):
        fresh = previous or bandit.joined(wanted, stored.probabilities if stored is not None else {})
    else:
        fresh = allocate(wanted, Learned(previous=previous))
    # What was published with an ensemble is the same only if it is decided by that very ensemble.
    kept = drawn.exact if drawn is not None else not of_features
    if stored is not None and previous is not None and kept and same(previous, fresh):
        return RouteAllocation(stored.epoch, fresh, wanted, published=True, drawn=drawn)
    epoch = stored.epoch + 1 if stored is not None else 1
    return RouteAllocation(epoch, fresh, wanted, published=False, drawn=drawn)


def followed(held: RouteAllocation, wanted: Plan, stored: Published, packed: bytes) -> RouteAllocation:
    """The allocation of a route once ``stored`` was read (``packed``: its ensemble).

    It is ``held`` with the plan ``wanted`` if ``stored`` is older or belongs to another configuration.
    """
    if wanted != held.plan:  # another process has moved the rollout
        held = replace(held, plan=wanted)
    found = fitting(stored, wanted) if stored.epoch >= held.epoch else None
    if found is None:
        return held  # ours, or the newer one, will be published
    drawn = None
    if expected(stored.evidence):
        if held.published and held.epoch == stored.epoch:
            return held
        drawn = restore(wanted, packed) if packed and isinstance(wanted, Contextual) else None
        if drawn is None or not drawn.exact:
            return (
                held  # another configuration's; or a newer epoch has come, and is followed at the next step
            )
    if stored.epoch != held.epoch or not same(found, held.allocation):
        return RouteAllocation(stored.epoch, found, wanted, published=True, reason=stored.reason, drawn=drawn)
    return held if held.published else replace(held, published=True, drawn=drawn)


def fitting(stored: Published, wanted: Plan) -> Allocation | None:
    """The published allocation if it has exactly the variants of ``wanted``, else None."""
    fresh = allocate(wanted)
    if set(stored.probabilities) != set(fresh.variants):
        return None
    return Allocation(
        variants=tuple(stored.probabilities),
        probabilities=tuple(stored.probabilities.values()),
        bounds=stored.bounds,
        owners=stored.owners,
        shadows=fresh.shadows,
    )


def same(a: Allocation, b: Allocation, within: float = 0.0) -> bool:
    """Whether both assign the same; with ``within``, whether no probability differs by more than that."""
    one, other = a.as_dict(), b.as_dict()
    if set(one) != set(other):
        return False
    if within:
        return all(abs(one[name] - other[name]) <= within for name in one)
    owners = [a.variants[k] for k in a.owners] == [b.variants[k] for k in b.owners]
    return owners and a.bounds == b.bounds
