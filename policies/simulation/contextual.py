"""Policies in worlds whose requests have features: what a contextual bandit gains there, and what it costs
where the features say nothing.

As in `policies.simulation.bandit` a run is a number of periods, at the beginning of which the policy learns what was
reported by then. Regret is counted against two others: the best variant *for each request* as far as its
features show it, which no policy can beat on average, and the best *single* variant of the whole run, which
is the best possible without features (below zero: more was earned than that).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from policies import allocate as allocating
from policies.allocate import Plan
from policies.allocation.bandit import Bandit
from policies.allocation.model import Learned
from policies.allocation.shares import capped
from policies.contextual import bandit as contextual
from policies.contextual.bandit import Contextual, Ensemble
from policies.contextual.regression import LinearSums
from policies.simulation import summary
from policies.simulation.bandit import Point, Progress
from policies.simulation.summary import Estimated, Plain, spread
from policies.simulation.worlds_contextual import ContextWorld, Rows, width
from policies.types import Discounted, RewardSums

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ContextReport(Plain):
    """What happened in ``repetitions`` runs; regret in units of the metric, summed over all requests."""

    world: str
    requests: int
    repetitions: int
    seed: int | None
    regret: Estimated
    """Against the variant that is best for each request, as far as its features show."""
    regret_single: Estimated
    """Against the one variant that was best over the run."""
    even_regret: Estimated
    """What an even split would have lost against the best for each request."""
    best_share: Estimated
    """The share of requests that went to a variant that was best for them."""
    weight: Estimated
    """Mean over requests of 1 / (K propensity): 1 if the propensities are those of the draw, and no variant
    is without a share."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Mean over all requests of the last period."""
    curve: tuple[Point, ...] = ()


def run(
    plan: Plan,
    world: ContextWorld,
    *,
    repetitions: int = 100,
    refreshes: int = 100,
    seed: int | None = 0,
    progress: Progress | None = None,
) -> ContextReport:
    """Runs ``plan``, which may look at features or not, in ``world`` ``repetitions`` times.

    ``seed`` None takes one from the system. Raises ValueError when the plan is about other variants or
    features, or after another metric type or goal, than the world.
    """
    _fits(plan, world)
    rng = np.random.default_rng(seed)
    runs = []
    for repetition in range(repetitions):
        runs.append(_Run(plan, world, min(refreshes, world.requests), rng))
        if progress is not None:
            progress(repetition + 1, repetitions)
    return _report(world, runs, seed)


def _fits(plan: Plan, world: ContextWorld) -> None:
    names = plan.variants if isinstance(plan, Contextual) else allocating.allocate(plan).variants
    unknown = set(names) - set(world.variants)
    if unknown:
        raise ValueError(f"the world has no variant {min(unknown)!r}; it has {', '.join(world.variants)}")
    if isinstance(plan, Contextual):
        if plan.features != world.features:
            raise ValueError("the policy looks at other features than the world has")
        if plan.goal != world.goal:
            raise ValueError(f"the policy is to {plan.goal}, the world to {world.goal}")
    elif isinstance(plan, Bandit):
        objective = plan.objectives[0]
        if len(plan.objectives) > 1 or (objective.model, objective.goal) != (world.model, world.goal):
            raise ValueError(f"the world has one {world.model} metric to {world.goal}, the policy another")


