"""The steering of rollouts."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.schemas.rollout import RolloutRequest, RolloutResponse
from gateway.errors import TurnoutError
from policies.rollout.events import Command, Seen

endpoints: Final = Endpoints()


@endpoints(
    "POST",
    "/-/routes/{route}/rollout",
    "steer",
    RolloutResponse,
    body=RolloutRequest,
    errors=("bad_json", "invalid", "not_found", "conflict", *STORE),
)
async def steer(request: ApiRequest) -> Response:
    """Steer a rollout."""
    name, step = request.route, await request.body(RolloutRequest)
    if (step.action == "set") != (step.weight is not None):
        raise TurnoutError("invalid", "'weight' and the action 'set' need each other; write both or neither.")
    reason, seen = step.reason.strip(), Seen(step.if_state, step.if_epoch)
    word = Command(step.action, request.author, step.weight, reason=reason, seen=seen, caller=request.caller)
    return json_response(dict(await request.gateway.rollout(name, word)))
