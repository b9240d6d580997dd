"""Liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import OPEN, Endpoints
from gateway.control.schemas.health import HealthResponse, ReadyResponse
from gateway.errors import TurnoutError
from gateway.telemetry.metrics import of_routes

endpoints: Final = Endpoints()
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


@endpoints("GET", "/-/healthz", OPEN, HealthResponse)
async def healthz(request: ApiRequest) -> Response:
    """Check that the process is alive."""
    return json_response({"status": "ok"})


@endpoints("GET", "/-/readyz", OPEN, ReadyResponse, errors=("not_ready", "draining"))
async def readyz(request: ApiRequest) -> Response:
    """Check that requests can be served.

    They are while the store is unavailable; then `store_outage` describes the state of the gateway.
    """
    ready, why = request.gateway.ready()
    if not ready:
        raise TurnoutError("not_ready", why, retry_after=1.0)
    outage = request.gateway.store_outage()
    described = None if outage is None else {**asdict(outage), "message": outage.message}
    return json_response({"status": "ready", "store_outage": described})


@endpoints("GET", "/-/metrics", "metrics", "text/plain", open_to_loopback=True)
async def metrics(request: ApiRequest) -> Response:
    """Get the metrics for Prometheus.

    From the loopback interface no key is needed.
    """
    # In a thread: the metrics of other workers are read from files.
    text = await asyncio.to_thread(request.gateway.metrics)
    routes = request.principal.routes
    return Response(text if routes is None else of_routes(text, routes), headers={"content-type": PROMETHEUS})
