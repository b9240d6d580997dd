"""Verdicts for other rollout controllers: Argo Rollouts and Flagger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.reports import verdict
from gateway.control.schemas.rollout import VerdictQuery, VerdictResponse
from gateway.errors import TurnoutError
from policies.rollout.events import Command

endpoints: Final = Endpoints()


@endpoints(
    "GET",
    "/-/routes/{route}/verdict",
    "read",
    VerdictResponse,
    query=VerdictQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_verdict(request: ApiRequest) -> Response:
    """Get a rollout's verdict.

    For Argo Rollouts' web provider and other controllers: pass once every stage has passed, fail if the rollout was
    rolled back or a guardrail is violated, error if a guardrail could not be evaluated.
    """
    judge = verdict.of_stage if request.query(VerdictQuery).of == "stage" else verdict.of_rollout
    return json_response(judge(await _rollout(request), request.gateway.now()))


@endpoints(
    "POST",
    "/-/hooks/flagger/{route}/{hook}",
    "read",
    VerdictResponse,
    errors=("not_found", "conflict", *STORE),
)
async def flagger_hook(request: ApiRequest) -> Response:
    """Respond to a Flagger webhook.

    200 lets Flagger proceed; 409 stops it and gives the reason. The body is not read. `confirm-rollout` restarts a
    rollout that has ended, which needs the scope `steer`.
    """
    rollout, hook = await _rollout(request), request.http.path_params["hook"]
    if hook == "confirm-rollout" and verdict.has_ended(rollout):
        rollout = await _restarted(request, rollout["state"])
    if hook not in verdict.HOOKS:
        raise TurnoutError("not_found", f"There is no hook {hook!r}; use one of {', '.join(verdict.HOOKS)}.")
    judge = verdict.of_stage if hook in verdict.STAGE_HOOKS else verdict.of_rollout
    found = judge(rollout, request.gateway.now())
    if found["verdict"] not in verdict.HOOKS[hook]:
        raise TurnoutError(
            "conflict", f"{found['verdict']}: {'; '.join(found['reasons']) or 'no evidence for it'}."
        )
    return json_response(found)


async def _restarted(request: ApiRequest, state: str) -> Mapping[str, Any]:
    """Start a rollout for Flagger's new revision. Raises conflict if the key may not steer."""
    if not request.principal.may("steer"):
        raise TurnoutError(
            "conflict",
            f"The rollout of an earlier revision is {state.replace('_', ' ')}; give this key the scope 'steer', so "
            "that this call restarts it, or send the action 'restart'.",
        )
    word = Command("restart", request.author, reason="Flagger has a new revision", caller=request.caller)
    return await request.gateway.rollout(request.route, word)


async def _rollout(request: ApiRequest) -> Mapping[str, Any]:
    found = await request.gateway.rollout_state(request.route)
    if found is None:
        raise TurnoutError(
            "not_found", f"The route {request.route!r} has no rollout: its policy is not a canary."
        )
    return found
