"""A plan of a rollout, and what events make of it."""

from __future__ import annotations

from policies.rollout.events import Effect, Event, SetWeight, Tick
from policies.rollout.machine import step
from policies.rollout.state import Plan, Stage, State, begin
from policies.rollout.verdicts import Verdict

PLAN = Plan(
    "v1",
    "v2",
    (Stage(0.01, 600), Stage(0.1, 1800, 500), Stage(0.5, 3600)),
    bake=3600,
    patience=7200,
)


def verdict(outcome: str, reason: str = "") -> Verdict:
    return Verdict("error_rate", outcome, "max_increase", 0.005, 0.01, 0.001, (-0.1, 0.1), reason=reason)  # type: ignore[arg-type]


def tick(outcome: str = "pass", samples: float = 1e6, sick: str = "") -> Tick:
    return Tick((verdict(outcome),), samples, sick)


def play(*events: tuple[float, Event], plan: Plan = PLAN) -> tuple[State, list[Effect]]:
    state, effects = begin(plan, 0.0), list[Effect]()
    for now, event in events:
        state, more = step(state, event, plan, now)
        effects += more
    return state, effects


def weights(effects: list[Effect]) -> list[float]:
    return [effect.weight for effect in effects if isinstance(effect, SetWeight)]
