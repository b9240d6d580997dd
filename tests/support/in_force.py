"""Puts the routes of a document in force, as a prepared configuration does when it is committed."""

from __future__ import annotations

from gateway.compile.arrange import RouteAllocation, arranged
from gateway.compile.plans import plan
from gateway.compile.steering import Steering, steering
from gateway.config.document import Document
from gateway.loops.allocation import Allocations
from gateway.loops.controller import Controller
from policies.rollout.route import RouteState


def put_in_force(
    document: Document, allocations: Allocations, controller: Controller | None = None, now: float = 0.0
) -> None:
    steered, held = prepared(document, allocations, controller, now)
    if controller is not None:
        controller.take(document, steered)
    allocations.take(document, held)


def prepared(
    document: Document, allocations: Allocations, controller: Controller | None = None, now: float = 0.0
) -> tuple[dict[str, Steering], dict[str, RouteAllocation]]:
    """What the routes of a document would begin with."""
    states = controller.states if controller is not None else {}
    steered = {n: steering(r, states.get(n, RouteState()), now) for n, r in document.routes.items()}
    published = allocations.published
    held = {
        name: arranged(plan(document, name), steered[name].override, *published.get(name, (None, b"")))
        for name in document.routes
    }
    return steered, held
