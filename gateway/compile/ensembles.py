"""What a bandit with features has learned, as the leader publishes it and every process restores it.

The bytes are a line of JSON (what it is about, and the posterior for people to read), then the coefficients
exactly as they were drawn. So all workers and replicas decide by the very same numbers, whatever machine drew
them, and a restart finds them again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from gateway.record.events import Outcome
from policies.allocation.bucketing import allocation
from policies.allocation.model import Allocation
from policies.contextual import bandit as contextual
from policies.contextual.bandit import Contextual, Ensemble
from policies.contextual.features import columns, encode, fingerprint
from policies.contextual.regression import Belief, LinearSums, fit

log = logging.getLogger("turnout.config")

_MARK: Final = '{"features": '
RECENT: Final = 256
"""The last requests of a route over which its shares are averaged, for people and metrics to see."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An ensemble with what it follows from."""

    ensemble: Ensemble
    beliefs: tuple[Belief, ...]
    """By variant, in the plan's order."""
    rewards: Mapping[str, float]
    """By variant: number of rewards; with a half-life, their total weight."""
    caps: Mapping[str, float]
    exact: bool = True
    """Whether it decides as it was published: the floor has not been edited since."""

    def packed(self) -> bytes:
        plan = self.ensemble.plan
        head = _identity(plan) | {
            "floor": plan.floor,
            "caps": dict(self.caps),
            "rewards": dict(self.rewards),
            "beliefs": [[b.mean.tolist(), b.deviation.tolist(), b.df] for b in self.beliefs],
        }
        return json.dumps(head).encode() + b"\n" + self.ensemble.packed()

    @property
    def evidence(self) -> str:
        """For the history of allocations."""
        return json.dumps(
            {"features": fingerprint(self.ensemble.plan.features).hex(), "rewards": self.rewards}
        )


def _identity(plan: Contextual) -> dict[str, Any]:
    """The parts of a plan that give coefficients their meaning."""
    return {
        "features": fingerprint(plan.features).hex(),
        "variants": list(plan.variants),
        "metric": plan.metric,
        "goal": plan.goal,
        "draws": plan.draws,
    }


def restore(plan: Contextual, data: bytes) -> Drawn | None:
    """The inverse of `Drawn.packed`; None if ``data`` was drawn for another plan, or is damaged."""
    line, _, rest = data.partition(b"\n")
    wanted = _identity(plan)
    try:
        head = json.loads(line)
        if {key: head[key] for key in wanted} != wanted:
            return None
        beliefs = tuple(Belief(np.array(mean), np.array(sd), df) for mean, sd, df in head["beliefs"])
        made = contextual.restored(plan, rest, head["caps"])
        return Drawn(made, beliefs, head["rewards"], head["caps"], exact=head["floor"] == plan.floor)
    except (ValueError, LookupError, TypeError) as error:
        log.error(
            "what a bandit had learned of features is damaged in the store, and is learned again: %s", error
        )
        return None


def expected(evidence: str) -> bool:
    """Whether an allocation with this evidence was published together with an ensemble."""
    return evidence.startswith(_MARK)  # without parsing what other policies have to say, at every look


def refit(
    plan: Contextual, sums: Mapping[str, LinearSums], caps: Mapping[str, float], before: Drawn | None
) -> bool:
    """Whether the posterior or a cap has moved enough to draw a new ensemble."""
    if before is None or dict(before.caps) != dict(caps):
        return True
    empty = LinearSums.empty(plan.width)
    fitted = fit([sums.get(name, empty) for name in plan.variants], plan.strength)
    return contextual.moved(before.beliefs, [c.belief for c in fitted])


def draw(
    plan: Contextual, sums: Mapping[str, LinearSums], caps: Mapping[str, float], seed: Sequence[int]
) -> Drawn:
    """A new ensemble. Raises ValueError if the caps sum to less than 1."""
    made = contextual.ensemble(plan, sums, np.random.default_rng(seed), caps)
    rewards = {name: sums[name].count if name in sums else 0.0 for name in plan.variants}
    return Drawn(made, tuple(c.belief for c in made.posteriors), rewards, dict(caps))


def described(plan: Contextual, drawn: Drawn | None) -> dict[str, Any]:
    """The columns of a row and each variant's coefficients with their intervals, for people."""
    names = columns(plan.features)
    believed = {} if drawn is None else dict(zip(plan.variants, drawn.beliefs, strict=True))
    return {
        "features": [feature.name for feature in plan.features],
        "fingerprint": fingerprint(plan.features).hex(),
        "draws": plan.draws,
        "rewards": {} if drawn is None else dict(drawn.rewards),
        "coefficients": {variant: _figures(names, belief) for variant, belief in believed.items()},
    }


def _figures(names: Sequence[str], belief: Belief) -> dict[str, dict[str, Any]]:
    rows = zip(names, belief.mean.tolist(), belief.intervals(), strict=True)
    return {name: {"mean": mean, "interval": list(ends)} for name, mean, ends in rows}


def seed(route: str, epoch: int, *, sticky: bool) -> tuple[int, int]:
    """The seed of an ensemble: of the route and the epoch, or with sticky units of the route alone.

    With the same seed the draws move as little as the posterior, so a unit keeps its variant from epoch to epoch.
    """
    digest = blake2b(route.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big"), 0 if sticky else epoch


def averaged(drawn: Drawn, recent: Iterable[Outcome], previous: Allocation) -> Allocation:
    """The allocation over all requests: the mean of the shares that recent requests would get."""
    plan = drawn.ensemble.plan
    rows = [encode(plan.features, json.loads(outcome.features)) for outcome in recent if outcome.features]
    shares = drawn.ensemble.average(rows or [encode(plan.features, {})])
    return allocation(dict(zip(plan.variants, shares, strict=True)), previous=previous, shadows=plan.shadows)
