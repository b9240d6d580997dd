"""The decision without the proxy."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import Endpoints
from gateway.control.schemas.decide import DecideRequest, DecideResponse
from gateway.errors import TurnoutError

endpoints: Final = Endpoints()


@endpoints(
    "POST",
    "/-/decide",
    "infer",
    DecideResponse,
    body=DecideRequest,
    request_headers=("x-variant",),
    errors=("bad_json", "invalid", "not_found", "unknown_variant"),
)
async def decide(request: ApiRequest) -> Response:
    """Assign a variant without proxying a request.

    The same unit gets the same variant as through the route. The decision is recorded with its propensity, counts as an
    assignment and takes rewards; the gateway sees no response, so it enters neither errors nor latencies. A key that
    may do so forces a variant with `x-variant`.
    """
    wanted = await request.body(DecideRequest)
    name = request.must_know(wanted.route)
    route = request.gateway.document().routes[name]
    if route.engine is not None:
        raise TurnoutError(
            "invalid",
            f"The route {name!r} is served by the engine {route.engine!r}, whose nodes assign its units; "
            "use a route without 'engine'.",
        )
    decided = request.gateway.decide(
        name,
        "" if wanted.unit is None else str(wanted.unit),
        wanted.features,
        request.principal,
        request.http.headers.get("x-variant", ""),
        request.http.state.request_id,
    )
    payload = route.variants[decided.variant].payload
    return json_response(
        {
            "decision_id": decided.decision_id,
            "variant": decided.variant,
            "payload": payload,
            "propensity": decided.propensity,
            "epoch": decided.epoch,
        }
    )
