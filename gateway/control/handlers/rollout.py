"""The steering of rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

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
    word = Command(step.action, request.author, step.weight, reason=reason, seen=seen)
    return json_response(dict(await take(request, name, word)))


async def take(request: ApiRequest, route: str, word: Command) -> Mapping[str, Any]:
    """Take a requested step of ``route`` and return the new state; history names who requested it."""
    state = await request.gateway.rollout(route, word)
    trail = {"action": word.action, "weight": word.weight, "reason": word.reason} | request.caller
    await request.gateway.events.emit_quietly("steered", route, trail)  # the step is taken
    return state
