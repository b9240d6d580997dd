"""Events: as a stream, and the most recent ones."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from typing import Final

from starlette.responses import Response, StreamingResponse

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.auth import still_admitted
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.event_stream import event_json
from gateway.control.schemas.events import EventQuery, EventsResponse, RecentQuery
from gateway.control.views import merged
from gateway.errors import TurnoutError
from gateway.state.base import ALLOCATION, Event

endpoints: Final = Endpoints()

OF_BACKENDS: Final = frozenset({"health", "ejection"})
"""Kinds of event that concern the routes of one backend."""
# no-transform and x-accel-buffering keep proxies from buffering the stream.
_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}

_SCOPES: Final = {"config_refused": "config", "steered": "steer"}
"""Kind of event → its scope if not read: those that quote the configuration or contain a person's address."""


@endpoints(
    "GET",
    "/-/events",
    "read",
    "text/event-stream",
    query=EventQuery,
    request_headers=("last-event-id",),
    errors=("invalid", *STORE),
)
async def stream_events(request: ApiRequest) -> Response:
    """Stream events.

    Server-sent events: allocation changes, rollout steps, ejections, revisions, alarms. The `data` of each is an
    `EventModel`. Without `Last-Event-ID` and `after` the stream begins now.
    """
    query = request.query(EventQuery)
    if query.route is not None:
        request.must_serve(query.route)
    given = request.http.headers.get("last-event-id", "")
    if given and not re.fullmatch("[0-9]{1,18}", given):
        raise TurnoutError("invalid", f"{given!r} is not an event id; send the last 'id' unchanged.")
    after = int(given) if given else query.after
    view = None if query.view is None else _view(request, query.view)
    if request.http.method == "HEAD":
        return StreamingResponse(iter(()), headers=_HEADERS, media_type="text/event-stream")
    stream = request.services.events.stream(
        after,
        _wanted(request, query),
        request.services.closing,
        partial(still_admitted, request.http, request.services, request.principal),
    )
    if view is not None:
        stream = merged(stream, view)
    return StreamingResponse(stream, headers=_HEADERS, media_type="text/event-stream")


def _view(request: ApiRequest, view: str) -> AsyncIterator[bytes]:
    """The view ``routes`` or ``route:NAME``. Raises forbidden, not_found."""
    kind, _, name = view.partition(":")
    if kind == "routes":
        allowed = None if request.principal.routes is None else request.principal.serves
        return request.services.views.patches(view, request.services.overview, allowed, nested=True)
    request.must_know(name)
    return request.services.views.patches(view, partial(request.services.report, name, None, None))


@endpoints("GET", "/-/events/recent", "read", EventsResponse, query=RecentQuery, errors=("invalid", *STORE))
async def recent_events(request: ApiRequest) -> Response:
    """List the most recent events."""
    query = request.query(RecentQuery)
    if query.route is not None:
        request.must_serve(query.route)
    found = await request.services.events.recent(query.limit, _wanted(request, query))
    return json_response({"events": [event_json(event) for event in found]})


def _wanted(request: ApiRequest, query: EventQuery | RecentQuery) -> Callable[[Event], bool]:
    """Accepts the events that were requested and the key may see. Those of no route need a key for all routes."""
    principal, route, kind = request.principal, query.route, query.kind
    backends = _backends(request, route)

    def wanted(event: Event) -> bool:
        if event.kind == ALLOCATION and not query.allocations:
            return False
        allowed = principal.serves(event.route) if event.route else principal.routes is None
        allowed = allowed and principal.may(_SCOPES.get(event.kind, "read"))
        return allowed and concerns(event, route, backends) and kind in (None, event.kind)

    return wanted


def concerns(event: Event, route: str | None, backends: Collection[str]) -> bool:
    """Whether ``event`` concerns ``route``: its own events, and those of its ``backends``."""
    if route is None or event.route == route:
        return True
    if event.route:
        return False
    return event.kind not in OF_BACKENDS or event.fields.get("backend") in backends


def _backends(request: ApiRequest, route: str | None) -> frozenset[str]:
    found = request.gateway.document().routes.get(route or "")
    return frozenset(variant.backend for variant in found.variants.values()) if found else frozenset()
