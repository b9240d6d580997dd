"""The three posterior families, each in coordinates t in which every density is smooth.

A Beta density can rise without bound at 0 and 1. In t = logit x (Beta) and t = log (x / c) (Gamma) each has
one hump of a known width and tails that fall at least exponentially, so that Gauss-Legendre panels
of that width integrate it to rounding error. A Student density is smooth in x itself but its tails
fall slowly; there the panels grow with their distance from the hump. Log-densities are written as
distances from the mean, with the large terms that cancel taken out by hand (C. Loader, "Fast and
Accurate Computation of Binomial Probabilities", 2000); lgamma differences would lose seven digits at
counts of 1e9.

Every array has a leading axis for the K variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from policies.bayes.panels import FLAT, Array, logarithmic_edges

Mask = NDArray[np.bool_]

TAIL = 1e-17
"""Probability left outside each limit."""

_TINY = 1e-300


class Coordinates(Protocol):
    """K posteriors of one family."""

    def subset(self, keep: Mask) -> Coordinates:
        """Those of the K for which ``keep`` (K,) holds."""
        ...

    def means(self) -> Array:
        """E[θ_k], less a constant that is the same for all; (K,)."""
        ...

    def limits(self) -> tuple[Array, Array]:
        """t below and above which each posterior has a probability of TAIL; (K,) each."""
        ...

    def edges(self, sign: float, start: float, ends: Array, fineness: float) -> Array:
        """Edges of panels fit for integration, in sign x t, from ``start`` to the highest of ``ends``.

        Posterior k matters up to ends[k] (K,); ``fineness`` scales all panels, 1.0 being enough as a
        rule. (P + 1,), ascending.
        """
        ...

    def log_density(self, t: Array) -> Array:
        """The log of each density with respect to t; (N,) to (K, N)."""
        ...

    def tails(self, t: float) -> tuple[Array, Array]:
        """P(θ_k ≤ x(t)) and P(θ_k > x(t)); (K,) each."""
        ...

    def shortfall(self, t: float) -> Array:
        """E[(x(t) - θ_k)⁺]; (K,)."""
        ...

    def excess(self, t: float) -> Array:
        """E[(θ_k - x(t))⁺]; (K,)."""
        ...

    def slope(self, t: Array) -> Array:
        """dx/dt; (N,) to (N,)."""
        ...


def stirling(z: Array) -> Array:
    """log Γ(z) - [(z - ½) log z - z + ½ log 2π], to full precision for every z > 0."""
    big = np.maximum(z, 16.0)
    y = 1.0 / (big * big)
    series = (
        1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y * (1 / 1188 - y * 691 / 360360))))
    ) / big
    small = np.minimum(z, 16.0)
    direct = special.gammaln(small) - (small - 0.5) * np.log(small) + small - 0.5 * np.log(2 * np.pi)
    return np.where(z >= 16.0, series, direct)


def log1p_less(u: Array, log_ratio: Array) -> Array:
    """log(1 + u) - u without cancellation; ``log_ratio`` is log(1 + u) as it is known from elsewhere.

    For |u| < 0.3 by the series of atanh: with r = u/(2 + u), log(1+u) - u = r (2 Σ r^2k/(2k+1) - u).
    """
    near = np.abs(u) < 0.3
    v = np.where(near, u, 0.0)
    r = v / (2.0 + v)
    y = r * r
    total = np.full_like(y, 1 / 21)
    for k in range(19, 1, -2):
        total = total * y + 1 / k
    return np.where(near, r * (2.0 * y * total - v), log_ratio - u)


def _column(values: Array) -> Array:
    return values[:, None]


@dataclass(frozen=True, slots=True)
class BetaCoordinates:
    """Beta(a_k, b_k) in t = logit x."""

    a: Array
    b: Array

    def subset(self, keep: Mask) -> BetaCoordinates:
        return BetaCoordinates(self.a[keep], self.b[keep])

    def means(self) -> Array:
        return self.a / (self.a + self.b)

    def limits(self) -> tuple[Array, Array]:
        return _logit_quantile(self.a, self.b), -_logit_quantile(self.b, self.a)

    def edges(self, sign: float, start: float, ends: Array, fineness: float) -> Array:
        width = np.sqrt(special.polygamma(1, self.a) + special.polygamma(1, self.b))
        reach = FLAT + float(np.log((self.a + self.b).max()))
        return logarithmic_edges(start, ends, 2.0 * width, fineness, (-reach, reach))

    def log_density(self, t: Array) -> Array:
        a, b, n = self.a, self.b, self.a + self.b
        norm = 0.5 * np.log(a * (b / n) / (2 * np.pi)) + stirling(n) - stirling(a) - stirling(b)
        x, y = special.expit(t), special.expit(-t)
        return np.asarray(
            _column(norm)
            + _column(a) * _side(x, special.log_expit(t), a / n)
            + _column(b) * _side(y, special.log_expit(-t), b / n)
        )

    def tails(self, t: float) -> tuple[Array, Array]:
        return _beta_tails(self.a, self.b, t)

    def shortfall(self, t: float) -> Array:
        x = special.expit(t)
        mean = self.a / (self.a + self.b)
        below, partial = _beta_tails(self.a, self.b, t)[0], _beta_tails(self.a + 1, self.b, t)[0]
        return np.asarray(np.maximum(x * below - mean * partial, 0.0))

    def excess(self, t: float) -> Array:
        # E[(θ - x)⁺] of Beta(a, b) is E[(y - θ')⁺] of Beta(b, a) at y = 1 - x.
        return BetaCoordinates(self.b, self.a).shortfall(-t)

    def slope(self, t: Array) -> Array:
        return np.asarray(special.expit(t) * special.expit(-t))


def _beta_tails(a: Array, b: Array, t: float) -> tuple[Array, Array]:
    """F and 1 - F, from whichever of x and 1 - x is small: near 1 a float is too coarse for large b.

    Where x underflows, from F(x) ≈ xᵃ / (a B(a, b)): with a tiny parameter much lies there.
    """
    if t > 0:
        above, below = _beta_tails(b, a, -t)
        return below, above
    x = special.expit(t)
    below, above = special.betainc(a, b, x), special.betaincc(a, b, x)
    if x < _TINY:
        below = np.exp(np.minimum(a * t - np.log(a) - special.betaln(a, b), 0.0))
        above = 1.0 - below
    # scipy computes the smaller of the two well; the other one is wrong by 1e-10 at counts of 1e7, by 1e-8 at 1e9.
    return np.where(below <= above, below, 1.0 - above), np.where(below <= above, 1.0 - below, above)


def _side(x: Array, log_x: Array, centre: Array) -> Array:
    c = _column(centre)
    return log1p_less((x - c) / c, log_x - np.log(c))


def _logit_quantile(a: Array, b: Array) -> Array:
    """logit of the TAIL quantile of Beta(a, b); where x underflows, from F(x) ≈ xᵃ / (a B(a, b))."""
    x = special.betaincinv(a, b, TAIL)
    asymptote = (np.log(TAIL) + np.log(a) + special.betaln(a, b)) / a
    found = np.where(x > _TINY, special.logit(np.maximum(x, _TINY)), asymptote)
    # There scipy is wrong at times, by up to 200 deviations; the quantile is 8.0 to 9.1 of them below the mean.
    middle, width = np.log(a / b), np.sqrt(special.polygamma(1, a) + special.polygamma(1, b))
    many = np.minimum(a, b) >= 500.0
    return np.asarray(np.where(many, np.clip(found, middle - 10.0 * width, middle - 8.0 * width), found))


@dataclass(frozen=True, slots=True)
class GammaCoordinates:
    """Gamma(shape_k, rate_k) in t = log (x / c).

    c is the mean of the narrowest: at shapes of 1e10 the rounding of log x alone would cost ten digits of a
    density, while t, which is near 0 wherever that one has any, keeps them.
    """

    shape: Array
    rate: Array
    centre: float
    """c."""
    offset: Array
    """log (shape_k / rate_k / c): where each has its mean."""

    @classmethod
    def of(cls, shape: Array, rate: Array) -> GammaCoordinates:
        mean = shape / rate
        centre = float(mean[np.argmax(shape)])
        return cls(shape, rate, centre, np.log(mean / centre))

    def subset(self, keep: Mask) -> GammaCoordinates:
        return GammaCoordinates.of(self.shape[keep], self.rate[keep])

    def means(self) -> Array:
        return self.shape / self.rate

    def limits(self) -> tuple[Array, Array]:
        low = special.gammaincinv(self.shape, TAIL)
        asymptote = (np.log(TAIL) + special.gammaln(self.shape + 1.0)) / self.shape - np.log(self.shape)
        lower = np.where(low > _TINY, np.log(np.maximum(low, _TINY) / self.shape), asymptote)
        upper = np.log(special.gammainccinv(self.shape, TAIL) / self.shape)
        return lower + self.offset, np.asarray(upper + self.offset)

    def edges(self, sign: float, start: float, ends: Array, fineness: float) -> Array:
        width = np.sqrt(special.polygamma(1, self.shape))
        bends = self.offset - np.log(np.maximum(self.shape, 1.0))
        curved = sorted((sign * (float(bends.min()) - FLAT), sign * inf))
        return logarithmic_edges(start, ends, 2.0 * width, fineness, (curved[0], curved[1]))

    def log_density(self, t: Array) -> Array:
        a = self.shape
        norm = 0.5 * np.log(a / (2 * np.pi)) - stirling(a)
        log_ratio = t[None, :] - _column(self.offset)
        return np.asarray(_column(norm) + _column(a) * log1p_less(np.expm1(log_ratio), log_ratio))

    def tails(self, t: float) -> tuple[Array, Array]:
        return _gamma_tails(self.shape, t - self.offset)

    def shortfall(self, t: float) -> Array:
        return self._beyond(t, 1.0)

    def excess(self, t: float) -> Array:
        return self._beyond(t, -1.0)

    def slope(self, t: Array) -> Array:
        return np.asarray(self.centre * np.exp(t))

    def _beyond(self, t: float, sign: float) -> Array:
        """E[(x - θ)⁺] for +1, E[(θ - x)⁺] for -1: mean ± ((x / mean - 1) F + f / shape), f the density in t.

        From P(a + 1, y) = P(a, y) - yᵃ e⁻ʸ / Γ(a + 1); two products of the size of the mean would leave
        no digits of what lies between them.
        """
        below, above = self.tails(t)
        side = below if sign > 0 else above
        density = np.exp(self.log_density(np.array([t]))[:, 0])
        part = sign * np.expm1(t - self.offset) * side + density / self.shape
        return np.asarray(np.maximum(self.shape / self.rate * part, 0.0))


_LARGE = 1e5
"""The shape from which on the expansion is exact to rounding."""


def _gamma_tails(shape: Array, log_ratio: Array) -> tuple[Array, Array]:
    """F and 1 - F of Gamma(shape, 1) at shape x exp(log_ratio); (K,) each.

    For large shapes by Temme's uniform expansion (1979; DLMF 8.12.3 with c₀ and c₁): scipy's gammainc sums 2,000
    terms of a series there that needs 8 √shape of them, and is wrong by a factor of ten at 5 sd and 1e10.
    """
    near = np.where(shape < _LARGE, log_ratio, 0.0)
    a, y = np.minimum(shape, _LARGE), np.minimum(shape, _LARGE) * np.exp(near)
    far = np.where(shape < _LARGE, 0.0, log_ratio)
    eta = np.sign(far) * np.sqrt(np.maximum(-2.0 * log1p_less(np.expm1(far), far), 0.0))
    e = np.clip(eta, -0.5, 0.5)  # beyond it, exp(-shape η²/2) is 0
    c0 = -1 / 3 + e * (1 / 12 - e * (2 / 135 - e * (1 / 864 + e * (1 / 2835 - e * 139 / 777_600))))
    rest = np.exp(-0.5 * shape * eta * eta) / np.sqrt(2 * np.pi * shape) * (c0 - 1 / 540 / shape)
    z = eta * np.sqrt(shape)
    # Where y underflows, F(y) ≈ yᵃ / Γ(a + 1): with a tiny shape much lies there.
    least = np.exp(np.minimum(a * (np.log(a) + near) - special.gammaln(a + 1.0), 0.0))
    small, large = special.gammainc(a, y), special.gammaincc(a, y)
    small, large = np.where(y > _TINY, small, least), np.where(y > _TINY, large, 1.0 - least)
    below = np.where(shape < _LARGE, small, special.ndtr(z) - rest)
    above = np.where(shape < _LARGE, large, special.ndtr(-z) + rest)
    return np.clip(below, 0.0, 1.0), np.clip(above, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class StudentCoordinates:
    """loc_k + scale_k T with T Student of df_k degrees (1e30 or more: normal), in t = x - c.

    c is the location of the narrowest: only differences of locations are ever used, so that a large
    common offset costs no digits.
    """

    df: Array
    loc: Array
    scale: Array
    offset: Array
    """loc_k - c."""

    @classmethod
    def of(cls, df: Array, loc: Array, scale: Array) -> StudentCoordinates:
        return cls(np.minimum(df, 1e30), loc, scale, loc - loc[np.argmin(scale)])

    def subset(self, keep: Mask) -> StudentCoordinates:
        return StudentCoordinates.of(self.df[keep], self.loc[keep], self.scale[keep])

    def means(self) -> Array:
        return self.offset

    def limits(self) -> tuple[Array, Array]:
        reach = -_student_quantile(self.df, TAIL) * self.scale
        return self.offset - reach, self.offset + reach

    def edges(self, sign: float, start: float, ends: Array, fineness: float) -> Array:
        humps, widths, stop = sign * self.offset, 1.5 * self.scale, float(ends.max())
        edges = [start]
        while edges[-1] < stop:
            left = edges[-1] < ends
            allowed = np.maximum(widths[left], 0.4 * np.abs(edges[-1] - humps[left]))
            edges.append(min(stop, edges[-1] + fineness * float(allowed.min())))
        return np.array(edges)

    def log_density(self, t: Array) -> Array:
        norm = _column(self._norm() - np.log(self.scale))
        return np.asarray(norm - _column(self.df / 2 + 0.5) * np.log1p(self._z(t) ** 2 / _column(self.df)))

    def tails(self, t: float) -> tuple[Array, Array]:
        z = (t - self.offset) / self.scale
        return _student_below(self.df, z), _student_below(self.df, -z)

    def shortfall(self, t: float) -> Array:
        return self._short((t - self.offset) / self.scale)

    def excess(self, t: float) -> Array:
        return self._short((self.offset - t) / self.scale)

    def slope(self, t: Array) -> Array:
        return np.ones_like(t)

    def _z(self, t: Array) -> Array:
        return np.asarray((t - _column(self.offset)) / _column(self.scale))

    def _norm(self) -> Array:
        """log Γ((df + 1)/2) - log Γ(df/2) - ½ log(π df)."""
        half = self.df / 2
        ratio = half * np.log1p(0.5 / half) - 0.5 + stirling(half + 0.5) - stirling(half)
        return np.asarray(ratio - 0.5 * np.log(2 * np.pi))

    def _short(self, z: Array) -> Array:
        """scale x E[(z - T)⁺] = scale x [z F(z) + (df + z²)/(df - 1) f(z)]; needs df > 1."""
        density = np.exp(self._norm() - (self.df / 2 + 0.5) * np.log1p(z * z / self.df))
        spread = (1.0 + z * z / self.df) / (1.0 - 1.0 / self.df) * density
        return np.asarray(self.scale * np.maximum(z * _student_below(self.df, z) + spread, 0.0))


_NORMAL = 1e15  # degrees of freedom from which the two differ by less than rounding


def _student_quantile(df: Array, p: float) -> Array:
    student = special.stdtrit(np.minimum(df, _NORMAL), p)
    return np.asarray(np.where(df < _NORMAL, student, special.ndtri(p)))


def _student_below(df: Array, z: Array) -> Array:
    student = special.stdtr(np.minimum(df, _NORMAL), z)
    return np.asarray(np.where(df < _NORMAL, student, special.ndtr(z)))
