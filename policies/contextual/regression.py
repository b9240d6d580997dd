"""Bayesian linear regression from sums: what a variant's rewards say about its coefficients.

reward = x·w + noise, with the Normal-Inverse-Gamma prior (Bishop, "Pattern Recognition and Machine
Learning", section 3.3; Gelman et al., section 14.8):

    1/σ² ~ Gamma(a, b),   w | σ² ~ N(m, σ² Λ⁻¹)

after n rows: Λ' = Λ + XᵀX, m' = Λ'⁻¹(Λm + Xᵀr), a' = a + n/2, b' = b + ½(rᵀr + mᵀΛm - m'ᵀΛ'm').
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LinearSums:
    """Additive sums over rows x (d numbers) with a reward r each: n, Σ x xᵀ, Σ r x, Σ r².

    They commute and subtract, as `policies.types.RewardSums` do.
    """

    count: float
    xx: Array
    """(d, d)."""
    xr: Array
    """(d,)."""
    rr: float

    @classmethod
    def empty(cls, d: int) -> LinearSums:
        return cls(0.0, np.zeros((d, d)), np.zeros(d), 0.0)

    @classmethod
    def of(cls, rows: ArrayLike, rewards: ArrayLike) -> LinearSums:
        """Sums of n rows; (n, d) and (n,). Raises ValueError when n is 0 (d would be unknown)."""
        x, r = np.asarray(rows, dtype=float), np.asarray(rewards, dtype=float)
        if x.ndim != 2 or len(x) != len(r):
            raise ValueError("sums need rows of equal length and one reward for each")
        return cls(float(len(r)), x.T @ x, x.T @ r, float(r @ r))

    def __add__(self, other: LinearSums) -> LinearSums:
        return LinearSums(
            self.count + other.count, self.xx + other.xx, self.xr + other.xr, self.rr + other.rr
        )

    def __sub__(self, other: LinearSums) -> LinearSums:
        return LinearSums(
            self.count - other.count, self.xx - other.xx, self.xr - other.xr, self.rr - other.rr
        )

    def __mul__(self, weight: float) -> LinearSums:
        return LinearSums(weight * self.count, weight * self.xx, weight * self.xr, weight * self.rr)

    def as_dict(self) -> dict[str, Any]:
        return {"count": self.count, "xx": self.xx.tolist(), "xr": self.xr.tolist(), "rr": self.rr}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LinearSums:
        return cls(data["count"], np.array(data["xx"], float), np.array(data["xr"], float), data["rr"])


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """The posterior of each coefficient by itself: Student with ``df`` degrees of freedom."""

    mean: Array
    """(d,)."""
    deviation: Array
    """The scale; (d,)."""
    df: float

    def intervals(self) -> list[tuple[float, float]]:
        """Equal-tailed 95 % credible intervals, one for each column."""
        half = float(special.stdtrit(self.df, 0.975)) * self.deviation
        return list(zip((self.mean - half).tolist(), (self.mean + half).tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """The posterior of w and σ²."""

    mean: Array
    """m'; (d,)."""
    precision: Array
    """Λ'; (d, d)."""
    a: float
    b: float

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """``size`` (even) draws of w, in pairs that mirror each other about the mean; (size, d)."""
        half = size // 2
        sigma = np.sqrt(self.b / rng.gamma(self.a, 1.0, (half, 1)))
        z = rng.standard_normal((half, len(self.mean)))
        # Λ' = L Lᵀ, so that Lᵀ w = z has the covariance Λ'⁻¹.
        away = sigma * np.linalg.solve(np.linalg.cholesky(self.precision).T, z.T).T
        return np.concatenate([self.mean + away, self.mean - away])

    @property
    def belief(self) -> Belief:
        """The marginal posteriors of the coefficients."""
        variance = self.b / self.a * np.diagonal(np.linalg.inv(self.precision))
        return Belief(self.mean, np.sqrt(variance), 2.0 * self.a)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Posterior mean and scale of x·w for rows (n, d): (n,) each; Student with 2a degrees of freedom."""
        spread = np.einsum("nd,nd->n", x, np.linalg.solve(self.precision, x.T).T)
        return x @ self.mean, np.sqrt(self.b / self.a * spread)


def fit(sums: Sequence[LinearSums], strength: float = 1.0) -> list[Coefficients]:
    """One posterior for each of ``sums``, all with the same prior.

    The prior is worth ``strength`` rows: a constant at the mean of all rewards together, no effect of any
    feature, and their variance as noise (the unit information prior, as in `policies.bayes.prior`).
    """
    n = sum(s.count for s in sums)
    mean = sum(s.xr[0] for s in sums) / n if n else 0.0
    variance = max(sum(s.rr for s in sums) / n - mean * mean, 0.0) if n else 1.0
    b = 0.5 * max(variance, (1e-9 * mean) ** 2, 1e-200)
    return [_posterior(s, mean, strength, b) for s in sums]


def _posterior(sums: LinearSums, mean: float, strength: float, b: float) -> Coefficients:
    d = len(sums.xr)
    prior = np.zeros(d)
    prior[0] = mean
    precision = sums.xx + strength * np.eye(d)
    # About the prior mean, so that a large constant in all rewards costs no digits.
    shifted = sums.xr - sums.xx @ prior
    away = np.linalg.solve(precision, shifted)
    residual = sums.rr - 2 * sums.xr @ prior + prior @ sums.xx @ prior
    return Coefficients(
        prior + away, precision, 1.5 + sums.count / 2, max(b, b + 0.5 * float(residual - away @ shifted))
    )


def total(parts: Iterable[LinearSums], d: int) -> LinearSums:
    """The sum of ``parts``."""
    return sum(parts, LinearSums.empty(d))
