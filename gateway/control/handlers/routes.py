"""How the variants of routes compare, now and over time."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response

from gateway.compile.plans import reported
from gateway.control.api_request import ApiRequest, gzipped_response, json_response
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.reports.series import (
    FIGURES,
    MAX_BUCKETS,
    ROLLING_PART,
    agreements,
    series,
    step_for,
    steps,
)
from gateway.control.schemas.routes import RouteListResponse, RouteQuery, RouteReport
from gateway.control.schemas.series import SeriesQuery, SeriesResponse
from gateway.errors import TurnoutError
from gateway.ingest.evidence import of_buckets, rewarded

endpoints: Final = Endpoints()
HOUR_S: Final = 3600.0


@endpoints("GET", "/-/routes", "read", RouteListResponse, errors=STORE)
async def list_routes(request: ApiRequest) -> Response:
    """List all routes."""
    summaries = await request.services.summaries(request.principal.serves)
    config = {"revision": request.gateway.revision().revision, "refused": request.gateway.revisions.refused}
    alarms = await request.services.alarms() if request.principal.routes is None else []
    return json_response({"routes": list(summaries.values()), "config": config, "alarms": alarms})


@endpoints(
    "GET",
    "/-/routes/{route}",
    "read",
    RouteReport,
    query=RouteQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_route(request: ApiRequest) -> Response:
    """Compare the variants of a route.

    The report is at most about a second old. A part that does not apply is null.
    """
    name, query = request.route, request.query(RouteQuery)
    variants = request.gateway.document().routes[name].variants
    if query.baseline is not None and query.baseline not in variants:
        raise TurnoutError(
            "invalid", f"There is no variant {query.baseline!r}; write one of {', '.join(variants)}."
        )
    return json_response(await request.services.report(name, query.since, query.epoch, query.baseline))


@endpoints(
    "GET",
    "/-/routes/{route}/series",
    "read",
    SeriesResponse,
    query=SeriesQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_series(request: ApiRequest) -> Response:
    """Compare the variants of a route over time.

    In buckets; those without any decision or reward are left out.
    """
    name, query = request.route, request.query(SeriesQuery)
    store, document = request.gateway.store, request.gateway.document()
    now = request.gateway.now()
    until = query.until if query.until is not None else now
    if query.since is not None and query.last is not None:
        raise TurnoutError(
            "invalid", "'since' and 'last' both say where the period begins; write one of them."
        )
    since = query.since if query.since is not None else max(until - (query.last or HOUR_S), 0.0)
    if since >= until:
        raise TurnoutError("invalid", "'since' is not before 'until'; write an earlier 'since'.")
    step = step_for(until - since, query.step, age=now - since)
    if (until - since) / step > MAX_BUCKETS:
        raise TurnoutError(
            "invalid", f"That is more than {MAX_BUCKETS} buckets; write a longer 'step' or a later 'since'."
        )
    wanted = FIGURES if query.fields is None else frozenset(query.fields.split(","))
    if unknown := sorted(wanted - FIGURES):
        raise TurnoutError(
            "invalid", f"There is no field {unknown[0]!r}; write some of {', '.join(sorted(FIGURES))}."
        )
    window = max(step, (until - since) / ROLLING_PART)
    start = since // step * step
    if query.after is not None:  # the rolling figures reach back by their window
        start = max(start, (query.after - window) // step * step)
    buckets = await store.series(name, since=start, until=until, step=step, epochs="together")
    variants, declared = tuple(document.routes[name].variants), reported(document, name)
    before = await rewarded(store, name, declared, now=now, until=start)
    compared = await store.agreement_series(name, since=start, until=until, step=step)
    history = await store.allocation_history(name) if query.allocations else []

    def respond() -> Response:
        rewards = of_buckets(buckets, declared, now=now, step=step)
        found = series(variants, declared, rewards, before, window, wanted)
        agreed = agreements(compared, window)
        if query.after is not None:
            found = [bucket for bucket in found if bucket["start"] >= query.after]
            agreed = [bucket for bucket in agreed if bucket["start"] >= query.after]
        return gzipped_response(
            request,
            {
                "route": name,
                "since": since,
                "until": until,
                "step": step,
                "window": window,
                "buckets": found,
                "agreement": agreed,
                "allocations": steps(history, since, until) if query.allocations else None,
            },
        )

    return await asyncio.to_thread(respond)