class _Run:
    """One run, from beginning to end."""

    def __init__(self, plan: Plan, world: ContextWorld, periods: int, rng: np.random.Generator) -> None:
        self.plan, self.world, self.rng = plan, world, rng
        k = len(world.variants)
        self.ends = np.linspace(0, world.requests, periods + 1).round().astype(int)[1:]
        half_life = plan.half_life if isinstance(plan, Contextual | Bandit) else None
        self.keep = 0.5 ** (world.seconds / periods / half_life) if half_life is not None else 1.0
        """What a period leaves of a discounted sum."""
        self.linear = {name: LinearSums.empty(width(world)) for name in world.variants}
        self.sums = {name: RewardSums() for name in world.variants}
        self.lost, self.even, self.best, self.weights = (np.zeros(periods) for _ in range(4))
        self.single = np.zeros(k)
        """Σ of what each variant alone would have lost."""
        self.shares = np.zeros(k)
        sizes = np.diff(self.ends, prepend=0)
        for period, (end, n) in enumerate(zip(self.ends.tolist(), sizes.tolist(), strict=True)):
            self._serve(period, world.rows(rng, n, (end - n) / world.requests))

    def _serve(self, period: int, rows: Rows) -> None:
        p = self._allocated(rows.x)
        n = np.arange(len(p))
        # The last bound may fall short of 1 by rounding.
        bounds = np.cumsum(p, axis=1)[:, :-1]
        chosen = (self.rng.random(len(p))[:, None] >= bounds).sum(axis=1)
        self._learn(rows.x, chosen, self.world.rewards(self.rng, rows.means[n, chosen]))
        sign = 1.0 if self.world.goal == "maximize" else -1.0
        better = sign * rows.seen
        gap = better.max(axis=1, keepdims=True) - better
        self.lost[period] = gap[n, chosen].sum()
        self.even[period] = gap.mean(axis=1).sum()
        self.best[period] = (gap[n, chosen] <= 1e-12).mean()
        self.weights[period] = (1.0 / (p.shape[1] * p[n, chosen])).mean()
        self.single += gap.sum(axis=0)
        self.shares = p.mean(axis=0)

    def _learn(self, x: Array, chosen: NDArray[np.intp], rewards: Array) -> None:
        for k, name in enumerate(self.world.variants):
            if self.keep < 1.0:
                self.linear[name] *= self.keep
                self.sums[name] *= self.keep
            mine = chosen == k
            if mine.any():
                self.linear[name] += LinearSums.of(x[mine], rewards[mine])
                self.sums[name] += RewardSums.of(rewards[mine])

    def _allocated(self, x: Array) -> Array:
        """The probabilities (n, K) of these requests, in the world's order."""
        if isinstance(self.plan, Contextual):
            drawn = contextual.ensemble(self.plan, self.linear, self.rng)
            place = [
                self.plan.variants.index(v) if v in self.plan.variants else -1 for v in self.world.variants
            ]
            padded = np.column_stack([shares_of(drawn, x), np.zeros(len(x))])
            return np.asarray(padded[:, place])
        made = allocating.allocate(self.plan, self._learned()).as_dict()
        return np.tile([made.get(name, 0.0) for name in self.world.variants], (len(x), 1))

    def _learned(self) -> Learned:
        """What a plan that looks at no features is handed."""
        metric = self.plan.objectives[0].metric if isinstance(self.plan, Bandit) else ""
        sums = {(name, metric): found for name, found in self.sums.items()}
        if self.keep == 1.0:
            return Learned(sums=sums)
        return Learned(discounted={k: Discounted(s.count, s.total, s.squares) for k, s in sums.items()})


def shares_of(drawn: Ensemble, x: Array) -> Array:
    """`Ensemble.shares` of many rows: (n, d) to (n, K)."""
    plan = drawn.plan
    k = len(plan.variants)
    best = (drawn.coefficients @ x.T).argmax(axis=1)
    votes = np.column_stack([(best == i).mean(axis=0) for i in range(k)])
    shares = plan.floor + max(0.0, 1.0 - k * plan.floor) * votes
    if min(drawn.caps) >= 1.0:
        return np.asarray(shares)
    return np.array([capped(row, drawn.caps) for row in shares.tolist()])


def _report(world: ContextWorld, runs: list[_Run], seed: int | None) -> ContextReport:
    lost = np.cumsum([run.lost for run in runs], axis=1)
    best = np.array([run.best for run in runs])
    sizes = np.diff(runs[0].ends, prepend=0)
    ends = runs[0].ends.tolist()
    return ContextReport(
        world.name,
        world.requests,
        len(runs),
        seed,
        summary.mean(lost[:, -1], within=(0.0, inf)),
        summary.mean([run.lost.sum() - run.single.min() for run in runs]),
        summary.mean([run.even.sum() for run in runs], within=(0.0, inf)),
        summary.mean((best * sizes).sum(axis=1) / world.requests, within=(0.0, 1.0)),
        summary.mean([float(run.weights @ sizes) / world.requests for run in runs]),
        dict(zip(world.variants, np.mean([run.shares for run in runs], axis=0).tolist(), strict=True)),
        tuple(
            Point(
                ends[i],
                summary.mean(lost[:, i], within=(0.0, inf)),
                summary.mean(best[:, i], within=(0.0, 1.0)),
            )
            for i in spread(len(ends))
        ),
    )
