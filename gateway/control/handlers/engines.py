"""Nodes of engines: what they fetch, what they report, and how they are."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import ENGINE, Endpoints
from gateway.control.json_reader import parse
from gateway.control.schemas.engines import CountersResponse, EnginesResponse, RowsResponse
from gateway.engines.counters import NODE, counters
from gateway.engines.fleet import Poll
from gateway.engines.offers import SEALS, Kind
from gateway.errors import TurnoutError

endpoints: Final = Endpoints()
MAX_NODE_CHARACTERS: Final = 256


@endpoints("POST", "/v3/discovery:clusters", ENGINE, "application/json", errors=("bad_json", "invalid"))
async def discover_clusters(request: ApiRequest) -> Response:
    """Get an engine's clusters.

    Envoy's REST discovery, version 3. The response is held until there is something new, for 15 seconds at most.
    """
    return await _discover(request, "clusters")


@endpoints("POST", "/v3/discovery:routes", ENGINE, "application/json", errors=("bad_json", "invalid"))
async def discover_routes(request: ApiRequest) -> Response:
    """Get an engine's route table.

    Envoy's REST discovery, version 3. The response is held until there is something new, for 15 seconds at most.
    """
    return await _discover(request, "routes")


async def _discover(request: ApiRequest, kind: Kind) -> Response:
    body = await request.bytes()
    poll = await asyncio.to_thread(_poll, request.principal.id, kind, body)
    offer = await request.gateway.fleet.poll(poll, request.services.closing)
    return Response(offer.body, media_type="application/json")


def _poll(engine: str, kind: Kind, body: bytes) -> Poll:
    """Raises bad_json, invalid. A node sends a list of all its extensions with each poll, 77 kB."""
    given, fault = parse(body)
    if fault:
        raise TurnoutError("bad_json", fault)
    about = _object(given, "node")
    node = _text(about, "id")
    if not (node and node.isprintable() and len(node) <= MAX_NODE_CHARACTERS):
        raise TurnoutError(
            "invalid", f"A node needs a 'node.id' of at most {MAX_NODE_CHARACTERS} printable characters."
        )
    refused = _text(_object(given, "error_detail"), "message")
    seals = bool(_object(_object(about, "metadata"), SEALS))
    return Poll(engine, node, kind, _text(given, "version_info"), refused[:1000], seals=seals)


def _object(value: Any, key: str) -> Any:
    return value.get(key) or {} if isinstance(value, dict) else {}


def _text(value: Any, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


@endpoints(
    "POST", "/-/engines/rows", ENGINE, RowsResponse, body="application/x-protobuf", errors=("invalid",)
)
async def receive_rows(request: ApiRequest) -> Response:
    """Report outcomes.

    An OTLP export of logs in protobuf, as a node sends it: one record for each request. Repeating it changes nothing.
    """
    body = await request.bytes()
    try:
        accepted, rejected = await request.gateway.fleet.receive(request.principal.id, body)
    except ValueError as error:
        raise TurnoutError(
            "invalid", f"{error}; use the log that 'turnout engine bootstrap' sets up."
        ) from None
    return json_response({"accepted": accepted, "rejected": rejected})


@endpoints(
    "POST",
    "/-/engines/counters",
    ENGINE,
    CountersResponse,
    body="application/x-protobuf",
    request_headers=(NODE,),
    errors=("invalid",),
)
async def receive_counters(request: ApiRequest) -> Response:
    """Report a node's counters of its rows.

    An OTLP export of metrics in protobuf, as a node sends it: rows delivered and lost since its start.
    """
    node, engine, fleet = request.http.headers.get(NODE, ""), request.principal.id, request.gateway.fleet
    fleet.admit(engine, node)
    try:
        delivered, lost = await asyncio.to_thread(counters, await request.bytes())
    except ValueError as error:
        raise TurnoutError("invalid", f"{error}; use what 'turnout engine bootstrap' sets up.") from None
    fleet.count(engine, node, delivered, lost)
    # With 200: an Envoy logs an error for any other status.
    return json_response({"delivered": delivered, "lost": lost})


@endpoints("GET", "/-/engines", "read", EnginesResponse)
async def list_engines(request: ApiRequest) -> Response:
    """List engines with their nodes.

    Only those with a route that the key may use.
    """
    fleet, document = request.gateway.fleet, request.gateway.document()
    listed = []
    for name, engine in document.engines.items():
        routes = [route for route in document.engine_routes(name) if request.principal.serves(route)]
        if routes or request.principal.routes is None:
            shown = fleet.shown(name)
            shown["epochs"] = {route: epoch for route, epoch in shown["epochs"].items() if route in routes}
            copies = {route: to for route in routes if (to := _copies_of(request, route)) is not None}
            about = {"engine": name, "type": engine.type, "ids": engine.ids, "routes": routes}
            listed.append({**about, "copies": copies, **shown})
    return json_response({"engines": listed})


def _copies_of(request: ApiRequest, name: str) -> str | None:
    """The route of this gateway that copies of the route's requests reach, as far as the key may know it."""
    routes = request.gateway.document().routes
    if routes[name].mirror is None:
        return None
    same = (
        other
        for other, route in routes.items()
        if route.engine is None and route.match == routes[name].match and request.principal.serves(other)
    )
    return next(same, None)
