"""Traffic as it might have been: outcomes, rewards, shadows and the allocations that followed from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from gateway.record.events import Outcome, Reward, Shadowed
from tests.support.harness import Harness

DIFFERS = json.dumps(
    {"differences": 2, "first": [{"where": "outputs.label[0]", "primary": "8", "shadow": "3"}]}
)
"""What `policies.agreement_findings` says of two labels."""


@dataclass(frozen=True)
class World:
    """What is true of a route's variants."""

    route: str
    accuracy: dict[str, float]
    latency: dict[str, float] = field(default_factory=dict)
    """Median milliseconds."""
    errors: dict[str, float] = field(default_factory=dict)
    shadow: tuple[str, float] | None = None
    """A shadow and how often it agrees."""
    metric: str | None = "correct"
    feedback: float = 0.8
    """The share of decisions that get a reward."""
    units: int = 1 << 63
    """Users that send the requests."""


async def live_through(
    harness: Harness, world: World, *, steps: int, per_step: int, step: float = 10.0, seed: int = 1
) -> list[Outcome]:
    """``steps`` times ``per_step`` requests, the clock moving on by ``step`` seconds each time."""
    rng = np.random.default_rng(seed)
    made: list[Outcome] = []
    for _ in range(steps):
        outcomes = [_outcome(harness, world, rng, step) for _ in range(per_step)]
        shadowed = [_shadowed(o, world, rng) for o in outcomes] if world.shadow else []
        await harness.store.append(outcomes, shadowed)
        if world.metric is not None:
            rewards = [_reward(o, world, rng) for o in outcomes if o.served and rng.random() < world.feedback]
            await harness.store.reward(rewards)
        made += outcomes
        harness.clock.at += step
        await harness.allocations.step()
    return made


def _outcome(harness: Harness, world: World, rng: np.random.Generator, step: float) -> Outcome:
    live = harness.route_status(world.route)
    assert live is not None
    now = harness.clock() + float(rng.random()) * step * 0.99
    index = live.allocation.pick(float(rng.random()))
    variant = live.allocation.variants[index]
    failed = rng.random() < world.errors.get(variant, 0.0)
    fallback = [
        v for v in harness.document().routes[world.route].fallback if isinstance(v, str) and v != variant
    ]
    served = variant if not failed else (fallback[0] if fallback else "")
    took = world.latency.get(variant, 5.0) * float(rng.lognormal(0.0, 0.35))
    inside = float(rng.lognormal(-2.2, 0.4))
    decision = harness.sealer.new_decision(now)
    return Outcome(
        decision=decision,
        time=now,
        route=world.route,
        policy=harness.document().routes[world.route].policy.type,
        revision=live.revision,
        epoch=live.epoch,
        unit=int(rng.integers(0, world.units)),
        sticky=True,
        assigned=variant,
        served=served,
        propensity=live.allocation.probabilities[index],
        forced=False,
        status=200 if served else 502,
        error="backend_reset" if failed else "",
        fallback=bool(failed and served),
        attempts=json.dumps([[variant, "http://127.0.0.1:9101", "backend_reset", 1.5]]) if failed else "",
        gateway_ms=inside,
        backend_ms=took,
        total_ms=took + inside,
        request_bytes=900,
        answer_bytes=120,
        request_id=decision.hex(),
        principal="app",
        features="",
    )


def _reward(o: Outcome, world: World, rng: np.random.Generator) -> Reward:
    assert world.metric is not None
    return Reward(
        decision=o.decision,
        metric=world.metric,
        value=float(rng.random() < world.accuracy[o.served]),
        time=o.time + 1.0,
        decided=o.time,
        route=o.route,
        assigned=o.assigned,
        served=o.served,
        epoch=o.epoch,
        propensity=o.propensity,
        unit=o.unit,
        forced=False,
        worst=0.0,
    )


def _shadowed(o: Outcome, world: World, rng: np.random.Generator) -> Shadowed:
    assert world.shadow is not None
    name, rate = world.shadow
    agrees = bool(rng.random() < rate)
    return Shadowed(
        decision=o.decision,
        time=o.time,
        route=o.route,
        shadow=name,
        primary=o.served,
        status=200,
        error="",
        latency_ms=o.total_ms * 1.4,
        primary_ms=o.total_ms,
        agrees=agrees,
        difference=None if agrees else 0.2,
        detail="" if agrees else DIFFERS,
    )
