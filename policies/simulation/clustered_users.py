"""Sticky units of very different size whose rewards go together, as a world for `policies.simulation.bandit`.

Most experiments on users look like this: a few send most of the requests, and a user who is easily pleased is so
each time. A unit's variant is that of its point, so its requests stay together as long as the allocation does;
and a thousand rewards of one unit say little more than one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from policies.allocation.model import Allocation
from policies.sequential.design_based import UnitSums
from policies.types import MetricType, PairSums

Array = NDArray[np.float64]
Places = NDArray[np.intp]
Draw = Callable[[np.random.Generator, NDArray[np.int64], Array], Array]
"""(chance, numbers of rewards, their means) to sums (..., 3), as `World.draw_each`."""


@dataclass(frozen=True, slots=True)
class UserPopulation:
    """``units`` of which the k-th busiest sends requests in proportion to k^-``skew`` (Zipf).

    ``icc`` is the correlation of two rewards of one unit (the intraclass correlation), in (0, 1).
    ``once_per_unit``: a unit's rewards are one observation, their mean, as in the gateway (`gateway.state.units`); else
    each reward counts by itself.
    """

    units: int = 300
    skew: float = 1.0
    icc: float = 0.3
    once_per_unit: bool = False

    def __post_init__(self) -> None:
        if self.units < 1 or not 0 < self.icc < 1:
            raise ValueError("a population needs at least one unit, and an icc between 0 and 1")

    @property
    def activity(self) -> Array:
        """The share (U,) of each unit in the requests."""
        weight = np.arange(1, self.units + 1, dtype=float) ** -self.skew
        return np.asarray(weight / weight.sum())

    def unit_means(self, model: MetricType, place: Array, mean: Array, sd: float) -> Array:
        """What a unit at ``place`` (between 0 and 1) among all units earns where all earn ``mean`` on average.

        Beta with the precision 1/ρ - 1 (the beta-binomial's intraclass correlation is then ρ), for counts Gamma
        with the shape that makes the negative binomial's ρ, for reals normal with ρ sd² between units.
        """
        rho = self.icc
        if model == "real":
            return np.asarray(mean + sd * np.sqrt(rho) * special.ndtri(place))
        if model == "count":
            shape = np.maximum(mean * (1 - rho) / rho, 1e-9)
            return np.asarray(special.gammaincinv(shape, place) * mean / shape)
        weight = 1 / rho - 1
        a, b = np.maximum(mean * weight, 1e-9), np.maximum((1 - mean) * weight, 1e-9)
        return np.asarray(special.betaincinv(a, b, place))


class ServedUsers:
    """What the units of R runs have been given and have reported so far.

    ``span`` is the periods of a half-life. As in the gateway a unit that counts once counts once in each, as of the
    first of its values; without a half-life (``span`` None) it counts once for good.
    """

    def __init__(
        self,
        users: UserPopulation,
        model: MetricType,
        sd: float,
        shape: tuple[int, int],
        rng: np.random.Generator,
        *,
        span: float | None = None,
    ) -> None:
        """``shape`` is (R, K)."""
        self.users, self.model, self.sd, self.rng, self.span = users, model, sd, rng, span
        runs, variants = shape
        self.points = rng.random((runs, users.units))
        """Where the unit's hash puts it: which variant it gets."""
        self.places = rng.random((runs, users.units))
        """How easily it is pleased, by whichever variant."""
        self.sums = np.zeros((runs, users.units, variants, 3))
        self.since = np.zeros((runs, users.units, variants), dtype=np.int64)
        """The period of the first value in ``sums``."""
        self.period = 0
        self.values = np.zeros((runs, variants, 3))
        """Sums of the rewards of the last period, each by itself."""
        self.weighted = np.zeros((2, runs, users.units, variants))
        """Of each unit Σ w y and Σ w over its rewards y, w = 1 - propensity."""

    def serve(
        self, allocations: Sequence[Allocation], order: Sequence[str], requests: int, means: Array, draw: Draw
    ) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
        """One period of ``requests``: how many went to each variant (R, K), what that adds to the sums of each unit
        (R, U, K, 3), and the period (R, U, K) as of which it counts.

        ``order`` names the variants of ``means`` (K,).
        """
        self._begin()
        n = self.rng.multinomial(requests, self.users.activity, size=len(self.points))
        given = np.stack([_picked(a, order, u) for a, u in zip(allocations, self.points, strict=True)])
        mean = self.users.unit_means(self.model, self.places, means[given], self.sd)
        new = draw(self.rng, n, mean)
        mine = given[..., None] == np.arange(len(order))
        self.values = (mine[..., None] * new[:, :, None, :]).sum(axis=1)
        w = 1.0 - np.array([[a.probability(name) for name in order] for a in allocations])[:, None, :] * mine
        self.weighted += mine * w * np.stack([new[..., 1], new[..., 0]])[..., None]
        before = self._reported()
        self.since = np.where(self.sums[..., 0] > 0, self.since, self.period)
        self.sums = self.sums + mine[..., None] * new[:, :, None, :]
        added = self._reported() - before
        since = self.since if self.users.once_per_unit else np.full_like(self.since, self.period)
        self.period += 1
        return (n[..., None] * mine).sum(axis=1), added, since

    def unit_sums(self, run: int, variant: int) -> UnitSums | None:
        """How the rewards of each unit go together, as the gateway's record says; None where each counts by itself."""
        if not self.users.once_per_unit:
            return None
        x, y = self.weighted[:, run, :, variant]
        there = self.sums[run, :, variant, 0]
        return UnitSums(PairSums.of(x[there > 0], y[there > 0]), float(there.sum()))

    def _begin(self) -> None:
        """A half-life that begins makes every unit a new one."""
        if self.span is not None and self.period // self.span != (self.period - 1) // self.span:
            self.sums = np.zeros_like(self.sums)

    def _reported(self) -> Array:
        """What the record holds of each unit; (R, U, K, 3)."""
        if not self.users.once_per_unit:
            return self.sums
        count, total = self.sums[..., 0], self.sums[..., 1]
        there = (count > 0).astype(float)
        mean = total / np.maximum(count, 1)
        return np.stack([there, mean, mean * mean], axis=-1)


def _picked(allocation: Allocation, order: Sequence[str], points: Array) -> Places:
    """The variant (U,) of each point, as an index into ``order``."""
    place = np.array([order.index(name) for name in allocation.variants])
    owners = np.array(allocation.owners)[np.searchsorted(allocation.bounds, points, side="right")]
    return np.asarray(place[owners])
