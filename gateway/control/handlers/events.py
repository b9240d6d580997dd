"""GET /-/events: what happens, as it happens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from typing import Final

from starlette.responses import Response, StreamingResponse

from gateway.control.api_request import Ask, answer
from gateway.control.event_stream import shown
from gateway.control.schemas.requests import EventQuery, RecentQuery
from gateway.control.views import merged
from gateway.errors import TurnoutError
from gateway.state.base import Event

OF_BACKENDS: Final = frozenset({"health", "ejection"})
"""Kinds of event that concern the routes of one backend."""
# no-transform and x-accel-buffering: no proxy between shall gather the stream into pieces.
_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}

_NEEDS = {"config_refused": "config", "steered": "steer"}
"""The scope for kinds whose data quote the configuration, or tell where a person was."""


async def stream_events(ask: Ask) -> Response:
    query = ask.query(EventQuery)
    if query.route is not None:
        ask.must_serve(query.route)
    given = ask.request.headers.get("last-event-id", "")
    if given and not (given.isascii() and given.isdigit()):
        raise TurnoutError("invalid", f"{given!r} is no event id; send the last 'id' as it came.")
    after = int(given) if given else query.after
    if ask.request.method == "HEAD":
        return Response(headers=_HEADERS, media_type="text/event-stream")
    stream = ask.desk.news.stream(after, _wanted(ask, query.route, query.kind), ask.desk.closing)
    if query.view is not None:
        stream = merged(stream, _view(ask, query.view))
    return StreamingResponse(stream, headers=_HEADERS, media_type="text/event-stream")


def _view(ask: Ask, view: str) -> AsyncIterator[bytes]:
    """``routes`` or ``route:NAME``. Raises forbidden, not_found."""
    kind, _, name = view.partition(":")
    if kind == "routes":
        return ask.desk.views.patches(view, ask.desk.overview, ask.principal.serves)
    ask.must_know(name)
    return ask.desk.views.patches(view, partial(ask.desk.report, name, None, None))


async def recent_events(ask: Ask) -> Response:
    query = ask.query(RecentQuery)
    if query.route is not None:
        ask.must_serve(query.route)
    found = await ask.desk.news.recent(query.limit, _wanted(ask, query.route, None))
    return answer({"events": [shown(event) for event in found]})


def _wanted(ask: Ask, route: str | None, kind: str | None) -> Callable[[Event], bool]:
    """What was asked for and the key may see. Events of no route concern whoever sees all routes."""
    principal = ask.principal
    backends = _backends(ask, route)

    def wanted(event: Event) -> bool:
        allowed = principal.serves(event.route) if event.route else principal.routes is None
        allowed = allowed and principal.may(_NEEDS.get(event.kind, "read"))
        return allowed and concerns(event, route, backends) and kind in (None, event.kind)

    return wanted


def concerns(event: Event, route: str | None, backends: Collection[str]) -> bool:
    """Whether ``event`` belongs on the page of ``route``: its own, and of no route those of its ``backends``."""
    if route is None or event.route == route:
        return True
    if event.route:
        return False
    return event.kind not in OF_BACKENDS or json.loads(event.data).get("backend") in backends


def _backends(ask: Ask, route: str | None) -> frozenset[str]:
    found = ask.context.document().routes.get(route or "")
    return frozenset(variant.backend for variant in found.variants.values()) if found else frozenset()
