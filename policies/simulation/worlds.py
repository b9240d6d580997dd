"""Synthetic worlds to try a policy in: what each variant is truly worth at every moment, and how rewards
reach the record. Time t runs from 0 to 1 over the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi

import numpy as np
from numpy.typing import NDArray

from policies.simulation.clustered_users import UserPopulation
from policies.types import Goal, MetricType

Array = NDArray[np.float64]

MAX_DRAWN_MEAN = 1e15
"""Of a Poisson count; numpy draws none with a mean beyond 64 bits."""


@dataclass(frozen=True, slots=True)
class Change:
    """At ``at`` the mean of ``variant`` becomes ``mean`` for good."""

    variant: str
    at: float
    mean: float


@dataclass(frozen=True, slots=True)
class Poison:
    """A ``share`` of the rewards of ``variant`` is reported as ``value``, whatever it was."""

    variant: str
    share: float
    value: float


@dataclass(frozen=True, slots=True)
class World:
    """K variants with their true means, and what stands between a reward and the record."""

    name: str
    means: tuple[tuple[str, float], ...]
    """At the beginning, by variant."""
    model: MetricType = "boolean"
    goal: Goal = "maximize"
    sd: float = 1.0
    """Of real values about their mean."""
    swing: float = 0.0
    """Drift: each mean goes up and down by this, the variants one after the other ..."""
    period: float = 1.0
    """... once in this time."""
    changes: tuple[Change, ...] = ()
    joins: tuple[tuple[str, float], ...] = ()
    """Variants that are not there before the given time."""
    reported: float = 1.0
    """The share of rewards that are ever reported."""
    delay: float = 0.0
    """Mean time (of the run's length) until a reward is reported; the delays are geometric."""
    poison: Poison | None = None
    users: UserPopulation | None = None
    """Who sends the requests; None: each is its own unit."""
    requests: int = 10_000
    seconds: float = 3600.0

    def __post_init__(self) -> None:
        if len(self.means) < 2:
            raise ValueError("a world needs at least two variants")
        if not 0 < self.reported <= 1 or not 0 <= self.delay < 1:
            raise ValueError("reported must lie in (0, 1] and delay in [0, 1)")
        if self.users is not None and (self.delay or self.reported < 1 or self.poison is not None):
            raise ValueError("a world with users has no delayed, missing or forged rewards")
        bounded = self.model in ("boolean", "fraction")
        reach = [m for _, m in self.means] + [c.mean for c in self.changes]
        if bounded and not all(self.swing <= m <= 1 - self.swing for m in reach):
            raise ValueError(f"the means of a {self.model} world must stay within [0, 1]")
        if self.model == "count" and not all(m >= self.swing for m in reach):
            raise ValueError("the means of a count world must not become negative")
        if self.model == "count" and max(reach) > MAX_DRAWN_MEAN:
            raise ValueError(f"the means of a count world must be at most {MAX_DRAWN_MEAN:g}")

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.means)

    def means_at(self, t: float) -> Array:
        """The true means (K,) at time t."""
        k = len(self.means)
        values = dict(self.means)
        for change in self.changes:
            if t >= change.at:
                values[change.variant] = change.mean
        phase = 2 * pi * (t / self.period + np.arange(k) / k)
        return np.array(list(values.values())) + self.swing * np.sin(phase)

    def present_at(self, t: float) -> NDArray[np.bool_]:
        """Which variants (K,) are there at time t."""
        absent = {name for name, at in self.joins if t < at}
        return np.array([name not in absent for name in self.variants])

    def gap_at(self, t: float) -> Array:
        """How much worse than the best present one each variant is at time t; (K,), 0 for the best.

        Infinite for one that is not there.
        """
        better = self.means_at(t) if self.goal == "maximize" else -self.means_at(t)
        present = self.present_at(t)
        return np.where(present, better[present].max() - better, np.inf)

    @property
    def event(self) -> tuple[str, float] | None:
        """The variant that turns bad first, and when; None where none does."""
        sign = 1.0 if self.goal == "maximize" else -1.0
        start = dict(self.means)
        turned = [(c.at, c.variant) for c in self.changes if sign * (c.mean - start[c.variant]) < 0]
        return (min(turned)[1], min(turned)[0]) if turned else None

    def draw(self, rng: np.random.Generator, n: NDArray[np.int64], means: Array) -> Array:
        """Sums (count, total, squares) of ``n`` (..., K, L) rewards with ``means`` (K,); (..., K, L, 3)."""
        return self.draw_each(rng, n, np.broadcast_to(means[:, None], n.shape))

    def draw_each(self, rng: np.random.Generator, n: NDArray[np.int64], mean: Array) -> Array:
        """The same where each of ``n`` (...) has a ``mean`` of its own (...); (..., 3)."""
        if self.model == "boolean":
            total = rng.binomial(n, mean)
            return np.stack([n, total, total], axis=-1).astype(float)
        if self.model == "fraction":
            return _thirds(rng, n, mean)
        if self.model == "count":
            return _counts(rng, n, mean)
        return _reals(rng, n, mean, self.sd)


