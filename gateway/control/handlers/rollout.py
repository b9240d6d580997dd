"""The steering of rollouts."""

from __future__ import annotations

import contextlib
from typing import Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.schemas.rollout import RolloutRequest, RolloutResponse
from gateway.errors import TurnoutError
from gateway.state.base import StoreUnavailable

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
    await _require_unchanged(request, name, step)
    state = await request.gateway.rollout(name, step.action, step.weight, request.author, step.reason.strip())
    trail = {"action": step.action, "weight": step.weight, "reason": step.reason.strip()} | request.caller
    with contextlib.suppress(StoreUnavailable):  # the step is taken, even if its trail is not stored
        await request.gateway.events.emit("steered", name, trail)
    return json_response(dict(state))


async def _require_unchanged(request: ApiRequest, name: str, step: RolloutRequest) -> None:
    """Raises conflict if the route has changed since the client read it."""
    epoch = request.services.status(name).epoch
    if step.if_epoch is not None and step.if_epoch != epoch:
        raise TurnoutError("conflict", f"The route is at epoch {epoch} now; read the route again.")
    state = (await request.gateway.rollout_state(name) or request.gateway.stop_state(name) or {}).get("state")
    if step.if_state is not None and step.if_state != state:
        raise TurnoutError("conflict", f"The rollout is {state} now; read the route again.")
