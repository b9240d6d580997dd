"""Whether the gateway lives, whether it can serve, and its figures for Prometheus."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from gateway.control.api_request import Ask, answer
from gateway.errors import TurnoutError
from gateway.telemetry.metrics import of_routes

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


async def healthz(ask: Ask) -> Response:
    return answer({"status": "ok"})


async def readyz(ask: Ask) -> Response:
    ready, why = ask.context.ready()
    if not ready:
        raise TurnoutError("not_ready", why, retry_after=1.0)
    return answer({"status": "ready"})


async def metrics(ask: Ask) -> Response:
    # The figures of other workers are read from files.
    text = await asyncio.to_thread(ask.context.metrics)
    routes = ask.principal.routes
    return Response(text if routes is None else of_routes(text, routes), headers={"content-type": PROMETHEUS})
