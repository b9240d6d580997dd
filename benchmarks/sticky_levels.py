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
from benchmarks.sticky_route import Request, Route, whole
from gateway.config.service import MetricConfig
from gateway.ingest.comparable import periods
from gateway.ingest.evidence import observations
from gateway.loops.unit_evidence import UnitEvidence
from policies.allocation.bandit import Bandit, Objective, Stop, refresh
from policies.allocation.model import Allocation, Learned
from policies.rollout.guardrails import judge
from policies.rollout.verdicts import Guardrail
from policies.sequential.metric_comparison import compare_weighted

Floats = npt.NDArray[np.float64]
Level = Callable[[float], float]
"""From the time in [0, 1] to the mean of all variants."""

PERIODS, REQUESTS, LOOK_EVERY = 60, 250, 3


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


Look = tuple[Learned, UnitEvidence]
"""What the bandit has learned, and what its guardrails see."""


def looks(users: Users, level: Level, asked: Bandit, seed: int, gain: float = 0.0) -> Iterator[Look]:
    """One at each look; the last variant is better by ``gain``."""
    rng = np.random.default_rng([3, seed])
    points, places = rng.random(users.number), rng.random(users.number)
    metric = MetricConfig.model_validate({"type": "boolean", "missing": users.missing, "window": "10s"})
    route, allocation, weight = Route(metric), refresh(asked, Learned())[0], 1 / users.icc - 1
    for period in range(PERIODS):
        who = rng.choice(users.number, REQUESTS, p=users.activity)
        on_last = [
            allocation.variants[allocation.pick(p)] == asked.variants[-1] for p in points[who].tolist()
        ]
        means = level(period / PERIODS) + gain * np.asarray(on_last)
        good = rng.random(REQUESTS) < betaincinv(means * weight, (1 - means) * weight, places[who])
        route.serve(period, allocation.as_dict(), "all", _requests(users, allocation, who, points, good))
        if (period + 1) % LOOK_EVERY == 0:
            buckets = route.buckets()
            learned = Learned(
                sums=observations(whole(buckets)), previous=allocation, periods=periods(buckets)
            )
            yield learned, UnitEvidence.of(buckets, route.outcomes["all"], {})
            allocation = refresh(asked, learned)[0]


def _requests(
    users: Users,
    allocation: Allocation,
    who: npt.NDArray[np.int64],
    points: Floats,
    good: npt.NDArray[np.bool_],
) -> Iterator[Request]:
    """Those that are not good failed, or are missing."""
    zero = users.missing == "zero"
    for unit, value in zip(who.tolist(), good.tolist(), strict=True):
        variant = allocation.variants[allocation.pick(points[unit])]
        yield unit, variant, not (value or zero), None if zero and not value else float(value)


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
