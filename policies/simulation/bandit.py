"""The same policy code against synthetic worlds, many times over: regret, time to settle and to detect,
false alarms, coverage.

A run is ``refreshes`` periods of equal numbers of requests. At the beginning of each the policy allocates
from what was reported by then, as the gateway's loop does; within one, requests are drawn from that
allocation. All repetitions advance together: chance is drawn for all of them in one call, and only
`allocate` runs once for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.allocate import Plan, allocate
from policies.allocation import bandit
from policies.allocation.bandit import Bandit
from policies.allocation.fixed_plans import Canary, Single, Split
from policies.allocation.model import Allocation, Learned
from policies.bayes.posterior import interval
from policies.bayes.prior import posteriors
from policies.sequential.design_based import Period, Periods
from policies.simulation import summary
from policies.simulation.clustered_users import ServedUsers
from policies.simulation.summary import Estimated, Plain, spread
from policies.simulation.worlds import World
from policies.types import Discounted, RewardSums

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Told (periods done, periods in all)."""

SETTLED = 0.9
"""The share of traffic on the best variant from which a policy has settled."""
LEFT = 0.1
"""The share below which a policy has left a variant."""


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of the curves."""

    requests: int
    regret: Estimated
    best_share: Estimated


@dataclass(frozen=True, slots=True)
class Report(Plain):
    """What happened in ``repetitions`` runs. Regret is in units of the metric, summed over all requests;
    times are in requests, infinite for never."""

    world: str
    requests: int
    repetitions: int
    seed: int | None
    regret: Estimated
    """Σ over requests of (mean of the best - mean of the assigned variant)."""
    even_regret: float
    """What an even split would have lost: the measure for ``regret``."""
    best_share: Estimated
    """The share of all requests that went to whichever variant was best at the time."""
    settled: Estimated
    """Share of runs that at some time gave the best variant SETTLED of the traffic."""
    time_to_settle: Estimated
    """Median over runs."""
    detected: Estimated | None
    """Share of runs that left the variant that turned bad; None where none did."""
    time_to_detect: Estimated | None
    """Median over runs, from the moment it turned bad."""
    stopped: Estimated | None
    """Share of runs in which the stop rule named a winner; None without one."""
    false_alarms: Estimated | None
    """Share of runs in which the first it named was not better than all others at that time."""
    coverage: Estimated | None
    """Share of 95 % intervals at the end that hold the true mean; None where means change or are poisoned."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Mean final allocation."""
    curve: tuple[Point, ...] = ()


def run(
    plan: Plan,
    world: World,
    *,
    repetitions: int = 100,
    refreshes: int = 100,
    seed: int | None = 0,
    progress: Progress | None = None,
) -> Report:
    """Runs ``plan`` in ``world`` ``repetitions`` times.

    ``seed`` None takes one from the system. Raises ValueError when the plan is about other variants, or
    after another metric type or goal, than the world.
    """
    _fits(plan, world)
    course = _Course(plan, world, repetitions, min(refreshes, world.requests), np.random.default_rng(seed))
    for period in range(course.periods):
        course.advance(period)
        if progress is not None:
            progress(period + 1, course.periods)
    return course.report(seed)


def _fits(plan: Plan, world: World) -> None:
    if isinstance(plan, Bandit):
        if len(plan.objectives) != 1:
            raise ValueError("a world has one metric: simulate each metric of a utility on its own")
        objective = plan.objectives[0]
        if (objective.model, objective.goal) != (world.model, world.goal):
            raise ValueError(
                f"the policy is after a {objective.model} metric to {objective.goal}, the world has a "
                f"{world.model} one to {world.goal}"
            )
    unknown = set(allocate(plan).variants) - set(world.variants)
    if unknown:
        raise ValueError(f"the world has no variant {min(unknown)!r}; it has {', '.join(world.variants)}")


