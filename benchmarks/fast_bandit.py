"""A bandit that moves its shares: what it costs to count ten seconds, or an hour of an old record, as one moment.

`python -m benchmarks.fast_bandit [--runs 100] [--only seconds|hours]` prints the tables of
docs/benchmarks_statistics.md. Two identical variants under Thompson sampling from the first request on.

*Seconds*: 50 requests each second. The difference is weighted by the shares of each second, or, as the gateway does, by
their mean over ten seconds, and looked at every ten seconds. *Hours*: 100 requests each minute for two days, looked at
once at the end, weighted by the shares of each minute, by their mean over each hour, and as
`gateway.state.folding.merged_epochs` folds minutes into hours.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.false_alarms import shown
from gateway.state.folding import merged_epochs, share_steps
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


def served(
    level: Callable[[int], float], seed: int, steps: int = SECONDS, requests: int = PER_SECOND
) -> list[Second]:
    """The allocation and the rewards of each step; the shares are refreshed at each of the first 600."""
    rng, plan = np.random.default_rng([9, seed]), Bandit(VARIANTS, (Objective("m"),), floor=0.01)
    allocation, sums = refresh(plan, Learned())[0], {(v, "m"): RewardSums() for v in VARIANTS}
    found: list[Second] = []
    for step in range(steps):
        chosen = (rng.random(requests) < allocation.probability("b")).astype(int)
        good = rng.random(requests) < level(step)
        new = {}
        for k, variant in enumerate(VARIANTS):
            total = float(good[chosen == k].sum())
            new[variant, "m"] = RewardSums(float((chosen == k).sum()), total, total)
        found.append((allocation, new))
        sums = {key: sums[key] + new[key] for key in sums}
        if step < 600 or step % REFRESHED_EVERY == 0:
            allocation = refresh(plan, Learned(sums=sums, previous=allocation))[0]
    return found


def in_steps_of(steps: Sequence[Second], width: int) -> list[Sequence[Second]]:
    """Moments of ``width`` steps."""
    return [steps[start : start + width] for start in range(0, len(steps), width)]


def folded(steps: Sequence[Second]) -> list[Sequence[Second]]:
    """Minutes as the store folds them into hours, each with an epoch of its own."""
    moments: dict[tuple[int, int], list[Second]] = defaultdict(list)
    for hour, minutes in enumerate(in_steps_of(steps, 60)):
        cells = [
            (epoch, v, new[v, "m"].count, PER_MINUTE * allocation.probability(v))
            for epoch, (allocation, new) in enumerate(minutes)
            for v in VARIANTS
        ]
        under = merged_epochs(range(60), before=-1, after=60, steps=share_steps(cells))
        for epoch, minute in enumerate(minutes):
            moments[hour, under[epoch]].append(minute)
    return list(moments.values())


def compared(moments: Sequence[Sequence[Second]]) -> MetricComparison:
    """Both variants, by the mean shares of each moment."""
    each = [
        Period(
            {v: float(np.mean([a.probability(v) for a, _ in moment])) for v in VARIANTS},
            {(v, "m"): sum((new[v, "m"] for _, new in moment), RewardSums()) for v in VARIANTS},
        )
        for moment in moments
    ]
    return compare_weighted(*Periods(each).weighted("m", *VARIANTS), ratio=False)


HOURS, PER_MINUTE, REFRESHED_EVERY = 48, 100, 10
WITHIN_HOURS: Mapping[str, Callable[[int], float]] = {
    "constant, 30 %": lambda minute: 0.3,
    "20 to 40 % in the first hour": lambda minute: 0.2 + 0.2 * min(minute / 60, 1),
    "20 to 40 % in each hour": lambda minute: 0.2 + 0.2 * (minute % 60) / 60,
    "20 %, after 10 minutes 40 %": lambda minute: 0.2 if minute < 10 else 0.4,
}


def print_seconds(runs: int) -> None:
    """The table of ten seconds as one moment."""
    print("| level of both | by the second | by ten seconds | apart: median, greatest | half-width |")
    print("|---|---|---|---|---|")
    for name, level in LEVELS.items():
        wrong, apart, half = [0, 0], [], []
        for seed in range(runs):
            seconds = served(level, seed)
            looks = [seconds[: n + WIDTH] for n in range(0, SECONDS, WIDTH)]
            for k, width in enumerate((1, WIDTH)):
                ends = [compared(in_steps_of(look, width)).interval(0.05, 1.0) for look in looks]
                wrong[k] += any(end is not None and not end[0] <= 0 <= end[1] for end in ends)
            exact, mean = (compared(in_steps_of(seconds, width)) for width in (1, WIDTH))
            apart.append(abs(exact.candidate - exact.baseline - mean.candidate + mean.baseline))
            interval = exact.interval(0.05, 1.0)
            half += [] if interval is None else [(interval[1] - interval[0]) / 2]
        cells = [*(shown(n, runs) for n in wrong), f"{np.median(apart):.4f}, {max(apart):.4f}"]
        print(f"| {name} | {' | '.join(cells)} | {np.median(half):.3f} |", flush=True)


def print_hours(runs: int) -> None:
    """The table of an hour as one moment."""
    print(
        "| level of both | by the minute | by the hour | as it is folded | moments |\n|---|---|---|---|---|"
    )
    for name, level in WITHIN_HOURS.items():
        wrong, number = [0, 0, 0], []
        for seed in range(runs):
            minutes = served(level, seed, 60 * HOURS, PER_MINUTE)
            ways = [in_steps_of(minutes, 1), in_steps_of(minutes, 60), folded(minutes)]
            number.append(len(ways[2]))
            for k, moments in enumerate(ways):
                end = compared(moments).interval(0.05, 1.0)
                wrong[k] += end is not None and not end[0] <= 0 <= end[1]
        cells = " | ".join(shown(n, runs) for n in wrong)
        print(f"| {name} | {cells} | {np.median(number):.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--only", choices=("seconds", "hours"))
    given = parser.parse_args()
    for name, table in (("seconds", print_seconds), ("hours", print_hours)):
        if given.only in (None, name):
            table(given.runs)


if __name__ == "__main__":
    main()
