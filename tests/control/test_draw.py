"""How a decision was drawn, told from the record and the allocation of its epoch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.compile.plans import placement, unit_point
from gateway.config.load import load
from gateway.control.reports.draw import draw
from gateway.record.events import Outcome
from gateway.state.base import Published
from policies.allocation.bucketing import unit_hash
from tests.support.made import T0, outcome

CANARY = """
listen: 127.0.0.1:1
store: sqlite:///t.db
backends: {b: {url: "http://127.0.0.1:2"}}
routes:
  r:
    match: {path: /}
    unit: {header: x-user}
    variants: {old: {backend: b}, new: {backend: b}}
    policy: {type: canary, baseline: old, candidate: new, stages: [{weight: 30%, for: 1h}]}
"""
PLACE = {"phase": "canary", "stage": 1, "baseline": "old", "candidate": "new"}
PUBLISHED = Published(
    "r",
    4,
    {"old": 0.7, "new": 0.3},
    (0.3, 1.0),
    (1, 0),
    "manual",
    T0,
    json.dumps({"variants": {}, "rollout": PLACE}),
)


def of_user(name: str) -> Outcome:
    point = unit_point(load(CANARY, source="t", env={}), "r", name.encode())
    assigned = "new" if point < 0.3 else "old"
    return outcome(
        route="r",
        policy="canary",
        epoch=4,
        assigned=assigned,
        propensity=PUBLISHED.probabilities[assigned],
        unit=unit_hash(b"r", name.encode()),
    )


def test_a_unit_lies_where_the_gateway_places_it() -> None:
    document = load(CANARY, source="t", env={})
    assert placement(document, "r") != (1, 0)
    for k in range(40):
        one = of_user(f"user {k}")
        found = draw(one, PUBLISHED, hashed_here=True)
        assert found is not None
        assert (found["phase"], found["stage"], found["reason"], found["since"]) == (
            "canary",
            1,
            "manual",
            T0,
        )
        assert found["shares"] == {"old": 0.7, "new": 0.3}
        assert found["point"] == unit_point(document, "r", f"user {k}".encode())
        assert found["range"] == ([0.0, 0.3] if one.assigned == "new" else [0.3, 1.0])


@pytest.mark.parametrize(
    ("made", "published", "hashed_here"),
    [
        ({"sticky": False}, PUBLISHED, True),
        ({}, PUBLISHED, False),
        ({}, replace(PUBLISHED, evidence=""), True),
        ({}, replace(PUBLISHED, evidence='{"variants": {}}'), True),
        ({"assigned": "new", "propensity": 0.3}, replace(PUBLISHED, owners=(0, 1)), True),
    ],
    ids=["no unit", "an engine", "an earlier build", "its bandit", "another layout"],
)
def test_a_point_that_is_not_known_is_not_told(
    made: dict[str, Any], published: Published, hashed_here: bool
) -> None:
    users = (of_user(f"user {k}") for k in range(40))
    one = next(one for one in users if one.assigned == made.get("assigned", one.assigned))
    found = draw(one._replace(**made), published, hashed_here=hashed_here)
    assert found is not None
    assert (found["point"], found["range"]) == (None, None)
    assert found["stage"] == (1 if "rollout" in published.evidence else None)


@pytest.mark.parametrize(
    ("made", "published"),
    [({"forced": True, "propensity": 1.0}, PUBLISHED), ({}, None), ({"propensity": 0.123}, PUBLISHED)],
    ids=["forced", "no longer kept", "shares of the request's own"],
)
def test_what_was_not_drawn_from_the_allocation_has_no_draw(
    made: dict[str, Any], published: Published | None
) -> None:
    assert draw(of_user("u")._replace(**made), published, hashed_here=True) is None