class _Course:
    """R repetitions of T periods with K variants, side by side."""

    def __init__(
        self, plan: Plan, world: World, repetitions: int, periods: int, rng: np.random.Generator
    ) -> None:
        self.plan, self.world, self.rng = plan, world, rng
        self.repetitions, self.periods = repetitions, periods
        k = len(world.variants)
        self.ends = np.linspace(0, world.requests, periods + 1).round().astype(int)[1:]
        self.sizes = np.diff(self.ends, prepend=0)
        self.late = _delays(world.delay * periods)
        self.sums = np.zeros((repetitions, k, 3))
        self.faded = np.zeros((repetitions, k, 3))
        self.pending = np.zeros((len(self.late), repetitions, k, 3))
        self.pending_faded = np.zeros_like(self.pending)
        self.sent: deque[Array] = deque(maxlen=len(self.late))
        """Rewards of the last periods by delay, (L, R, K, 3) each; the newest first."""
        proves = isinstance(plan, Bandit) and plan.stop is not None and plan.stop.alpha is not None
        self.by_period = np.zeros((periods, repetitions, k, 3)) if proves else None
        """What was reported, by the period of its decision; None where no stop rule compares by it."""
        self.keep = _kept(plan, world.seconds / periods)
        self.shares = np.zeros((periods, repetitions, k))
        self.assigned = np.zeros((periods, repetitions, k), dtype=np.int64)
        self.named: list[str | None] = [None] * repetitions
        self.named_right = np.zeros(repetitions, dtype=bool)
        self.made: list[Allocation | None] = [None] * repetitions
        self.served = self._users()

    def _users(self) -> ServedUsers | None:
        world, users = self.world, self.world.users
        if users is None:
            return None
        half_life = self.plan.half_life if isinstance(self.plan, Bandit) else None
        span = None if half_life is None else half_life / world.seconds * self.periods
        shape = self.repetitions, len(world.variants)
        return ServedUsers(users, world.model, world.sd, shape, self.rng, span=span)

    def advance(self, period: int) -> None:
        t = (self.ends[period] - self.sizes[period]) / self.world.requests
        self._arrive(period)
        p = self._allocated(period, t)
        n = (
            self._serve_users(int(self.sizes[period]), period, t)
            if self.served is not None
            else self._drawn(p, period, t)
        )
        self.shares[period], self.assigned[period] = p, n

    def _drawn(self, p: Array, period: int, t: float) -> NDArray[np.int64]:
        """How many requests of this period went to each variant (R, K); their rewards are on their way."""
        n = self.rng.multinomial(self.sizes[period], p)
        self._send(self._rewards(n, t))
        return n

    def _serve_users(self, size: int, period: int, t: float) -> NDArray[np.int64]:
        """The same where sticky units send them."""
        assert self.served is not None
        made = [allocation for allocation in self.made if allocation is not None]
        means, draw = self.world.means_at(t), self.world.draw_each
        n, added, since = self.served.serve(made, self.world.variants, size, means, draw)
        self.pending[0] += added.sum(axis=1)
        self.pending_faded[0] += (added * self.keep ** (period - since)[..., None]).sum(axis=1)
        if self.by_period is not None:
            self.by_period[period] = self.served.values
        return n

    # Rewards --------------------------------------------------------------------------------------------
    def _arrive(self, period: int) -> None:
        """What is due is reported; everything grows older by a period."""
        if self.by_period is not None:
            for late, by_delay in enumerate(self.sent):
                self.by_period[period - 1 - late] += by_delay[late]
        self.sums += self.pending[0]
        self.faded = self.keep * self.faded + self.pending_faded[0]
        self.pending = np.concatenate([self.pending[1:], np.zeros_like(self.pending[:1])])
        self.pending_faded = np.concatenate([self.pending_faded[1:], np.zeros_like(self.pending[:1])])

    def _rewards(self, n: NDArray[np.int64], t: float) -> Array:
        """Sums of the rewards of one period by delay; (R, K, L, 3)."""
        reported = self.rng.binomial(n, self.world.reported)
        by_delay = self.rng.multinomial(reported, self.late)
        poison = self.world.poison
        if poison is None:
            return self.world.draw(self.rng, by_delay, self.world.means_at(t))
        struck = np.array([poison.share * (name == poison.variant) for name in self.world.variants])
        false = self.rng.binomial(by_delay, struck[:, None])
        true = self.world.draw(self.rng, by_delay - false, self.world.means_at(t))
        forged = np.stack([false, false * poison.value, false * poison.value**2], axis=-1)
        return np.asarray(true + forged)

    def _send(self, rewards: Array) -> None:
        by_delay = np.moveaxis(rewards, 2, 0)
        self.sent.appendleft(by_delay)
        self.pending += by_delay
        # By the time of the decision: what comes d periods late is d periods old already.
        age = self.keep ** np.arange(len(self.late))
        self.pending_faded += by_delay * age[:, None, None, None]

    # The policy -----------------------------------------------------------------------------------------
    def _allocated(self, period: int, t: float) -> Array:
        """The probabilities (R, K) of this period."""
        there = dict(zip(self.world.variants, self.world.present_at(t).tolist(), strict=True))
        plan = _without(self.plan, {name for name, present in there.items() if not present})
        if not isinstance(plan, Bandit):
            made = allocate(plan)
            self.made = [made] * self.repetitions
            return np.tile(self._in_order(made.as_dict()), (self.repetitions, 1))
        best = [v for v, gap in zip(self.world.variants, self.world.gap_at(t), strict=True) if gap <= 1e-12]
        winner = best[0] if len(best) == 1 else None
        return np.array([self._asked(plan, r, period, winner) for r in range(self.repetitions)])

    def _asked(self, plan: Bandit, r: int, period: int, winner: str | None) -> Array:
        # Only sticky units feel where the ranges lie, and so what was in force before.
        learned = self._learned(plan, r)
        if self.served is not None:
            learned = replace(learned, previous=self.made[r])
        standing = bandit.assess(plan, learned)
        if standing.believed is not None:
            learned = replace(learned, periods=self._periods(plan, r, period))
        made, standing = bandit.refresh(plan, learned, standing)
        self.made[r] = made
        if standing.stopped is not None and self.named[r] is None:
            self.named[r] = standing.stopped
            self.named_right[r] = standing.stopped == winner
        return self._in_order(made.as_dict())

    def _learned(self, plan: Bandit, r: int) -> Learned:
        metric = plan.objectives[0].metric
        if plan.half_life is None:
            rows = zip(self.world.variants, self.sums[r].tolist(), strict=True)
            return Learned(sums={(v, metric): RewardSums(*row) for v, row in rows})
        rows = zip(self.world.variants, self.faded[r].tolist(), strict=True)
        return Learned(discounted={(v, metric): Discounted(*row) for v, row in rows})

    def _periods(self, plan: Bandit, r: int, period: int) -> Periods:
        """One run's rewards so far by period of constant shares, as the gateway reads them from its record."""
        assert self.by_period is not None
        names, metric = self.world.variants, plan.objectives[0].metric
        found = []
        for shares, sums in zip(
            self.shares[:period, r].tolist(), self.by_period[:period, r].tolist(), strict=True
        ):
            rewards = {(v, metric): RewardSums(*row) for v, row in zip(names, sums, strict=True)}
            found.append(Period(dict(zip(names, shares, strict=True)), rewards))
        if self.served is not None and found:
            each = {(v, metric): self.served.unit_sums(r, k) for k, v in enumerate(names)}
            units = {key: one for key, one in each.items() if one is not None and one.values}
            found[0] = replace(found[0], units=units)
        return Periods(found)

    def _in_order(self, shares: Mapping[str, float]) -> Array:
        p = np.array([shares.get(name, 0.0) for name in self.world.variants])
        return np.asarray(p / p.sum())

    # What came of it ------------------------------------------------------------------------------------
    def report(self, seed: int | None) -> Report:
        starts = (self.ends - self.sizes) / self.world.requests
        gaps = np.array([self.world.gap_at(t) for t in starts])
        present = np.array([self.world.present_at(t) for t in starts])
        gaps = np.where(present, gaps, 0.0)
        is_best = present & (gaps <= 1e-12)
        regret = np.cumsum((self.assigned * gaps[:, None, :]).sum(axis=2), axis=0)
        best = (self.shares * is_best[:, None, :]).sum(axis=2)
        on_best = (self.assigned * is_best[:, None, :]).sum(axis=(0, 2)) / self.world.requests
        settled = _first(best >= SETTLED, self.ends - self.sizes)
        rule = isinstance(self.plan, Bandit) and self.plan.stop is not None
        wrong = [name is not None and not ok for name, ok in zip(self.named, self.named_right, strict=True)]
        n = self.repetitions
        return Report(
            world=self.world.name,
            requests=self.world.requests,
            repetitions=n,
            seed=seed,
            regret=summary.mean(regret[-1], within=(0.0, inf)),
            even_regret=float((self.sizes * gaps.sum(axis=1) / present.sum(axis=1)).sum()),
            best_share=summary.mean(on_best, within=(0.0, 1.0)),
            settled=summary.share(int(np.isfinite(settled).sum()), n),
            time_to_settle=summary.median(settled),
            **self._detection(),
            stopped=summary.share(sum(name is not None for name in self.named), n) if rule else None,
            false_alarms=summary.share(sum(wrong), n) if rule else None,
            coverage=self._coverage(),
            shares=dict(zip(self.world.variants, self.shares[-1].mean(axis=0).tolist(), strict=True)),
            curve=tuple(
                Point(
                    int(self.ends[i]),
                    summary.mean(regret[i], within=(0.0, inf)),
                    summary.mean(best[i], within=(0.0, 1.0)),
                )
                for i in spread(self.periods)
            ),
        )

    def _detection(self) -> dict[str, Estimated | None]:
        event = self.world.event
        if event is None:
            return {"detected": None, "time_to_detect": None}
        victim, at = self.world.variants.index(event[0]), event[1] * self.world.requests
        after = (self.ends - self.sizes) >= at
        floor = self.plan.floor if isinstance(self.plan, Bandit) else 0.0
        left = (self.shares[:, :, victim] <= max(LEFT, 1.5 * floor)) & after[:, None]
        times = _first(left, self.ends - self.sizes - at)
        return {
            "detected": summary.share(int(np.isfinite(times).sum()), self.repetitions),
            "time_to_detect": summary.median(times),
        }

    def _coverage(self) -> Estimated | None:
        world = self.world
        if world.changes or world.swing or world.poison is not None:
            return None
        held, asked = 0, 0
        truth = world.means_at(1.0).tolist()
        prior = self.plan.objectives[0].prior if isinstance(self.plan, Bandit) else None
        for row in self.sums.tolist():
            made = posteriors(world.model, [RewardSums(*sums) for sums in row], prior)
            for posterior, sums, mean in zip(made, row, truth, strict=True):
                if sums[0] >= 1:
                    low, high = interval(posterior)
                    held, asked = held + (low <= mean <= high), asked + 1
        return summary.share(held, asked)


