"""What the newest allocation of a route tells of its state, once the store has lost that. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from gateway.compile.plans import plan_of
from gateway.compile.steering import Steering, guarded
from gateway.config.policy import CanaryConfig
from gateway.config.route import RouteConfig
from gateway.state import shapes
from gateway.state.base import Published
from policies.rollout.ejections import Ejections
from policies.rollout.route import RouteState
from policies.rollout.state import Plan, State, begin, stage_of
from policies.rollout.table import Status

BEGINNING_S: Final = 60.0
"""A rollout whose first allocation is older than this had a state."""
REASON: Final = "the store has lost the state of the route; it stays as its last allocation left it"
_ROLLOUT: Final[shapes.Shape] = {"stage": int, "state": str, "baseline": str, "candidate": str}
_EJECTED: Final[shapes.Shape] = {"fingerprint": str, "variants": [str]}


def traces(steering: Steering) -> dict[str, Any]:
    """What the evidence of an allocation says of the state that steers it, for `recalled`."""
    found: dict[str, Any] = {}
    if steering.override is not None:
        found["rollout"] = steering.override.place
    if steering.ejected:
        found["ejected"] = {"fingerprint": steering.fingerprint, "variants": sorted(steering.ejected)}
    return found


def recalled(stored: Published | None, route: RouteConfig, now: float) -> RouteState:
    """The state in which the newest allocation (``stored``) left a route: that of a new route if it tells of none.

    A rollout that was rolled back still is; any other is paused at the share that it had, until a person says how it
    goes on. Variants that a bandit's guardrails had ejected still are.
    """
    if stored is None or not stored.evidence:
        return RouteState()
    found: Any = json.loads(stored.evidence)
    rollout, ejected, section = found.get("rollout"), found.get("ejected"), route.policy
    if isinstance(section, CanaryConfig):
        fits = shapes.fits(rollout, _ROLLOUT)
        return RouteState(_rollout(stored, rollout, plan_of(section), now) if fits else None)
    bound = guarded(section, None)
    if bound is None or not shapes.fits(ejected, _EJECTED) or ejected["fingerprint"] != bound.fingerprint:
        return RouteState()
    reasons = dict.fromkeys(ejected["variants"], REASON)
    return RouteState(ejections=Ejections(bound.fingerprint, now, reasons))


def _rollout(stored: Published, place: Any, plan: Plan, now: float) -> State | None:
    first = (place["stage"], place["state"]) == (plan.first, Status.RUNNING)
    if (place["baseline"], place["candidate"]) != (plan.baseline, plan.candidate) or (
        first and now - stored.time < BEGINNING_S
    ):
        return None  # it is another's, or was about to be stored
    stage = min(max(place["stage"], plan.first), len(plan.stages) - 1)
    weight = stored.probabilities.get(plan.candidate, 0.0)
    return replace(
        begin(plan, now),
        status=Status.ROLLED_BACK if place["state"] == Status.ROLLED_BACK else Status.PAUSED,
        stage=stage,
        weight=weight,
        by_hand=weight != stage_of(plan, stage).weight,
        reason=REASON,
    )
