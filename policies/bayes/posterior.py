"""What the rewards say about a variant's true mean: conjugate posteriors, and how they compare.

| metric            | likelihood         | prior               | posterior of the mean |
|-------------------|--------------------|---------------------|-----------------------|
| boolean, fraction | Bernoulli          | Beta                | `Beta`                |
| real              | normal, σ² unknown | Normal-Inverse-Gamma| `Student`             |
| count             | Poisson            | Gamma               | `Gamma`               |

(Gelman et al., "Bayesian Data Analysis", 3rd ed., sections 2.4, 2.6 and 3.3. Fractions enter a Beta as
if each were that part of a success: Agrawal & Goyal, "Analysis of Thompson Sampling", 2012; the
posterior is then wider than it need be, never narrower.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np
from scipy import special

from policies.bayes.coordinates import BetaCoordinates, Coordinates, GammaCoordinates, StudentCoordinates
from policies.bayes.quadrature import PosteriorComparison, compare_posteriors
from policies.types import Goal


@dataclass(frozen=True, slots=True)
class Beta:
    """Beta(a, b) on [0, 1]."""

    a: float
    b: float

    def __post_init__(self) -> None:
        _positive("a Beta distribution", a=self.a, b=self.b)

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    @property
    def sd(self) -> float:
        n = self.a + self.b
        return sqrt(self.a / n * (self.b / n) / (n + 1))

    def quantile(self, p: float) -> float:
        return float(special.betaincinv(self.a, self.b, p))

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return rng.beta(self.a, self.b, size)


@dataclass(frozen=True, slots=True)
class Student:
    """loc + scale x T, T Student with ``df`` degrees of freedom; df = inf is the normal distribution."""

    df: float
    loc: float
    scale: float

    def __post_init__(self) -> None:
        _positive("a Student distribution", scale=self.scale)
        if not self.df > 1 or not isfinite(self.loc):
            raise ValueError(
                f"a Student distribution needs df > 1 and a finite loc, not {self.df}, {self.loc}"
            )

    @property
    def mean(self) -> float:
        return self.loc

    @property
    def sd(self) -> float:
        """Infinite for df ≤ 2."""
        if self.df == inf:
            return self.scale
        return self.scale * sqrt(self.df / (self.df - 2)) if self.df > 2 else inf

    def quantile(self, p: float) -> float:
        z = special.ndtri(p) if self.df > 1e15 else special.stdtrit(self.df, p)
        return self.loc + self.scale * float(z)

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        z = rng.standard_normal(size) if self.df > 1e15 else rng.standard_t(self.df, size)
        return self.loc + self.scale * z


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gamma(shape, rate) on [0, ∞); mean shape / rate."""

    shape: float
    rate: float

    def __post_init__(self) -> None:
        _positive("a Gamma distribution", shape=self.shape, rate=self.rate)

    @property
    def mean(self) -> float:
        return self.shape / self.rate

    @property
    def sd(self) -> float:
        return sqrt(self.shape) / self.rate

    def quantile(self, p: float) -> float:
        return float(special.gammaincinv(self.shape, p)) / self.rate

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return rng.gamma(self.shape, 1.0 / self.rate, size)


Posterior = Beta | Student | Gamma


def _positive(what: str, **parameters: float) -> None:
    for name, value in parameters.items():
        if not 0 < value < inf:
            raise ValueError(f"{what} needs {name} > 0 and finite, not {value!r}")


def interval(posterior: Posterior, level: float = 0.95) -> tuple[float, float]:
    """The equal-tailed credible interval: the mean lies in it with probability ``level``."""
    tail = (1.0 - level) / 2
    return posterior.quantile(tail), posterior.quantile(1.0 - tail)


def compare(posteriors: Sequence[Posterior], goal: Goal = "maximize") -> PosteriorComparison:
    """Probability of being best, and expected loss, of each; arrays of shape (K,).

    Exact to about 1e-12, by quadrature (`policies.bayes.quadrature`). All posteriors must be of one family.
    Raises ValueError when they are not, or when there is none.
    """
    if len(posteriors) == 1:
        return PosteriorComparison(np.ones(1), np.zeros(1))
    return compare_posteriors(_coordinates(posteriors), goal)


def _coordinates(posteriors: Sequence[Posterior]) -> Coordinates:
    if not posteriors:
        raise ValueError("there is nothing to compare: give at least one posterior")
    family = type(posteriors[0])
    if any(type(p) is not family for p in posteriors):
        raise ValueError("posteriors of different families can't be compared; use one metric type for all")
    if family is Beta:
        return BetaCoordinates(*_columns(posteriors, "a", "b"))
    if family is Gamma:
        return GammaCoordinates.of(*_columns(posteriors, "shape", "rate"))
    df, loc, scale = _columns(posteriors, "df", "loc", "scale")
    return StudentCoordinates.of(df, loc, scale)


def _columns(posteriors: Sequence[Posterior], *names: str) -> tuple[np.ndarray, ...]:
    return tuple(np.array([getattr(p, name) for p in posteriors], dtype=float) for name in names)