def _delays(mean: float) -> Array:
    """Probabilities of a delay of 0, 1, ... periods, geometric with this mean; the last takes the tail."""
    if mean <= 0:
        return np.ones(1)
    q = mean / (1 + mean)
    p = (1 - q) * q ** np.arange(int(np.ceil(8 * mean)) + 2)
    p[-1] = 1 - p[:-1].sum()
    return np.asarray(p)


def _kept(plan: Plan, seconds: float) -> float:
    """What a period leaves of a discounted sum."""
    forgets = isinstance(plan, Bandit) and plan.half_life is not None
    return 0.5 ** (seconds / plan.half_life) if forgets else 1.0  # type: ignore[union-attr, operator]


def _without(plan: Plan, absent: set[str]) -> Plan:
    """The plan as it would be written while some variants don't exist yet."""
    if not absent:
        return plan
    if isinstance(plan, Bandit):
        return replace(plan, variants=tuple(v for v in plan.variants if v not in absent))
    if isinstance(plan, Split):
        return replace(plan, weights=tuple((v, w) for v, w in plan.weights if v not in absent))
    if isinstance(plan, Canary) and plan.candidate in absent:
        return Single(plan.baseline)
    return plan


def _first(happened: NDArray[np.bool_], times: NDArray[Any]) -> Array:
    """For each repetition the time at which ``happened`` (T, R) is first true; infinite for never."""
    ever = happened.any(axis=0)
    return np.where(ever, np.asarray(times, dtype=float)[happened.argmax(axis=0)], inf)
