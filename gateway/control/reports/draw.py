"""How the variant of a recorded decision was drawn: the shares of its epoch, and where its unit lies. Pure."""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import Any

from gateway.compile.plans import rollout_placement
from gateway.record.events import Outcome
from gateway.state.base import Published
from policies.allocation.bucketing import UNMOVED, placed

Json = dict[str, Any]


def draw(outcome: Outcome, published: Published | None, *, hashed_here: bool) -> Json | None:
    """Return how ``outcome``'s variant was drawn; None if it was not, or its epoch is not kept.

    A bandit with features has shares for each request, which are not kept: its epoch is not what was drawn from.

    Args:
        outcome: With the exact propensity of the draw.
        published: The allocation of its epoch.
        hashed_here: Whether the gateway places units, and not an engine in its own way.
    """
    if outcome.forced or published is None:
        return None
    if published.probabilities.get(outcome.assigned) != outcome.propensity:
        return None
    place = _place(published)
    return {
        "shares": dict(published.probabilities),
        "since": published.time,
        "reason": published.reason,
        "phase": place.get("phase"),
        "stage": place.get("stage"),
        "state": place.get("state"),
        **_point(outcome, published, place, hashed_here=hashed_here),
    }


def _place(published: Published) -> Json:
    """Where the rollout stood; empty for other policies, and before gateways published it."""
    found = json.loads(published.evidence) if published.evidence else {}
    return found.get("rollout", {}) if isinstance(found, dict) else {}


def _point(outcome: Outcome, published: Published, place: Json, *, hashed_here: bool) -> Json:
    """The point of a sticky unit in [0, 1), and the range of the variant that owns it; null if not known."""
    unknown: Json = {"point": None, "range": None}
    if not (outcome.sticky and hashed_here) or (outcome.policy == "canary" and not place):
        return unknown
    placement = UNMOVED
    if place:
        placement = rollout_placement(outcome.route, place["baseline"], place["candidate"])
    point = placed(outcome.unit & 0xFFFF_FFFF_FFFF_FFFF, placement)
    k = bisect_right(published.bounds, point)
    if list(published.probabilities)[published.owners[k]] != outcome.assigned:
        return unknown  # of another allocation than the store has
    return {"point": point, "range": [published.bounds[k - 1] if k else 0.0, published.bounds[k]]}
