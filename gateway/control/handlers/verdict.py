"""What controllers of others ask: GET …/verdict for Argo Rollouts, POST /-/hooks/flagger/… for Flagger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from gateway.control.api_request import Ask, answer
from gateway.control.reports import verdict
from gateway.control.schemas.requests import VerdictQuery
from gateway.errors import TurnoutError


async def read_verdict(ask: Ask) -> Response:
    judge = verdict.of_stage if ask.query(VerdictQuery).of == "stage" else verdict.of_rollout
    return answer(judge(await _rollout(ask), ask.context.now()))


async def flagger_hook(ask: Ask) -> Response:
    """200 lets Flagger go on; 409 holds it back and says why."""
    rollout, hook = await _rollout(ask), ask.request.path_params["hook"]
    if hook not in verdict.HOOKS:
        raise TurnoutError("not_found", f"There is no hook {hook!r}; use one of {', '.join(verdict.HOOKS)}.")
    judge = verdict.of_stage if hook in verdict.STAGE_HOOKS else verdict.of_rollout
    found = judge(rollout, ask.context.now())
    if found["verdict"] not in verdict.HOOKS[hook]:
        raise TurnoutError(
            "conflict", f"{found['verdict']}: {'; '.join(found['reasons']) or 'nothing speaks for it'}."
        )
    return answer(found)


async def _rollout(ask: Ask) -> Mapping[str, Any]:
    found = await ask.context.rollout_state(ask.route)
    if found is None:
        raise TurnoutError("not_found", f"The route {ask.route!r} has no rollout: its policy is no canary.")
    return found
