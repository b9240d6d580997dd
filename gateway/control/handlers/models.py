"""The models of all routes, in OpenAI's shape."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import Endpoints
from gateway.control.schemas.models import ModelsResponse
from gateway.errors import TurnoutError

endpoints: Final = Endpoints()


@endpoints("GET", "/v1/models", "infer", ModelsResponse, errors=("unknown_route",))
async def list_models(request: ApiRequest) -> Response:
    """List the models that routes match by name.

    Only those of routes that the key may use. A route without `match.model` that matches this path is not affected: its
    backend responds.
    """
    matched = {name: route.match.model for name, route in request.gateway.document().routes.items()}
    if not any(matched.values()):
        raise TurnoutError("unknown_route")
    created = int(request.gateway.revision().time)
    models = {
        model: name for name, names in matched.items() if request.principal.serves(name) for model in names
    }
    rows = [
        {"id": model, "object": "model", "created": created, "owned_by": route}
        for model, route in models.items()
    ]
    return json_response({"object": "list", "data": rows})
