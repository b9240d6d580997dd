"""A bandit with sticky users among identical variants whose common level moves: how often does it name a winner?

`python -m benchmarks.sticky_levels [--runs 40]` prints the table of docs/benchmarks_statistics.md. Every reward is
counted by `gateway.state.units.Counting`, read by `gateway.ingest.evidence`, and decided on by
`policies.allocation.bandit.refresh` with the default stop rule, as in production. A run is 60 periods of 250 requests
of users who differ in activity; rewards of one user are correlated, and a user moves when the ranges do.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from benchmarks.false_alarms import shown
from gateway.ingest.comparable import periods
from gateway.ingest.evidence import Rewarded, RewardedBucket, observations, of_buckets
from gateway.loops.unit_evidence import UnitEvidence
from gateway.record.events import Reward
from gateway.state.base import BUCKET_S, Bucket, Counts
from gateway.state.units import Counting
from policies.allocation.bandit import Bandit, Objective, Stop, refresh
from policies.allocation.model import Allocation, Learned
from policies.rollout.guardrails import judge
from policies.rollout.verdicts import Guardrail
from policies.sequential.metric_comparison import compare_weighted
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.types import RewardSums

Floats = npt.NDArray[np.float64]
Level = Callable[[float], float]
"""From the time in [0, 1] to the mean of all variants."""

PERIODS, REQUESTS, LOOK_EVERY = 60, 250, 3


@dataclass(frozen=True, slots=True)
class Metric:
    """As a document declares it."""

    type: str = "boolean"
    goal: str = "maximize"
    window: float = 600.0
    missing: str = "ignore"


@dataclass(frozen=True, slots=True)
class Users:
    """``skew``: requests of the k-th busiest are in proportion to k^-skew; ``icc``: correlation of one's rewards;
    ``missing``: with "zero", only rewards of 1 are reported, and no request fails."""

    number: int = 1000
    skew: float = 0.5
    icc: float = 0.1
    missing: str = "ignore"

    @property
    def activity(self) -> Floats:
        weight = np.arange(1, self.number + 1) ** -self.skew
        return np.asarray(weight / weight.sum())


LEVELS: Mapping[str, Level] = {
    "constant, 20 %": lambda time: 0.2,
    "20 to 30 %": lambda time: 0.2 + 0.1 * time,
    "20 to 40 %": lambda time: 0.2 + 0.2 * time,
    "20 to 60 %": lambda time: 0.2 + 0.4 * time,
    "99 %, at last 50 %": lambda time: 0.99 if time < 0.66 else 0.5,
}


def plan(variants: int) -> Bandit:
    """The bandit with the defaults of a document that asks for a stop rule."""
    names = tuple(f"v{n}" for n in range(1, variants + 1))
    return Bandit(names, (Objective("good"),), floor=0.01, stop=Stop())


@dataclass(slots=True)
class Route:
    """One route, as its store holds it."""

    missing: str = "ignore"
    counting: Counting = field(default_factory=lambda: Counting({}))
    decided: list[tuple[Allocation, Counter[str], Counter[str]]] = field(default_factory=list)
    """Of each period, the allocation, the requests and the failures."""
    outcomes: UnitOutcomes = field(default_factory=UnitOutcomes)

    def serve(
        self, allocation: Allocation, users: npt.NDArray[np.int64], points: Floats, good: Floats
    ) -> None:
        """Count the requests of one period, and the reward of each; those that are not good failed, or are missing."""
        epoch, assigned, failed = len(self.decided), Counter[str](), Counter[str]()
        facts = ("r", "", "", epoch, 0.0, 0, False, None, "", "", "all")
        for unit, value in zip(users.tolist(), good.tolist(), strict=True):
            k = allocation.pick(points[unit])
            variant = allocation.variants[k]
            assigned[variant] += 1
            fails = value == 0 and self.missing == "ignore"
            failed[variant] += fails
            self.outcomes.add([(unit, epoch * BUCKET_S, variant, fails, -1, allocation.probabilities[k])])
            if self.missing == "zero" and not value:
                continue
            one = Reward(b"", "good", value, 0.0, epoch * BUCKET_S, *facts)._replace(
                assigned=variant, served=variant, propensity=allocation.probabilities[k], unit=unit
            )
            self.counting.change(one, None, value, "")
        self.decided.append((allocation, assigned, failed))

    def buckets(self) -> list[RewardedBucket]:
        """What `gateway.ingest.evidence.over_time` reads from a store."""
        rewards: dict[tuple[int, str], dict[str, RewardSums]] = {}
        for key, sums in self.counting.cells.items():
            rewards.setdefault((key.epoch, key.variant), {})[key.metric] = sums.rounded
        found = []
        for epoch, (allocation, assigned, failed) in enumerate(self.decided):
            for variant, p in allocation.as_dict().items():
                counts = Counts(
                    assigned=assigned[variant], errors=failed[variant], expected=p * assigned.total()
                )
                sums_of = rewards.get((epoch, variant), {})
                found.append(Bucket(epoch * BUCKET_S, variant, epoch, counts, sums_of))
        return of_buckets(found, {"good": Metric(window=0.0, missing=self.missing)}, now=1e6)


Look = tuple[Learned, UnitEvidence]
"""What the bandit has learned, and what its guardrails see."""


def looks(users: Users, level: Level, asked: Bandit, seed: int, gain: float = 0.0) -> Iterator[Look]:
    """One at each look; the last variant is better by ``gain``."""
    rng = np.random.default_rng([3, seed])
    points, places = rng.random(users.number), rng.random(users.number)
    route, allocation, weight = Route(users.missing), refresh(asked, Learned())[0], 1 / users.icc - 1
    for period in range(PERIODS):
        who = rng.choice(users.number, REQUESTS, p=users.activity)
        on_last = [
            allocation.variants[allocation.pick(p)] == asked.variants[-1] for p in points[who].tolist()
        ]
        means = level(period / PERIODS) + gain * np.asarray(on_last)
        good = rng.random(REQUESTS) < betaincinv(means * weight, (1 - means) * weight, places[who])
        route.serve(allocation, who, points, good.astype(float))
        if (period + 1) % LOOK_EVERY == 0:
            buckets, whole = route.buckets(), dict[tuple[str, str], Rewarded]()
            for bucket in buckets:
                for metric, found in bucket.rewards.items():
                    key = bucket.variant, metric
                    whole[key] = whole.get(key, Rewarded()) + found
            learned = Learned(sums=observations(whole), previous=allocation, periods=periods(buckets))
            yield learned, UnitEvidence.of(buckets, route.outcomes, {})
            allocation = refresh(asked, learned)[0]


RAILS = Guardrail("good", max_decrease=0.0), Guardrail("error_rate", max_increase=0.0)


def failing(asked: Bandit, seen: UnitEvidence) -> set[str]:
    """The metrics of the guardrails, no decrease and no more errors, that fail for the last variant, each at 5 %."""
    pair = seen.pair(asked.variants[0], asked.variants[-1], {"good": "boolean"}, 1.0, {})
    verdicts = (judge(rail, *pair, 0.05, forecast=False) for rail in RAILS)
    return {verdict.metric for verdict in verdicts if verdict.verdict == "fail"}


@dataclass(slots=True)
class Result:
    """Of many runs."""

    named: int = 0
    """Runs in which a winner was named."""
    excluded: int = 0
    """Runs in which the 95 % interval of the lift of the last variant ever excluded the truth."""
    failed: Counter[str] = field(default_factory=Counter)
    """Runs in which a guardrail ever failed, by metric."""
    widths: list[float] = field(default_factory=list)
    """Of these intervals at the end."""


def simulate(users: Users, level: Level, asked: Bandit, seeds: Iterable[int], gain: float = 0.0) -> Result:
    """Among equals, or with the last variant better by ``gain``; one run for each of ``seeds``."""
    result, pairs = Result(), len(asked.variants) * (len(asked.variants) - 1) / 2
    for seed in seeds:
        named = excluded = False
        interval, failed = None, set[str]()
        for learned, seen in looks(users, level, asked, seed, gain):
            failed |= failing(asked, seen)
            named = named or refresh(asked, learned)[1].stopped is not None
            assert learned.periods is not None
            both = learned.periods.weighted("good", asked.variants[0], asked.variants[-1])
            interval = compare_weighted(*both, ratio=False).interval(0.05 / pairs, 1.0)
            excluded = excluded or (interval is not None and not interval[0] <= gain <= interval[1])
        result.named, result.excluded = result.named + named, result.excluded + excluded
        result.failed.update(failed)
        result.widths += [interval[1] - interval[0]] if interval is not None else []
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    runs = parser.parse_args().runs
    print("| variants | level of all | last better by | winner named | interval excludes the truth", end="")
    print(" | guardrail fails | that on errors | width |\n|---|---|---|---|---|---|---|---|")
    for variants in (2, 3):
        for name, level in LEVELS.items():
            _print(variants, name, level, 0.0, runs)
    _print(2, "constant, 20 %", LEVELS["constant, 20 %"], 0.15, runs)
    _print(2, "20 to 60 %", LEVELS["20 to 60 %"], 0.15, runs)
    _print(2, "constant, 20 %", LEVELS["constant, 20 %"], -0.08, runs)


def _print(variants: int, name: str, level: Level, gain: float, runs: int) -> None:
    found = simulate(Users(), level, plan(variants), range(runs), gain)
    counts = [
        shown(count, runs)
        for count in (found.named, found.excluded, *(found.failed[rail.metric] for rail in RAILS))
    ]
    width = f"{np.median(found.widths):.3f}" if found.widths else "–"
    print(f"| {variants} | {name} | {gain:.0%} | {' | '.join(counts)} | {width} |", flush=True)


if __name__ == "__main__":
    main()
