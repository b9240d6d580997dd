"""A bandit that moves its shares each second: what it costs to count ten seconds as one moment.

`python -m benchmarks.fast_bandit [--runs 100]` prints the table of docs/benchmarks_statistics.md. Two identical
variants get 50 requests a second under Thompson sampling, from the first second on. The difference is weighted by the
shares of each second, or, as the gateway does, by their mean over ten seconds, and looked at every ten seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.false_alarms import shown
from policies.allocation.bandit import Bandit, Objective, refresh
from policies.allocation.model import Allocation, Learned
from policies.sequential.design_based import Period, Periods
from policies.sequential.metric_comparison import MetricComparison, compare_weighted
from policies.types import RewardSums

SECONDS, PER_SECOND, WIDTH = 300, 50, 10
VARIANTS = ("a", "b")

LEVELS: Mapping[str, Callable[[int], float]] = {
    "constant, 30 %": lambda second: 0.3,
    "20 to 60 % in 5 minutes": lambda second: 0.2 + 0.4 * second / SECONDS,
    "20 to 60 % in 30 seconds": lambda second: 0.2 + 0.4 * min(second / 30, 1),
    "20 %, after 5 seconds 60 %": lambda second: 0.2 if second < 5 else 0.6,
    "10 to 70 %, a wave of 20 seconds": lambda second: 0.4 + 0.3 * float(np.sin(np.pi * second / 10)),
}

Second = tuple[Allocation, Mapping[tuple[str, str], RewardSums]]


def served(level: Callable[[int], float], seed: int) -> list[Second]:
    """The allocation and the rewards of each second."""
    rng, plan = np.random.default_rng([9, seed]), Bandit(VARIANTS, (Objective("m"),), floor=0.01)
    allocation, sums = refresh(plan, Learned())[0], {(v, "m"): RewardSums() for v in VARIANTS}
    found: list[Second] = []
    for second in range(SECONDS):
        chosen = (rng.random(PER_SECOND) < allocation.probability("b")).astype(int)
        good = rng.random(PER_SECOND) < level(second)
        new = {}
        for k, variant in enumerate(VARIANTS):
            total = float(good[chosen == k].sum())
            new[variant, "m"] = RewardSums(float((chosen == k).sum()), total, total)
        found.append((allocation, new))
        sums = {key: sums[key] + new[key] for key in sums}
        allocation = refresh(plan, Learned(sums=sums, previous=allocation))[0]
    return found


def compared(seconds: Sequence[Second], width: int) -> MetricComparison:
    """Both variants, with ``width`` seconds as one moment."""
    moments = [seconds[start : start + width] for start in range(0, len(seconds), width)]
    each = [
        Period(
            {v: float(np.mean([a.probability(v) for a, _ in moment])) for v in VARIANTS},
            {(v, "m"): sum((new[v, "m"] for _, new in moment), RewardSums()) for v in VARIANTS},
        )
        for moment in moments
    ]
    return compare_weighted(*Periods(each).weighted("m", *VARIANTS), ratio=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    print("| level of both | by the second | by ten seconds | apart: median, greatest | half-width |")
    print("|---|---|---|---|---|")
    for name, level in LEVELS.items():
        wrong, apart, half = [0, 0], [], []
        for seed in range(runs):
            seconds = served(level, seed)
            looks = [seconds[: n + WIDTH] for n in range(0, SECONDS, WIDTH)]
            for k, width in enumerate((1, WIDTH)):
                ends = [compared(look, width).interval(0.05, 1.0) for look in looks]
                wrong[k] += any(end is not None and not end[0] <= 0 <= end[1] for end in ends)
            exact, mean = (compared(seconds, width) for width in (1, WIDTH))
            apart.append(abs(exact.candidate - exact.baseline - mean.candidate + mean.baseline))
            interval = exact.interval(0.05, 1.0)
            half += [] if interval is None else [(interval[1] - interval[0]) / 2]
        cells = [*(shown(n, runs) for n in wrong), f"{np.median(apart):.4f}, {max(apart):.4f}"]
        print(f"| {name} | {' | '.join(cells)} | {np.median(half):.3f} |", flush=True)


if __name__ == "__main__":
    main()
