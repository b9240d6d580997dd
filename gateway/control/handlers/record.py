"""The record: outcomes and decisions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.schemas.record import DecisionResponse, OutcomeQuery, OutcomesResponse
from gateway.errors import TurnoutError
from gateway.record.context import unpack
from gateway.record.decision_id import BadDecisionId, Opened
from gateway.record.events import Outcome, Reward, Shadowed
from gateway.state.base import OutcomeFilter

endpoints: Final = Endpoints()

_HEX: Final = re.compile(r"[0-9a-f]{32}")
MAX_SCANS: Final = 16
"""Maximum number of scans for one page, about a million outcomes. A selective filter, or a key that is bound to some
routes, may find fewer outcomes than requested."""


@endpoints("GET", "/-/outcomes", "read", OutcomesResponse, query=OutcomeQuery, errors=("invalid", *STORE))
async def list_outcomes(request: ApiRequest) -> Response:
    """List the record, newest first."""
    query = request.query(OutcomeQuery)
    if query.route is not None:
        request.must_serve(query.route)
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
    found, following = await _page(request, wanted)
    return json_response({"outcomes": [outcome_json(o) for o in found], "next": following})


async def _page(request: ApiRequest, wanted: OutcomeFilter) -> tuple[list[Outcome], str | None]:
    """The outcomes that the key may see, and the cursor after the last that was scanned."""
    allowed = request.principal.routes
    if wanted.route is None and allowed is not None and len(allowed) == 1:
        wanted = replace(wanted, route=next(iter(allowed)))
    found: list[Outcome] = []
    for _ in range(MAX_SCANS):
        step, following = await request.gateway.store.scan(wanted)
        for one in step:
            if request.principal.serves(one.route):
                found.append(one)
                if len(found) == wanted.limit:
                    return found, one.decision.hex()
        if following is None:
            return found, None
        wanted = replace(wanted, before=following)
    return found, wanted.before.hex() if wanted.before else None


@endpoints(
    "GET",
    "/-/decisions/{decision_id}",
    "read",
    DecisionResponse,
    errors=("not_found", "invalid", *STORE),
)
async def read_decision(request: ApiRequest) -> Response:
    """Get the record of one decision."""
    text = str(request.http.path_params["decision_id"])
    opened = None if _HEX.fullmatch(text) else _opened(request, text)
    if opened is not None:
        request.must_serve(opened.route)
    decision = opened.decision if opened is not None else bytes.fromhex(text)
    record = await request.gateway.store.decision(decision)
    route = _route_of(opened, record.outcome, record.rewards)
    if route is None or not request.principal.serves(route):
        # A key bound to other routes learns nothing, not even that the decision exists.
        raise TurnoutError(
            "not_found", "There is no record of this decision yet; records are written in batches."
        )
    return json_response(
        {
            "decision": decision.hex(),
            "time": int.from_bytes(decision[:6], "big") / 1000.0,
            "route": route,
            "sealed": None if opened is None else _sealed(opened),
            "outcome": None if record.outcome is None else outcome_json(record.outcome),
            "rewards": [_reward(r) for r in record.rewards],
            "shadows": [_shadowed(s) for s in record.shadows],
        }
    )


def _opened(request: ApiRequest, text: str) -> Opened:
    try:
        return request.gateway.rewards.open(text)
    except BadDecisionId as error:
        raise TurnoutError("invalid", str(error)) from None


def _route_of(opened: Opened | None, outcome: Outcome | None, rewards: Sequence[Reward]) -> str | None:
    if opened is not None:
        return opened.route
    if outcome is not None:
        return outcome.route
    return rewards[0].route if rewards else None


def outcome_json(found: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON: bytes in hexadecimal; the unit too, since JSON numbers hold 53 bits."""
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
    """The row of features as numbers, and the fingerprint of their declaration."""
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
