"""The limits that the state of a route sets to its allocation. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from gateway.compile.arrange import override_of
from gateway.compile.plans import RolloutOverride, plan_of
from gateway.config.document import Document
from gateway.config.policy import BanditConfig, CanaryConfig, GuardrailConfig
from gateway.config.route import RouteConfig
from policies.rollout.route import RouteState
from policies.rollout.state import of_plan

ALPHA: Final = 0.05
"""Probability that anything is ever ejected wrongly, over all variants, guardrails and looks of a route."""


@dataclass(frozen=True, slots=True)
class Steering:
    """The requirements of a route's rollout, guardrails and stop rule for its allocation."""

    override: RolloutOverride | None = None
    """Of a canary."""
    ejected: frozenset[str] = frozenset()
    winner: str | None = None
    """The variant that the bandit was handed over to."""
    fingerprint: str = ""
    """Of the guardrails that ``ejected`` is about."""

    @property
    def caps(self) -> dict[str, float]:
        """The largest share of each variant that has one."""
        return dict.fromkeys(sorted(self.ejected), 0.0)


@dataclass(frozen=True, slots=True)
class Guarded:
    """The guardrails that bind a route's bandit, or the bandit that a canary has gone on as."""

    baseline: str
    guardrails: tuple[GuardrailConfig, ...]
    fingerprint: str
    alpha: float = ALPHA
    candidate: str | None = None
    """Of a canary."""


def steering(route: RouteConfig, state: RouteState, now: float) -> Steering:
    """The requirements of ``state``; decisions about another section of the policy have none."""
    section, override, winner = route.policy, None, None
    if isinstance(section, CanaryConfig):
        plan = plan_of(section)
        override = override_of(of_plan(state.rollout, plan, now), plan)
    elif has_stop_rule(route) and state.stop.fingerprint == stop_fingerprint(route):
        winner = state.stop.handed_over
    bound = guarded(section, override)
    ejected = state.ejections.ejected
    if bound is None or state.ejections.fingerprint != bound.fingerprint:
        ejected = {}
    return Steering(override, frozenset(ejected), winner, bound.fingerprint if bound is not None else "")


def guarded(section: object, override: RolloutOverride | None) -> Guarded | None:
    """The guardrails of the bandit of a route with the policy ``section``; None if there is nothing to compare."""
    if isinstance(section, BanditConfig) and section.baseline is not None:
        fingerprint = guardrails_fingerprint(section)
        return Guarded(section.baseline, section.guardrails, fingerprint)
    if not isinstance(section, CanaryConfig) or override is None or override.competing is None:
        return None
    if override.promoted or (not override.deciding and override.weight in (0.0, 1.0)):
        return None  # it has ended, or one variant gets everything
    fingerprint = guardrails_fingerprint(section, override.competing)
    alpha = plan_of(section).bandit_alpha(ALPHA)
    return Guarded(section.baseline, section.guardrails, fingerprint, alpha, section.candidate)


def controlled(route: RouteConfig) -> bool:
    """Whether anything but its configuration moves the allocation."""
    steered = isinstance(route.policy, CanaryConfig) or has_stop_rule(route)
    return steered or guarded(route.policy, None) is not None


def of_control(document: Document) -> list[str]:
    """The routes of ``document`` that are `controlled`."""
    return [name for name, route in document.routes.items() if controlled(route)]


def guardrails_fingerprint(section: BanditConfig | CanaryConfig, competing: float | None = None) -> str:
    """Changes with the policy's section, and each time that a canary goes on as a bandit."""
    # A confirmation changes nothing about the evidence, and an earlier build knew none.
    text = section.model_dump_json(exclude={"stages": {"__all__": {"confirm"}}})
    text += "" if competing is None else str(competing)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def has_stop_rule(route: RouteConfig) -> bool:
    return isinstance(route.policy, BanditConfig) and route.policy.stop is not None


def stop_fingerprint(route: RouteConfig) -> str:
    """Changes with the policy's section and with the variants that take part."""
    text = route.policy.model_dump_json() + json.dumps([*route.variants, *route.all_shadows])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
