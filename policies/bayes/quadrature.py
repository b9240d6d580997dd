"""P(variant is best) and expected loss, exactly: one composite Gauss-Legendre rule for all families.

With independent posteriors of densities f_k and distribution functions F_k,

    P(k is best)   = ∫ f_k Π_{j≠k} F_j
    expected loss  = E[max_j θ_j - θ_k] = ∫ F_k (1 - Π_{j≠k} F_j)

(Russo et al., "A Tutorial on Thompson Sampling", 2018, section 3; Stucchio, "Bayesian A/B Testing at
VWO", 2015). Both integrals run over the one range in which the maximum can lie: from the highest of
the lower limits to the highest of the upper. The F_k are not evaluated at the nodes (an incomplete
beta function costs a hundred times what a density does) but integrated along with the densities,
from exact values at both ends. That F_k(low) + ∫ f_k + S_k(high) is 1 proves, for each variant, that
the panels were fine enough; where it is not, they are halved.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from policies.bayes.coordinates import Coordinates
from policies.bayes.panels import Array
from policies.types import Goal

NODES = 20
"""Of one panel."""

TOLERANCE = 1e-10
"""How far a distribution may be from having the probability 1 before the panels are halved."""

_HALVINGS = 6


class PosteriorComparison(NamedTuple):
    """What the posteriors say of each variant; (K,) each."""

    probability_best: Array
    expected_loss: Array


def compare_posteriors(coordinates: Coordinates, goal: Goal = "maximize") -> PosteriorComparison:
    """Who is best among the K ≥ 2 posteriors of ``coordinates``.

    Raises ArithmeticError when no refinement makes the probabilities sum to 1 within 1e-9.
    """
    lower, upper = _limits(coordinates, goal)
    alive = upper >= lower.max()
    if alive.all():
        return _compare(coordinates, goal)
    # A posterior that certainly lies below another has no part in the maximum: its loss is the distance of
    # the means. The others are compared among themselves, where no hump is far from the range.
    best, loss = (
        _compare(coordinates.subset(alive), goal)
        if alive.sum() > 1
        else PosteriorComparison(np.ones(1), np.zeros(1))
    )
    means = coordinates.means() if goal == "maximize" else -coordinates.means()
    leader = int(best.argmax())
    all_best, all_loss = np.zeros(len(alive)), loss[leader] + means[alive][leader] - means
    all_best[alive], all_loss[alive] = best, loss
    return PosteriorComparison(all_best, all_loss)


def _limits(coordinates: Coordinates, goal: Goal) -> tuple[Array, Array]:
    """The limits of each posterior on the axis on which more is better; (K,) each."""
    lower, upper = coordinates.limits()
    return (lower, upper) if goal == "maximize" else (-upper, -lower)


def _compare(coordinates: Coordinates, goal: Goal) -> PosteriorComparison:
    for halving in range(_HALVINGS):
        grid = _Grid.over(coordinates, goal, 0.5**halving)
        if grid.defect <= TOLERANCE:
            best = grid.probability_best()
            if abs(best.sum() - 1.0) <= 1e-9:
                return PosteriorComparison(best / best.sum(), grid.expected_loss())
    raise ArithmeticError("the posteriors are too extreme to compare: P(best) does not sum to 1")


@lru_cache(maxsize=1)
def _rule() -> tuple[Array, Array, Array]:
    """Nodes on [-1, 1], weights, and the matrix that integrates from -1 to each node; (n,), (n,), (n, n).

    The matrix is that of the interpolating polynomial, written in Legendre polynomials:
    ∫_{-1}^{x} P_k = (P_{k+1}(x) - P_{k-1}(x)) / (2k + 1).
    """
    legendre = np.polynomial.legendre
    x, w = legendre.leggauss(NODES)
    values = legendre.legvander(x, NODES)  # P_0..P_n at the nodes, (n, n + 1)
    k = np.arange(NODES)
    integrals = np.empty((NODES, NODES))
    integrals[:, 0] = x + 1.0
    integrals[:, 1:] = (values[:, 2:] - values[:, :-2]) / (2 * k[1:] + 1)
    coefficients = (k + 0.5)[:, None] * values[:, :NODES].T * w
    return x, w, integrals @ coefficients


class _Grid(NamedTuple):
    """The K densities and distributions on P panels of n nodes; a mirrored one when less is better."""

    coordinates: Coordinates
    sign: float
    low: float
    weights: Array
    """(P, n), in t."""
    slope: Array
    """dx/dt; (P, n)."""
    density: Array
    """(K, P, n)."""
    below: Array
    """log F; (K, P, n)."""
    defect: float

    @classmethod
    def over(cls, coordinates: Coordinates, goal: Goal, fineness: float) -> _Grid:
        sign = 1.0 if goal == "maximize" else -1.0
        lower, upper = _limits(coordinates, goal)
        edges = coordinates.edges(sign, float(lower.max()), upper, fineness)
        x, w, partial = _rule()
        half = np.diff(edges)[:, None] / 2
        t = sign * (edges[:-1, None] + half * (x + 1.0))
        density = np.exp(coordinates.log_density(t.ravel())).reshape(-1, *t.shape)
        f_low, s_high = _ends(coordinates, sign, edges)
        mass = (density * (half * w)).sum(axis=2)
        inside = density @ partial.T * half
        left = f_low[:, None] + np.cumsum(mass, axis=1) - mass
        right = s_high[:, None] + np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]
        below, above = left[:, :, None] + inside, right[:, :, None] - inside
        defect = float(np.abs(f_low + mass.sum(axis=1) + s_high - 1.0).max())
        return cls(
            coordinates,
            sign,
            float(edges[0]),
            half * w,
            coordinates.slope(t.ravel()).reshape(t.shape),
            density,
            _log_below(below, above),
            defect,
        )

    def probability_best(self) -> Array:
        others = self.below.sum(axis=0) - self.below
        return np.asarray((self.density * np.exp(others) * self.weights).sum(axis=(1, 2)))

    def expected_loss(self) -> Array:
        others = self.below.sum(axis=0) - self.below
        integrand = np.exp(self.below) * -np.expm1(others)
        within = (integrand * (self.weights * self.slope)).sum(axis=(1, 2))
        # Left of the range the maximum is certainly higher, so the loss there is all of the shortfall.
        outside = (
            self.coordinates.shortfall(self.low) if self.sign > 0 else self.coordinates.excess(-self.low)
        )
        return np.asarray(within + outside)


def _ends(coordinates: Coordinates, sign: float, edges: Array) -> tuple[Array, Array]:
    low, high = coordinates.tails(sign * float(edges[0])), coordinates.tails(sign * float(edges[-1]))
    return (low[0], high[1]) if sign > 0 else (low[1], high[0])


def _log_below(below: Array, above: Array) -> Array:
    """log F from whichever of F and S = 1 - F is small, and so keeps its digits."""
    from_below = np.log(np.maximum(below, 1e-300))
    return np.where(below < 0.5, from_below, np.log1p(-np.clip(above, 0.0, 0.5)))
