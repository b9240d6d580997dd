"""What pictures of a route's comparisons are drawn from: distributions, and the lift over time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.responses import Response

from gateway.compile.plans import adjustments, reported, segment_features
from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.reports.distributions import distributions
from gateway.control.reports.lift import HEALTH
from gateway.control.reports.lift_over_time import lift_over_time
from gateway.control.reports.observed import comparable
from gateway.control.reports.route import default_baseline
from gateway.control.reports.segments import compared_by_segment, segment_ids
from gateway.control.schemas.history import (
    BaselineQuery,
    DistributionsResponse,
    LiftOverTimeResponse,
    LiftQuery,
    SegmentsResponse,
)
from gateway.errors import TurnoutError
from gateway.ingest.evidence import observations, over_time, rewarded
from gateway.ingest.segments import by_segment, latest_by_segment

endpoints: Final = Endpoints()


@endpoints(
    "GET",
    "/-/routes/{route}/distributions",
    "read",
    DistributionsResponse,
    query=BaselineQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_distributions(request: ApiRequest) -> Response:
    """Get posterior densities and latency quantiles."""
    name, baseline = request.route, _baseline(request, request.query(BaselineQuery).baseline)
    store, document = request.gateway.store, request.gateway.document()
    declared = reported(document, name)
    sums = observations(await rewarded(store, name, declared, now=request.gateway.now()))
    counts = await store.counts(name)
    variants = tuple(document.routes[name].variants)
    found = await asyncio.to_thread(distributions, variants, declared, sums, counts, baseline)
    if request.services.status(name).contextual is not None:
        found["differences"] = {}  # of means over different requests
    return json_response(found)


@endpoints(
    "GET",
    "/-/routes/{route}/lift",
    "read",
    LiftOverTimeResponse,
    query=LiftQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_lift(request: ApiRequest) -> Response:
    """Compare the variants of a route as they stood over time."""
    name, query = request.route, request.query(LiftQuery)
    baseline = _baseline(request, query.baseline)
    document, now = request.gateway.document(), request.gateway.now()
    declared, route = reported(document, name), document.routes[name]
    if query.metric not in declared and query.metric not in HEALTH:
        known = ", ".join([*declared, *HEALTH])
        raise TurnoutError("invalid", f"There is no metric {query.metric!r} here; write one of {known}.")
    status = request.services.status(name)
    by_request, by_epoch = status.contextual is not None, status.by_epoch

    async def make() -> dict[str, Any]:
        from_record = query.metric in HEALTH or declared[query.metric].missing == "zero"  # not in the buckets
        if (from_record and route.unit is not None) or not comparable(route, by_request=by_request):
            return {}
        buckets = await over_time(request.gateway.store, name, declared, now=now, epochs=by_epoch)
        return await asyncio.to_thread(
            lift_over_time,
            tuple(route.variants),
            declared,
            buckets,
            metric=query.metric,
            baseline=baseline,
            points=query.points,
            now=now,
            by_request=by_request,
            sticky=route.unit is not None,
            by_epoch=by_epoch,
            adjusted=adjustments(document, name),
        )

    found = await request.services.shared(("lift", name, query.metric, baseline, query.points), make)
    return json_response({"route": name, "metric": query.metric, "baseline": baseline, "variants": found})


@endpoints(
    "GET",
    "/-/routes/{route}/segments",
    "read",
    SegmentsResponse,
    query=BaselineQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_segments(request: ApiRequest) -> Response:
    """Compare the variants of a route in each of its segments.

    By value of each feature that the route declares under `segments`. The intervals of one metric hold at all times,
    together for all pairs of variants and all segments, with probability 0.95. Metrics with `missing: zero` are left
    out. Errors and latencies are those of the newest 10,000 requests.
    """
    name, baseline = request.route, _baseline(request, request.query(BaselineQuery).baseline)
    document, now = request.gateway.document(), request.gateway.now()
    route, by_epoch = document.routes[name], request.services.status(name).by_epoch

    async def make() -> dict[str, Any]:
        if not route.segments:
            return {"as_of": now, "latest": {"since": None, "requests": 0}, "segments": []}
        store, ids = request.gateway.store, segment_ids(route)
        found = await by_segment(store, name, ids, now=now, epochs=by_epoch)
        latest = await latest_by_segment(store, name, segment_features(route))
        made = await asyncio.to_thread(
            compared_by_segment,
            route,
            reported(document, name),
            found,
            latest.counts,
            baseline,
            by_epoch=by_epoch,
        )
        known = {"since": latest.since, "requests": latest.requests}
        return {"as_of": now, "latest": known, "segments": made}

    made = await request.services.shared(("segments", name, baseline), make)
    return json_response({"route": name, "baseline": baseline, **made})


def _baseline(request: ApiRequest, wanted: str | None) -> str:
    """The variant that is asked for, or the policy's baseline. Raises invalid for an unknown one."""
    route = request.gateway.document().routes[request.route]
    if wanted is not None and wanted not in route.variants:
        raise TurnoutError(
            "invalid", f"There is no variant {wanted!r}; write one of {', '.join(route.variants)}."
        )
    return wanted or default_baseline(route)
