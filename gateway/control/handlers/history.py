"""The history of a route, notes, and disagreements of shadows."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any, Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.gateway_api import GatewayApi
from gateway.control.reports.shadow import shadow_report
from gateway.control.schemas.history import (
    DisagreementQuery,
    DisagreementsResponse,
    NoteRequest,
    NoteResponse,
    ShadowQuery,
    ShadowReport,
    StepsQuery,
    StepsResponse,
)
from gateway.errors import TurnoutError
from gateway.record.events import Shadowed
from gateway.state import history
from gateway.state.base import unconfirmed

Json = dict[str, Any]

endpoints: Final = Endpoints()

DAY_S: Final = 86_400.0
MAX_RESPONSES: Final = 2000
"""Maximum number of a shadow's newest responses that are sorted and counted by kind."""
_INDEX: Final = re.compile(r"\[\d+\]")


@endpoints(
    "GET",
    "/-/routes/{route}/history",
    "read",
    StepsResponse,
    query=StepsQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_history(request: ApiRequest) -> Response:
    """List the steps of a route with their evidence, and revisions, newest first."""
    name, limit = request.route, request.query(StepsQuery).limit
    kept = await history.steps(request.gateway.store, name)
    steps = history.with_trails(kept, whole=request.principal.may("steer"))
    revisions = await request.gateway.store.revision_entries(limit=limit)
    config_steps = [
        {
            "id": r.revision,
            "time": r.time,
            "kind": "config",
            "data": {"revision": r.revision, "author": r.author, "origin": r.origin},
        }
        for r in revisions
    ]
    merged = sorted([*steps, *config_steps], key=lambda step: step["time"], reverse=True)
    return json_response({"route": name, "steps": merged[:limit]})


@endpoints(
    "POST",
    "/-/routes/{route}/notes",
    "steer",
    NoteResponse,
    body=NoteRequest,
    errors=("bad_json", "invalid", "not_found", *STORE),
)
async def add_note(request: ApiRequest) -> Response:
    """Add a note to the history of a route."""
    name, note = request.route, await request.body(NoteRequest)
    await request.gateway.store.changed()  # without the store, this fails before anything is written
    with unconfirmed():
        event = await request.gateway.events.emit(
            "note", name, {"text": note.text.strip(), "author": request.author}
        )
    return json_response({"id": event.id, "time": event.time})


@endpoints(
    "GET",
    "/-/routes/{route}/disagreements",
    "read",
    DisagreementsResponse,
    query=DisagreementQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_disagreements(request: ApiRequest) -> Response:
    """List responses where a shadow disagrees with the primary.

    Of the newest 2000 since `since`, by kind, with both sides.
    """
    name, query = request.route, request.query(DisagreementQuery)
    found = await _responses(request.gateway, name, query.shadow, query.since, disagreeing=True)
    return json_response(await asyncio.to_thread(_page, found, query))


@endpoints(
    "GET",
    "/-/routes/{route}/shadow",
    "read",
    ShadowReport,
    query=ShadowQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_shadow(request: ApiRequest) -> Response:
    """Compare a shadow's latency with the primary's, and count its failures.

    Of its newest 2000 responses since `since`.
    """
    name, query = request.route, request.query(ShadowQuery)
    found = await _responses(request.gateway, name, query.shadow, query.since, disagreeing=False)
    return json_response(await asyncio.to_thread(shadow_report, query.shadow, found))


async def _responses(
    gateway: GatewayApi, name: str, shadow: str, since: float | None, *, disagreeing: bool
) -> list[Shadowed]:
    """Raises invalid for a variant that the route does not have."""
    variants = gateway.document().routes[name].variants
    if shadow not in variants:
        raise TurnoutError("invalid", f"There is no variant {shadow!r}; write one of {', '.join(variants)}.")
    return await gateway.store.shadow_responses(
        name,
        shadow,
        since=since if since is not None else gateway.now() - DAY_S,
        limit=MAX_RESPONSES,
        disagreeing=disagreeing,
    )


def _page(found: list[Shadowed], query: DisagreementQuery) -> Json:
    rows = [_row(one) for one in found]
    kinds = Counter(row["kind"] for row in rows)
    shown = [row for row in rows if query.kind in (None, row["kind"])]
    if query.order == "worst":
        # No distance (another label, another status) is worse than any distance.
        shown.sort(key=lambda row: -(float("inf") if row["difference"] is None else row["difference"]))
    begin = next((k + 1 for k, row in enumerate(shown) if row["decision"] == query.cursor), 0)
    if query.cursor is not None and not begin:  # the first page again would lead a script around without end
        message = f"The cursor is not among the newest {MAX_RESPONSES} any more; begin again without it."
        raise TurnoutError("invalid", message)
    page = shown[begin : begin + query.limit]
    more = begin + query.limit < len(shown)
    return {
        "seen": len(rows),
        "whole": len(rows) < MAX_RESPONSES,
        "kinds": [list(kind) for kind in kinds.most_common()],
        "disagreements": page,
        "next": page[-1]["decision"] if more else None,
    }


def _row(one: Shadowed) -> Json:
    sides = _sides(one)
    return {
        "decision": one.decision.hex(),
        "time": one.time,
        "shadow": one.shadow,
        "primary": one.primary,
        "kind": _INDEX.sub("[*]", sides[0]["where"]) if sides else "unknown",
        "difference": one.difference,
        "latency_ms": one.latency_ms,
        "primary_ms": one.primary_ms,
        "sides": sides,
    }


def _sides(one: Shadowed) -> list[Json]:
    """The first differences: where, and the value of each side."""
    try:
        found = json.loads(one.detail)["first"]
        return [{"where": str(s["where"]), "primary": s["primary"], "shadow": s["shadow"]} for s in found]
    except (ValueError, KeyError, TypeError):
        return []  # written by an earlier version, or cut
