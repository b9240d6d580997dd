"""Variants that a policy with features serves to different requests: how often does their lift exclude the truth?

`python -m benchmarks.contextual_lift [--runs 200]` prints the table of docs/benchmarks_statistics.md. Requests are
drawn with the shares of `policies.contextual.bandit.Ensemble`, values weighted as `gateway.state.units` counts them,
and the last variant compared with the second last as the report does, after each hundredth of a run. The truth is the
mean difference over all requests so far.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from benchmarks.false_alarms import shown
from policies.allocate import allocate
from policies.contextual.bandit import Contextual, ensemble
from policies.contextual.regression import LinearSums
from policies.sequential.design_based import UnitSums, WeightedSums, design_effect, inverse_weighted
from policies.sequential.metric_comparison import compare_weighted
from policies.sequential.two_sample import RateMartingale, difference_interval
from policies.simulation.worlds_contextual import ContextWorld, Rows, standard
from policies.types import PairSums

Floats = npt.NDArray[np.float64]

LOOKS = 100
PAIRS_OF = {2: 1, 3: 3}
"""Pairs that share the error rate, by number of variants."""


@dataclass(frozen=True, slots=True)
class Users:
    """Sticky users with features of their own; ``skew`` and ``icc`` as in `benchmarks.sticky_levels.Users`."""

    number: int = 1000
    skew: float = 0.5
    icc: float = 0.3


@dataclass(slots=True)
class Sums:
    """What the record holds of the rewards y of a variant, each with the weight w = 1 / propensity."""

    values: PairSums = field(default_factory=PairSums)
    """Of w y and w."""
    users: Floats | None = None
    """Σ w y and Σ w of each user; shape (2, users)."""

    def add(self, y: Floats, w: Floats, who: npt.NDArray[np.int64] | None) -> None:
        """``who``: the user of each value."""
        self.values = self.values + PairSums.of(w * y, w)
        if self.users is not None and who is not None:
            np.add.at(self.users[0], who, w * y)
            np.add.at(self.users[1], who, w)

    def weighted(self) -> WeightedSums:
        """As `gateway.control.reports.lift` reads them."""
        found = inverse_weighted(self.values)
        if self.users is None or not found.weight > 0:
            return found
        each = self.users[:, self.users[1] > 0]
        return found.by_unit(*design_effect(found, UnitSums(PairSums.of(*each), found.count)))


@dataclass(slots=True)
class Found:
    """Of many runs."""

    excluded: int = 0
    """Runs in which the interval of the last variant's lift ever excluded the truth."""
    pooled: int = 0
    """Runs in which that of plain means does at the end."""
    width: float = 0.0
    """Mean width of the interval at the end."""


def worlds() -> Mapping[str, ContextWorld]:
    """Variants that are equal over all requests, but not for each."""
    two, three = standard(means=(0.4, 0.4)), standard(means=(0.4, 0.4, 0.4))
    names = ("features decide", "features drift", "preferences turn")
    better = replace(three["features decide"], means=(("v1", 0.4), ("v2", 0.4), ("v3", 0.5)))
    return (
        {f"three, {name}": three[name] for name in names}
        | {f"two, {name}": two[name] for name in names}
        | {"three, features decide, last better by 10 points": better}
    )


def simulate(world: ContextWorld, floor: float, seeds: Iterable[int], users: Users | None = None) -> Found:
    """One run of ``world.requests`` requests for each of ``seeds``."""
    result, runs = Found(), 0
    plan = Contextual(world.variants, "good", world.features, floor=floor)
    for seed in seeds:
        runs += 1
        excluded, pooled, width = _run(world, plan, np.random.default_rng([7, seed]), users)
        result.excluded, result.pooled = result.excluded + excluded, result.pooled + pooled
        result.width += width
    result.width /= max(runs, 1)
    return result


def _run(
    world: ContextWorld, plan: Contextual, rng: np.random.Generator, users: Users | None
) -> tuple[bool, bool, float]:
    size, ends = world.requests // LOOKS, plan.variants[-2:]
    learned = {name: LinearSums.empty(plan.width) for name in plan.variants}
    sums = {name: Sums(users=None if users is None else np.zeros((2, users.number))) for name in ends}
    own, points, places, activity, who = None, np.zeros(0), np.zeros(0), None, None
    if users is not None:
        own, points, places = (
            world.rows(rng, users.number, 0.0),
            rng.random(users.number),
            rng.random(users.number),
        )
        activity = np.arange(1, users.number + 1) ** -users.skew
        activity /= activity.sum()
    seen = {name: np.zeros(2) for name in ends}
    truth, true, excluded, width = 0.0, 0.0, False, 0.0
    alpha = 0.05 / PAIRS_OF[len(plan.variants)]
    shares = np.tile(allocate(plan).probabilities, (size, 1))
    for look in range(LOOKS):
        if own is None or users is None:
            rows = world.rows(rng, size, look / LOOKS)
        else:
            who = rng.choice(users.number, size, p=activity)
            rows = Rows(*(part[who] for part in own))
        if look:
            drawn = ensemble(plan, learned, rng)
            shares = np.asarray([drawn.shares(row) for row in rows.x.tolist()])
        point = rng.random(size) if who is None else points[who]
        chosen = (point[:, None] >= np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1)
        means = rows.means[np.arange(size), chosen]
        if users is not None and who is not None:
            weight = 1 / users.icc - 1
            means = betaincinv(means * weight, (1 - means) * weight, places[who])
        y = world.rewards(rng, means)
        for k, name in enumerate(plan.variants):
            mine = chosen == k
            if mine.any():
                learned[name] = learned[name] + LinearSums.of(rows.x[mine], y[mine])
            if name in ends:
                w = 1 / shares[mine, k]
                sums[name].add(y[mine], w, None if who is None else who[mine])
                seen[name] += y[mine].sum(), mine.sum()
        truth += (rows.means[:, -1] - rows.means[:, -2]).mean()
        true = truth / (look + 1)
        interval = compare_weighted(*(sums[v].weighted() for v in ends), ratio=False).interval(alpha, 1.0)
        if interval is not None:
            excluded, width = excluded or not interval[0] <= true <= interval[1], interval[1] - interval[0]
    first, second = (RateMartingale(*seen[v].tolist()) for v in ends)
    plain = difference_interval(first, second, alpha)
    return excluded, not plain[0] <= true <= plain[1], width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    print(
        "| world | floor | lift excludes the truth | plain means do | width at the end |\n|---|---|---|---|---|"
    )
    for name, world in worlds().items():
        for floor in (0.01, 0.05):
            found = simulate(world, floor, range(runs))
            counts = f"{shown(found.excluded, runs)} | {shown(found.pooled, runs)}"
            print(f"| {name} | {floor:.0%} | {counts} | {found.width:.3f} |", flush=True)
    for name in ("two, features decide", "three, features decide"):
        for skew in (0.0, 0.5):
            found = simulate(worlds()[name], 0.05, range(runs), Users(skew=skew))
            counts = f"{shown(found.excluded, runs)} | {shown(found.pooled, runs)}"
            print(f"| {name}, users k^-{skew:g} | 5% | {counts} | {found.width:.3f} |", flush=True)


if __name__ == "__main__":
    main()
