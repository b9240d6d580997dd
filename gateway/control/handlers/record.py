"""GET /-/outcomes and /-/decisions: the record itself."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from starlette.responses import Response

from gateway.control.api_request import Ask, answer
from gateway.control.schemas.requests import OutcomeQuery
from gateway.errors import TurnoutError
from gateway.record.context import unpack
from gateway.record.decision_id import BadDecisionId, Opened
from gateway.record.events import Outcome, Reward, Shadowed
from gateway.state.base import OutcomeFilter

_HEX: Final = re.compile(r"[0-9a-f]{32}")
_STEPS: Final = 16
"""Steps through the record of one call at most: a million outcomes, about. A filter that few pass, or a key
that is bound to some routes, may have found less than was asked for by then."""


async def list_outcomes(ask: Ask) -> Response:
    query = ask.query(OutcomeQuery)
    if query.route is not None:
        ask.must_serve(query.route)
    wanted = OutcomeFilter(
        route=query.route,
        variant=query.variant,
        status=query.status,
        errors_only=query.errors,
        since=query.since,
        until=query.until,
        before=bytes.fromhex(query.cursor) if query.cursor else None,
        limit=query.limit,
    )
    found, following = await _page(ask, wanted)
    return answer({"outcomes": [outcome(o) for o in found], "next": following})


async def _page(ask: Ask, wanted: OutcomeFilter) -> tuple[list[Outcome], str | None]:
    """The outcomes that the key may see, and the cursor behind the last that was looked at."""
    allowed = ask.principal.routes
    if wanted.route is None and allowed is not None and len(allowed) == 1:
        wanted = replace(wanted, route=next(iter(allowed)))
    found: list[Outcome] = []
    for _ in range(_STEPS):
        step, following = await ask.context.store.scan(wanted)
        for one in step:
            if ask.principal.serves(one.route):
                found.append(one)
                if len(found) == wanted.limit:
                    return found, one.decision.hex()
        if following is None:
            return found, None
        wanted = replace(wanted, before=following)
    return found, wanted.before.hex() if wanted.before else None


async def read_decision(ask: Ask) -> Response:
    text = str(ask.request.path_params["decision_id"])
    opened = None if _HEX.fullmatch(text) else _opened(ask, text)
    if opened is not None:
        ask.must_serve(opened.route)
    decision = opened.decision if opened is not None else bytes.fromhex(text)
    record = await ask.context.store.decision(decision)
    route = _route_of(opened, record.outcome, record.rewards)
    if route is None or not ask.principal.serves(route):
        # A key bound to other routes learns nothing, not even that there is such a decision.
        raise TurnoutError(
            "not_found", "Nothing is known of this decision (yet); the record is written in batches."
        )
    return answer(
        {
            "decision": decision.hex(),
            "time": int.from_bytes(decision[:6], "big") / 1000.0,
            "route": route,
            "sealed": None if opened is None else _sealed(opened),
            "outcome": None if record.outcome is None else outcome(record.outcome),
            "rewards": [_reward(r) for r in record.rewards],
            "shadows": [_shadowed(s) for s in record.shadows],
        }
    )


def _opened(ask: Ask, text: str) -> Opened:
    try:
        return ask.context.rewards.open(text)
    except BadDecisionId as error:
        raise TurnoutError("invalid", str(error)) from None


def _route_of(opened: Opened | None, outcome: Outcome | None, rewards: Sequence[Reward]) -> str | None:
    if opened is not None:
        return opened.route
    if outcome is not None:
        return outcome.route
    return rewards[0].route if rewards else None


def outcome(found: Outcome) -> dict[str, Any]:
    """An outcome as JSON: bytes in hexadecimal; the unit too, since JSON numbers hold 53 bits."""
    shown = found._asdict()
    shown["decision"] = found.decision.hex()
    shown["unit"] = f"{found.unit & 0xFFFF_FFFF_FFFF_FFFF:016x}"
    shown["attempts"] = _json(found.attempts)
    shown["features"] = _json(found.features)
    return shown


def _sealed(opened: Opened) -> dict[str, Any]:
    return {
        "time": opened.decided,
        "route": opened.route,
        "assigned": opened.assigned,
        "served": opened.served,
        "epoch": opened.epoch,
        "propensity": opened.propensity,
        "forced": opened.forced,
        "unit": f"{opened.unit:016x}",
        "context": _context(opened.context) if opened.context else None,
    }


def _context(packed: bytes) -> dict[str, Any]:
    """The row of features as numbers, and of which declaration."""
    found = unpack(packed)
    row = [0.0] * found.width
    for column, value in found.entries:
        row[column] = value
    return {"fingerprint": found.fingerprint, "row": row}


def _reward(found: Reward) -> dict[str, Any]:
    return {"metric": found.metric, "value": found.value, "time": found.time, "tags": _json(found.tags)}


def _shadowed(found: Shadowed) -> dict[str, Any]:
    shown = {name: getattr(found, name) for name in found._fields if name != "decision"}
    shown.pop("route")
    return shown | {"detail": _json(found.detail)}


def _json(text: str) -> Any:
    return json.loads(text) if text else None
