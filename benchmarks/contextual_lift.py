"""Variants that a policy with features serves to different requests: how often does their lift exclude the truth?

`python -m benchmarks.contextual_lift [--runs 200]` prints the table of docs/benchmarks_statistics.md. Requests are
drawn with the shares of `policies.contextual.bandit.Ensemble`, values weighted as `gateway.state.units` counts them,
and the last variant compared with the second last as the report does, after each hundredth of a run. The truth is the
mean difference over all requests so far.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.false_alarms import shown
from policies.allocate import allocate
from policies.contextual.bandit import Contextual, ensemble
from policies.contextual.regression import LinearSums
from policies.sequential.design_based import inverse_weighted
from policies.sequential.metric_comparison import compare_weighted
from policies.sequential.two_sample import RateMartingale, difference_interval
from policies.simulation.worlds_contextual import ContextWorld, standard
from policies.types import PairSums

LOOKS = 100
PAIRS_OF = {2: 1, 3: 3}
"""Pairs that share the error rate, by number of variants."""


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


def simulate(world: ContextWorld, floor: float, seeds: Iterable[int]) -> Found:
    """One run of ``world.requests`` requests for each of ``seeds``."""
    result, runs = Found(), 0
    plan = Contextual(world.variants, "good", world.features, floor=floor)
    for seed in seeds:
        runs += 1
        excluded, pooled, width = _run(world, plan, np.random.default_rng([7, seed]))
        result.excluded, result.pooled = result.excluded + excluded, result.pooled + pooled
        result.width += width
    result.width /= max(runs, 1)
    return result


def _run(world: ContextWorld, plan: Contextual, rng: np.random.Generator) -> tuple[bool, bool, float]:
    size, ends = world.requests // LOOKS, plan.variants[-2:]
    learned = {name: LinearSums.empty(plan.width) for name in plan.variants}
    sums = {name: PairSums() for name in ends}
    seen = {name: np.zeros(2) for name in ends}
    truth, true, excluded, width = 0.0, 0.0, False, 0.0
    alpha = 0.05 / PAIRS_OF[len(plan.variants)]
    shares = np.tile(allocate(plan).probabilities, (size, 1))
    for look in range(LOOKS):
        rows = world.rows(rng, size, look / LOOKS)
        if look:
            drawn = ensemble(plan, learned, rng)
            shares = np.asarray([drawn.shares(row) for row in rows.x.tolist()])
        chosen = (rng.random(size)[:, None] >= np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1)
        y = world.rewards(rng, rows.means[np.arange(size), chosen])
        for k, name in enumerate(plan.variants):
            mine = chosen == k
            if mine.any():
                learned[name] = learned[name] + LinearSums.of(rows.x[mine], y[mine])
            if name in ends:
                w = 1 / shares[mine, k]
                sums[name] = sums[name] + PairSums.of(w * y[mine], w)
                seen[name] += y[mine].sum(), mine.sum()
        truth += (rows.means[:, -1] - rows.means[:, -2]).mean()
        true = truth / (look + 1)
        interval = compare_weighted(*(inverse_weighted(sums[v]) for v in ends), ratio=False).interval(
            alpha, 1.0
        )
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


if __name__ == "__main__":
    main()
