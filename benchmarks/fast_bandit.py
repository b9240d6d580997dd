"""A bandit that moves its shares: how its seconds are read, and the hours of an old record folded, as moments.

`python -m benchmarks.fast_bandit [--runs 100] [--only seconds|rates|hours]` prints the tables of
docs/benchmarks_statistics.md. Two identical variants under Thompson sampling from the first request on.

*Seconds*: 50 requests each second. The difference is weighted by the shares of each second, as the gateway reads them
(`gateway.state.folding.read_under`), or by their mean over ten seconds, and looked at every ten seconds; next to it,
the difference within matched moments, as of a guardrail. *Rates*: what those moments keep. *Hours*: 100 requests each
minute for two days, looked at once at the end, weighted by the shares of each minute, by their mean over each hour,
and as `gateway.state.folding.merged_epochs` folds minutes into hours.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.false_alarms import shown
from gateway.ingest.comparable import periods
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.state.base import Counts
from gateway.state.folding import merged_epochs, read_under, share_steps
from gateway.state.tally import add_counts
from policies.allocation.bandit import Bandit, Objective, refresh
from policies.allocation.model import Allocation, Learned
from policies.sequential.design_based import Period, Periods
from policies.sequential.metric_comparison import MetricComparison, compare_weighted, measure
from policies.sequential.stratified import Stratum, stratified
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


def as_read(seconds: Sequence[Second], requests: int = PER_SECOND) -> list[RewardedBucket]:
    """Seconds, each with an epoch of its own, as the gateway reads them from the store."""
    cells = [
        (n // WIDTH * WIDTH, n, v, new[v, "m"].count, requests * allocation.probability(v), new[v, "m"])
        for n, (allocation, new) in enumerate(seconds)
        for v in VARIANTS
    ]
    under = read_under("alike", [cell[:5] for cell in cells], ())
    found: dict[tuple[int, int, str], RewardedBucket] = {}
    for start, epoch, v, assigned, expected, sums in cells:
        key = start, under[start, epoch], v
        bucket = found.setdefault(key, RewardedBucket(start, v, key[1], Counts(), {}))
        add_counts(bucket.counts, Counts(assigned=int(assigned), expected=expected))
        found[key] = replace(
            bucket, rewards={"m": bucket.rewards.get("m", Rewarded()) + Rewarded(sums, sums)}
        )
    return list(found.values())


def matched(moments: Sequence[Mapping[str, RewardSums]]) -> MetricComparison:
    """Both variants as a guardrail on a fraction compares them, within each moment."""
    strata = ([Stratum(rewards={"m": moment.get(v, RewardSums())}) for v in VARIANTS] for moment in moments)
    pair = stratified((b, c) for b, c in strata).evidence({"m": "boolean"}, 0.0)
    return measure("m", *pair, ratio=False)


def by_moment(buckets: Sequence[RewardedBucket]) -> list[Mapping[str, RewardSums]]:
    """What each variant earned in each moment."""
    found: dict[tuple[float, int], dict[str, RewardSums]] = defaultdict(dict)
    for bucket in buckets:
        found[bucket.start, bucket.epoch][bucket.variant] = bucket.rewards["m"].observations
    return list(found.values())


def by_ten(seconds: Sequence[Second]) -> list[Mapping[str, RewardSums]]:
    """What each variant earned in each ten seconds."""
    return [
        {v: sum((new[v, "m"] for _, new in ten), RewardSums()) for v in VARIANTS}
        for ten in in_steps_of(seconds, WIDTH)
    ]


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
    print(
        "| level of both | by the second | as read | by ten seconds | half-width as read | moments "
        "| matched, as read | matched by ten seconds |\n|---|---|---|---|---|---|---|---|"
    )
    for name, level in LEVELS.items():
        wrong, half, number = [0] * 5, [], []
        for seed in range(runs):
            seconds = served(level, seed)
            false = [False] * 5
            for end in range(WIDTH, SECONDS + 1, WIDTH):
                look = seconds[:end]
                read = as_read(look)
                sums = by_ten(look)
                comparisons = [
                    compared(in_steps_of(look, 1)),
                    compare_weighted(*periods(read).weighted("m", *VARIANTS), ratio=False),
                    compared(in_steps_of(look, WIDTH)),
                    matched(by_moment(read)),
                    matched(sums),
                ]
                ends = [one.interval(0.05, 1.0) for one in comparisons]
                false = [
                    was or (e is not None and not e[0] <= 0 <= e[1])
                    for was, e in zip(false, ends, strict=True)
                ]
            wrong = [n + one for n, one in zip(wrong, false, strict=True)]
            number.append(len(by_moment(read)))
            half += [] if ends[1] is None else [(ends[1][1] - ends[1][0]) / 2]
        cells = [shown(n, runs) for n in wrong]
        middle = f"{np.median(half):.3f} | {np.median(number):.0f}"
        print(f"| {name} | {' | '.join([*cells[:3], middle, *cells[3:]])} |", flush=True)


def print_rates(runs: int) -> None:
    """The table of what matched moments keep."""
    print("| requests each second | kept, as read | kept, by ten seconds | ratio |\n|---|---|---|---|")
    for rate in (1, 2, 5, 50):
        kept = [0.0, 0.0]
        for seed in range(runs):
            seconds = served(lambda second: 0.3, seed, 600, rate)
            for k, moments in enumerate((by_moment(as_read(seconds, rate)), by_ten(seconds))):
                kept[k] += sum(min(moment[v].count for v in VARIANTS) for moment in moments)
        each = [n / runs for n in kept]
        print(f"| {rate} | {each[0]:.0f} | {each[1]:.0f} | {each[0] / each[1]:.0%} |", flush=True)


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
    parser.add_argument("--only", choices=("seconds", "rates", "hours"))
    given = parser.parse_args()
    for name, table in (("seconds", print_seconds), ("rates", print_rates), ("hours", print_hours)):
        if given.only in (None, name):
            table(given.runs)


if __name__ == "__main__":
    main()
