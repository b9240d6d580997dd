"""The lift of identical variants on a sticky canary: how often does its interval exclude zero?

`python -m benchmarks.sticky_stages [--runs 200] [--only stages|missing|failing|young]` prints the tables of
docs/benchmarks_statistics.md. Every reward is counted by `gateway.state.units.Counting`, read by
`gateway.ingest.evidence`, and compared by `gateway.control.reports.lift`, as in production, at 20 looks in 10,000
requests. *Pooled*: the same record with the units of each epoch as new ones, and with missing values as independent
ones, each in proportion to how many reported values make a user's observation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from benchmarks.false_alarms import shown
from benchmarks.sticky_route import Route, whole
from gateway.config.service import MetricConfig
from gateway.control.reports.lift import Comparisons
from gateway.control.reports.observed import Observed, newest, of_newest
from gateway.state.base import Counts
from gateway.state.units import with_sums

Floats = npt.NDArray[np.float64]

PERIODS, REQUESTS = 20, 500
VARIANTS = ("old", "new")


@dataclass(frozen=True, slots=True)
class World:
    """``skew``: requests of the k-th busiest of ``users`` are in proportion to k^-skew; ``icc``: correlation of the
    rewards of one; ``level``: the mean of both variants at first, and ``trend`` how many times it grows;
    ``silent``: the part of the requests of the busiest user of all, who is never rewarded; ``failing``: the part of the
    users whose requests all fail, which counts as the worst value: the metric is minimized; ``mended``: the part of the
    run after which none fail; ``restart``: that at which a new leader begins, who knows the users from then on."""

    users: int = 500
    skew: float = 0.5
    icc: float = 0.3
    level: float = 0.2
    trend: float = 1.0
    stages: tuple[float, ...] = (0.5,)
    missing: str = "ignore"
    silent: float = 0.0
    failing: float = 0.0
    mended: float = 1.0
    restart: float = 0.0

    @property
    def activity(self) -> Floats:
        """The part of each user in the requests."""
        weight = np.arange(1, self.users + 1) ** -self.skew
        return np.append((1 - self.silent) * weight / weight.sum(), self.silent)


Interval = tuple[float, float]
Look = tuple[Interval | None, Interval | None]
"""The interval of the lift, and that of pooled epochs and independent missing values."""


def looks(world: World, seed: int) -> Iterator[Look]:
    """One for each of the periods."""
    rng = np.random.default_rng([5, seed])
    points, places = rng.random(world.users + 1), rng.random(world.users + 1)
    goal = "minimize" if world.failing else "maximize"
    metric = MetricConfig.model_validate(
        {"type": "boolean", "goal": goal, "missing": world.missing, "window": "10s"}
    )
    broken = rng.random(world.users + 1) < world.failing if world.failing else np.zeros(world.users + 1, bool)
    route, weight = Route(metric), 1 / world.icc - 1
    for period in range(PERIODS):
        who = rng.choice(world.users + 1, REQUESTS, p=world.activity)
        mean = world.level * (1 + (world.trend - 1) * period / PERIODS)
        good = rng.random(REQUESTS) < betaincinv(mean * weight, (1 - mean) * weight, places[who])
        stage = period * len(world.stages) // PERIODS
        good &= who < world.users
        if period == round(world.restart * PERIODS):
            route.outcomes.clear()
        if period == round(world.mended * PERIODS):
            broken[:] = False
        share = world.stages[stage]
        variants = np.where(points[who] < share, "new", "old").tolist()
        reported = good | (world.missing == "ignore")
        requests = (
            (unit, variant, fails, float(value) if told and not fails else None)
            for unit, variant, fails, value, told in zip(
                who.tolist(), variants, broken[who].tolist(), good.tolist(), reported.tolist(), strict=True
            )
        )
        route.serve(stage, {"old": 1 - share, "new": share}, with_sums(f"e{stage}"), requests)
        yield compared(route)


def compared(route: Route) -> Look:
    """The lift as it is now."""
    buckets = route.buckets()
    units = route.outcomes.get(with_sums(f"e{newest(buckets)[0].epoch}"))
    pooled = Observed({v: Counts() for v in VARIANTS}, whole(buckets), buckets, sticky=True)
    independent = route.metric.model_copy(update={"missing": "ignore"})
    return _interval(route.metric, of_newest(buckets, units)), _interval(independent, pooled)


def _interval(metric: MetricConfig, observed: Observed) -> Interval | None:
    one = Comparisons(VARIANTS, {"good": metric}, observed).difference("good", "new", "old")
    low, high = (one["interval"] if one is not None else None) or (None, None)
    return None if low is None or high is None else (low, high)


@dataclass(slots=True)
class Result:
    """Of many runs."""

    excluded: int = 0
    """Runs in which the interval ever excluded zero."""
    widths: list[float] = field(default_factory=list)
    """At the end, where there was one."""

    def add(self, intervals: Sequence[Interval | None]) -> None:
        self.excluded += any(i is not None and not i[0] <= 0 <= i[1] for i in intervals)
        if intervals[-1] is not None:
            self.widths.append(intervals[-1][1] - intervals[-1][0])


def simulate(world: World, seeds: Iterable[int]) -> tuple[Result, Result]:
    """The lift, and the pooled one."""
    results = Result(), Result()
    for seed in seeds:
        for result, intervals in zip(results, zip(*looks(world, seed), strict=True), strict=True):
            result.add(intervals)
    return results


FOUR = (0.1, 0.2, 0.35, 0.5)
TEN = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
STAGES = {
    f"{len(stages)}, {skew:g}, {icc:g}, {'constant' if trend == 1 else 'triples'}": World(
        skew=skew, icc=icc, trend=trend, stages=stages
    )
    for stages in (FOUR, TEN)
    for skew, icc, trend in (
        (0.0, 0.3, 1.0),
        (0.0, 0.7, 1.0),
        (1.0, 0.3, 1.0),
        (1.0, 0.7, 1.0),
        (1.0, 0.3, 3.0),
    )
}
MISSING = {
    f"{level:.0%}, {skew:g}, {icc:g}, {silent:.0%}, {share:.0%}": World(
        skew=skew, icc=icc, level=level, stages=(share,), missing="zero", silent=silent
    )
    for level, skew, icc, silent, share in (
        (0.2, 0.0, 0.3, 0.0, 0.5),
        (0.2, 0.5, 0.3, 0.0, 0.5),
        (0.2, 0.7, 0.3, 0.0, 0.5),
        (0.2, 0.7, 0.3, 0.0, 0.2),
        (0.2, 1.0, 0.3, 0.0, 0.5),
        (0.05, 0.7, 0.1, 0.0, 0.5),
        (0.05, 0.5, 0.02, 0.0, 0.5),
        (0.2, 0.0, 0.02, 0.1, 0.5),
    )
}
FAILING = {
    f"{failing:.0%}, {level:.0%}, {skew:g}, {icc:g}, {share:.0%}": World(
        skew=skew, icc=icc, level=level, stages=(share,), missing="zero", failing=failing
    )
    for failing, level, skew, icc, share in (
        (0.1, 0.02, 0.0, 0.1, 0.5),
        (0.1, 0.02, 0.5, 0.1, 0.5),
        (0.1, 0.02, 0.5, 0.1, 0.2),
        (0.05, 0.01, 0.3, 0.02, 0.5),
    )
}
YOUNG = {
    f"{failing:.0%}, {users}, {skew:g}, {'mended' if mended < 1 else 'go on'}, {restart:.0%}": World(
        users=users,
        skew=skew,
        icc=0.1,
        level=0.02,
        missing="zero",
        failing=failing,
        mended=mended,
        restart=restart,
    )
    for failing, users, skew, mended, restart in (
        (0.1, 200, 0.0, 0.4, 0.5),
        (0.1, 200, 0.0, 0.8, 0.85),
        (0.1, 500, 0.5, 0.8, 0.85),
        (0.1, 200, 0.0, 1.0, 0.5),
        (0.1, 200, 0.0, 1.0, 0.85),
        (0.1, 500, 0.5, 1.0, 0.85),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--only", choices=("stages", "missing", "failing", "young"))
    given = parser.parse_args()
    tables = {
        "stages": ("| stages, skew, icc, level |", STAGES),
        "missing": ("| rewarded, skew, icc, silent, share |", MISSING),
        "failing": ("| failing, complaints, skew, icc, share |", FAILING),
        "young": ("| failing, users, skew, failures, new leader at |", YOUNG),
    }
    for name, (head, worlds) in tables.items():
        if given.only in (None, name):
            print(head + " lift excludes zero | pooled does | width (pooled) |\n|---|---|---|---|")
            for label, world in worlds.items():
                now, pooled = simulate(world, range(given.runs))
                widths = (f"{np.median(r.widths):.3f}" if r.widths else "–" for r in (now, pooled))
                told = f"{shown(now.excluded, given.runs)} | {shown(pooled.excluded, given.runs)}"
                print(f"| {label} | {told} | {next(widths)} ({next(widths)}) |", flush=True)


if __name__ == "__main__":
    main()