def _thirds(rng: np.random.Generator, n: NDArray[np.int64], mean: Array) -> Array:
    """Fractions that are the average of two coin flips: 0, ½ or 1."""
    p = np.stack([(1 - mean) ** 2, 2 * mean * (1 - mean), mean**2], axis=-1)
    _, halves, ones = np.moveaxis(rng.multinomial(n, p), -1, 0)
    return np.stack([n, 0.5 * halves + ones, 0.25 * halves + ones], axis=-1).astype(float)


def _counts(rng: np.random.Generator, n: NDArray[np.int64], mean: Array) -> Array:
    """Poisson counts, one by one, because the sum of their squares matters."""
    size = int(n.max(initial=0))
    drawn = rng.poisson(mean[..., None], (*n.shape, size)) * (np.arange(size) < n[..., None])
    values = drawn.astype(float)  # the squares of integers beyond 3e9 do not fit into 64 bits
    return np.stack([n, values.sum(axis=-1), (values * values).sum(axis=-1)], axis=-1)


def _reals(rng: np.random.Generator, n: NDArray[np.int64], mean: Array, sd: float) -> Array:
    """Normal values: their sum is normal, and what is left of the squares a chi-square with n - 1 degrees."""
    total = n * mean + sd * np.sqrt(n) * rng.standard_normal(n.shape)
    centred = sd * sd * np.where(n > 1, rng.chisquare(np.maximum(n - 1, 1)), 0.0)
    squares = centred + total * total / np.maximum(n, 1)
    return np.stack([n, total, squares], axis=-1).astype(float)


def standard(
    means: Sequence[float] = (0.10, 0.12, 0.15),
    requests: int = 10_000,
    *,
    model: MetricType = "boolean",
    goal: Goal = "maximize",
    sd: float = 1.0,
) -> dict[str, World]:
    """The worlds of the published table, by name, on variants v1, v2, ... in the order of ``means``.

    ``sd`` is that of real values about their mean. Raises ValueError for means that the metric can't have.
    """
    named = tuple((f"v{k + 1}", float(mean)) for k, mean in enumerate(means))
    plain = World("stationary", named, model, goal, sd, requests=requests)
    low, high = min(named, key=_mean), max(named, key=_mean)
    worst, best = (low, high) if goal == "maximize" else (high, low)
    worlds = (
        plain,
        replace(plain, name="equal", means=tuple((name, best[1]) for name, _ in named)),
        replace(plain, name="drifting", swing=_swing(model, low[1], high[1]), period=1.0),
        replace(plain, name="delayed", delay=0.05),
        replace(plain, name="sparse", reported=0.05),
        replace(plain, name="poisoned", poison=Poison(worst[0], 0.2, _forged(plain, best[1]))),
        replace(plain, name="cold start", requests=max(1, requests // 20)),
        replace(plain, name="new arm", joins=((best[0], 0.3),)),
        replace(plain, name="faulty version", changes=(Change(best[0], 0.5, _faulty(plain, worst[1])),)),
        replace(plain, name="heavy users", users=UserPopulation()),
        replace(plain, name="heavy users, each once", users=UserPopulation(once_per_unit=True)),
    )
    return {world.name: world for world in worlds}


def _mean(named: tuple[str, float]) -> float:
    return named[1]


def _swing(model: MetricType, low: float, high: float) -> float:
    """How far means may drift without leaving the metric's range: of reals as far as they are apart."""
    if model == "real":
        return high - low
    return min(0.05, low / 2) if model == "count" else min(0.05, low / 2, (1 - high) / 2)


def _forged(world: World, best: float) -> float:
    """A value that makes any variant look good."""
    if world.model == "real":
        return best + (5.0 if world.goal == "maximize" else -5.0) * world.sd
    if world.goal == "minimize":
        return 0.0
    return max(1.0, float(round(5 * best))) if world.model == "count" else 1.0


def _faulty(world: World, worst: float) -> float:
    """The mean of a version that broke: four fifths of the way from the worst to the end of the range."""
    if world.model == "real":
        return worst - (2.0 if world.goal == "maximize" else -2.0) * world.sd
    if world.goal == "maximize":
        return worst / 5
    return 5 * worst if world.model == "count" else 1 - (1 - worst) / 5
