"""The record: outcomes and decisions."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

from gateway.compile.plans import reported
from gateway.config.service import MetricConfig
from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import CSV, STORE, Endpoints
from gateway.control.reports.draw import draw
from gateway.control.schemas.record import (
    MAX_OUTCOMES,
    DecisionResponse,
    OutcomeFileQuery,
    OutcomeFilters,
    OutcomeQuery,
    OutcomesResponse,
)
from gateway.errors import TurnoutError
from gateway.ingest.export import CsvText, outcome_row
from gateway.record.context import has_row, unpack
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
    before = bytes.fromhex(query.cursor) if query.cursor else None
    found, following = await _page(request, _filter(request, query, before, query.limit))
    return json_response({"outcomes": [outcome_json(o) for o in found], "next": following})


@endpoints("GET", "/-/outcomes.csv", "read", CSV, query=OutcomeFileQuery, errors=("invalid", *STORE))
async def export_outcomes(request: ApiRequest) -> Response:
    """Get the record as CSV, newest first.

    With the same filters. Text that a spreadsheet would read as a formula has a leading apostrophe.
    """
    query = request.query(OutcomeFileQuery)
    wanted = _filter(request, query, None, min(query.limit, MAX_OUTCOMES))
    first = await _page(request, wanted)  # a fault of the store is still a response of its own
    headers = {"content-disposition": 'attachment; filename="outcomes.csv"', "cache-control": "no-store"}
    limit = 0 if request.http.method == "HEAD" else query.limit  # no further page is read for no body
    return StreamingResponse(_lines(request, wanted, limit, first), headers=headers, media_type=CSV)


async def _lines(
    request: ApiRequest, wanted: OutcomeFilter, limit: int, page: tuple[list[Outcome], str | None]
) -> AsyncIterator[bytes]:
    text = CsvText(Outcome._fields)
    while True:
        found, following = page
        yield text.add([outcome_row(one) for one in found])
        limit -= len(found)
        if following is None or limit <= 0:
            return
        wanted = replace(wanted, before=bytes.fromhex(following), limit=min(limit, MAX_OUTCOMES))
        page = await _page(request, wanted)


def _filter(request: ApiRequest, query: OutcomeFilters, before: bytes | None, limit: int) -> OutcomeFilter:
    """Raises forbidden for a route that the key does not serve."""
    if query.route is not None:
        request.must_serve(query.route)
    return OutcomeFilter(
        route=query.route,
        variant=query.variant,
        status=query.status,
        errors_only=query.errors,
        error=query.error,
        fallback=query.fallback,
        forced=query.forced,
        min_ms=query.min_ms,
        unit=None if query.unit is None else int(query.unit, 16),
        request_id=query.request_id,
        principal=query.principal,
        since=query.since,
        until=query.until,
        before=before,
        limit=limit,
    )


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
    record = await request.gateway.store.decision(decision, None if opened is None else opened.route)
    route = _route_of(opened, record.outcome, record.rewards)
    if route is None or not request.principal.serves(route):
        # A key bound to other routes learns nothing, not even that the decision exists.
        raise TurnoutError(
            "not_found",
            "There is no record of this decision; if it is new, try again in a second.",
        )
    time = int.from_bytes(decision[:6], "big") / 1000.0
    return json_response(
        {
            "decision": decision.hex(),
            "time": time,
            "route": route,
            "sealed": None if opened is None else _sealed(opened),
            "outcome": None if record.outcome is None else outcome_json(record.outcome),
            "rewards": [_reward(r, request.gateway.document().metrics) for r in record.rewards],
            "open_until": _open_until(request, route, time),
            "draw": await _draw(request, record.outcome),
            "shadows": [_shadowed(s) for s in record.shadows],
        }
    )


async def _draw(request: ApiRequest, outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    published = await request.gateway.store.allocation(outcome.route, outcome.epoch)
    route = request.gateway.document().routes.get(outcome.route)
    return draw(outcome, published, hashed_here=route is not None and route.engine is None)


def _open_until(request: ApiRequest, route: str, decided: float) -> dict[str, float]:
    document = request.gateway.document()
    if route not in document.routes:
        return {}  # removed since
    return {name: decided + metric.window for name, metric in reported(document, route).items()}


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
        "context": _context(opened.context) if has_row(opened.context.hex()) else None,
    }


def _context(packed: bytes) -> dict[str, Any]:
    """The row of features as numbers, and the fingerprint of their declaration."""
    found = unpack(packed)
    row = [0.0] * found.width
    for column, value in found.entries:
        row[column] = value
    return {"fingerprint": found.fingerprint, "row": row}


def _reward(found: Reward, metrics: Mapping[str, MetricConfig]) -> dict[str, Any]:
    declared = metrics.get(found.metric)
    return {
        "metric": found.metric,
        "type": declared.type if declared is not None else None,
        "value": found.value,
        "time": found.time,
        "tags": _json(found.tags),
    }


def _shadowed(found: Shadowed) -> dict[str, Any]:
    shown = {name: getattr(found, name) for name in found._fields if name != "decision"}
    shown.pop("route")
    return shown | {"detail": _detail(found.detail)}


def _detail(text: str) -> Any:
    """The differences; where the responses could not be compared, the reason, which is text."""
    try:
        return _json(text)
    except ValueError:
        return text


def _json(text: str) -> Any:
    return json.loads(text) if text else None
