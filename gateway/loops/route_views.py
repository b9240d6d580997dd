"""Rollouts and stop rules, as the API and events show them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.compile.plans import plan_of
from gateway.config.document import Document
from gateway.config.policy import CanaryConfig
from policies.allocation.bandit import Standing
from policies.rollout import client_errors
from policies.rollout.events import Configured
from policies.rollout.guardrails import Judgement
from policies.rollout.machine import foreseen, possible, step
from policies.rollout.route import RouteState
from policies.rollout.state import Plan, State, of_plan, stage_of
from policies.rollout.stop_rule import StopState

_COMMANDS: Final[Mapping[str, str]] = {"asking": "promote", "handed_over": "rollback"}
"""By state of a stop rule, the command that moves it on."""


def rollout_view(
    state: State,
    plan: Plan,
    judgement: Judgement,
    samples: float,
    share: float,
    waits: str,
    now: float,
) -> dict[str, Any]:
    """``share``: the candidate's now, set by the rollout or by its bandit; ``waits``: as in a `Tick`."""
    stage, held = stage_of(plan, state.stage), client_errors.increase(judgement)
    if state.competing is not None:  # no stage any more
        stage = replace(stage, duration=0.0, min_samples=0)
    return {
        "state": str(state.status),
        "phase": state.phase,
        "stage": state.stage,
        "stages": len(plan.stages),
        "weight": share if state.deciding else state.weight,
        "baseline": plan.baseline,
        "candidate": plan.candidate,
        "reason": state.reason,
        "since": state.since,
        "entered": state.entered,
        "stage_ends": state.entered + stage.duration if stage.duration and not waits else None,
        "waits": waits or None,
        "samples": samples if state.competing is None else None,
        "min_samples": stage.min_samples,
        "bake_until": state.bake_until,
        "verdicts": [verdict.as_dict() for verdict in judgement.verdicts],
        "sick_baseline": judgement.sick or None,
        "possible": list(possible(state, plan, held)),
        "leads_to": {
            action: _step_view(after) for action, after in foreseen(state, plan, now, share, held).items()
        },
    }


def edited_shares(
    document: Document, states: Mapping[str, RouteState], now: float
) -> dict[str, dict[str, float]]:
    """The shares of the rollouts whose present stage the edited ``document`` moves, by route."""
    found = {}
    for name in document.routes.keys() & states.keys():
        section = document.routes[name].policy
        if not isinstance(section, CanaryConfig):
            continue
        plan = plan_of(section)
        before = of_plan(states[name].rollout, plan, now)
        after, _ = step(before, Configured(), plan, now)
        if after.weight != before.weight and not after.deciding:
            found[name] = {plan.baseline: 1.0 - after.weight, plan.candidate: after.weight}
    return found


def _step_view(state: State) -> dict[str, Any]:
    return {
        "state": str(state.status),
        "phase": state.phase,
        "stage": state.stage,
        "weight": None if state.deciding else state.weight,
    }


def stop_view(name: str, state: StopState, standing: Standing | None) -> dict[str, Any]:
    """``standing``: what the bandit of the route ``name`` knows."""
    best = {} if standing is None else dict(zip(standing.variants, standing.probability_best, strict=True))
    command = _COMMANDS.get(state.state)
    return {
        "state": state.state,
        "winner": state.winner,
        "since": state.since or None,
        "by": state.by,
        "probability_best": best.get(state.winner or ""),
        "lead": dict(state.lead) if state.lead is not None and state.winner is not None else None,
        "command": None if command is None else f"turnout rollout {name} {command}",
    }
