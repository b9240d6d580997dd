"""The steps of a route: what changed, who or what did it, and on what evidence.

Events are kept for long and a bandit adds one each second, so the few that are steps are kept once more, in a
document of the route.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from gateway.state import shapes
from gateway.state.base import Event
from gateway.state.store import DocumentStore

KIND: Final = shapes.kind("history", [{"id": int, "time": shapes.time, "kind": str, "data": {str: object}}])
STEPS: Final = frozenset({"rollout", "steered", "winner", "guardrail", "alarm", "alarm_over", "note"})
"""The kinds of event that are steps."""
MAX_STEPS: Final = 200
MAX_TRIES: Final = 5
MAX_TRAIL_S: Final = 10.0
"""Between a step and the event that says from where it was taken."""
TRAIL: Final = ("session", "address")


async def keep(store: DocumentStore, event: Event) -> None:
    """Adds ``event`` to its route's history if it is a step, and once if it is repeated: it then has another id."""
    data = event.fields if event.route and event.kind in STEPS else {}
    if not data:  # also of a damaged step
        return
    step = {"id": event.id, "time": event.time, "kind": event.kind, "data": data}
    for _ in range(MAX_TRIES):
        found = await store.load(KIND, event.route)
        steps = json.loads(found[1]) if found is not None else []
        if any(one | {"id": event.id} == step for one in steps):
            return
        kept = sorted([*steps, step], key=lambda one: one["time"])[-MAX_STEPS:]  # others may have come before
        if step not in kept:
            return
        expected = found[0] if found is not None else 0
        if await store.save(KIND, event.route, json.dumps(kept), expected=expected):
            return


async def steps(store: DocumentStore, route: str) -> list[dict[str, Any]]:
    """The newest `MAX_STEPS` of ``route``, oldest first."""
    found = await store.load(KIND, route)
    return list(json.loads(found[1])) if found is not None else []


def with_trails(steps: Sequence[dict[str, Any]], *, whole: bool) -> list[dict[str, Any]]:
    """Each steering once: the step that it took, with the session and the address that it came from.

    Args:
        steps: Oldest first.
        whole: Whether sessions and addresses are included.
    """
    found: list[dict[str, Any]] = []
    joined: set[int] = set()
    for step in steps:
        if step["kind"] != "steered":
            found.append(step)
            continue
        trail = {key: step["data"][key] for key in TRAIL if whole and step["data"].get(key)}
        rest = {key: value for key, value in step["data"].items() if key not in TRAIL}
        earlier = (n for n in range(len(found) - 1, -1, -1) if n not in joined)
        place = next((n for n in earlier if _took(found[n], step)), None)
        if place is None:
            found.append({**step, "data": rest | trail})
        else:
            joined.add(place)
            found[place] = {**found[place], "data": found[place]["data"] | trail}
    return found


def last(steps: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest of `with_trails`, without them."""
    recent = [step for step in steps if step["time"] >= steps[-1]["time"] - MAX_TRAIL_S]
    return next(iter(with_trails(recent, whole=False)[-1:]), None)


def _took(step: dict[str, Any], steered: dict[str, Any]) -> bool:
    """Whether ``step`` may be what a steering did."""
    kind, data, taken = step["kind"], step["data"], steered["data"]
    by = taken.get("by")  # a damaged step may lack it
    near: bool = 0 <= steered["time"] - step["time"] <= MAX_TRAIL_S
    if kind == "winner":  # its author and reason are one text
        return near and data.get("by") in (by, f"{by}: {taken.get('reason')}")
    return near and kind == "rollout" and bool(data.get("actor") == by)


def decided(steps: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The last step of the rollout, with the evidence as it stood."""
    rollout = [step for step in steps if step["kind"] == "rollout"]
    return {**rollout[-1]["data"], "time": rollout[-1]["time"]} if rollout else None
