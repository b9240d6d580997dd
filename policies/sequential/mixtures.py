"""Curved boundaries that a martingale crosses with probability at most alpha, ever.

A process S with intrinsic time V (its accumulated variance) that is sub-psi stays below each of
these boundaries *at all times at once* with probability at least 1 - alpha, so looking at it each
second costs nothing. All are from Howard, Ramdas, McAuliffe & Sekhon (2021), "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2); the section or
proposition is named in each docstring.

Shapes: ``s`` and ``v`` are numbers or arrays that broadcast; the result has their shape.
``v`` is in squared units of ``s``. ``v_opt`` is the intrinsic time at which the boundary is to be
tightest, and must be chosen before looking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln, gammainc, gammaincc, gammaln, log_ndtr, zeta

Floats = npt.NDArray[np.float64]
Numbers = float | Floats

_DOUBLINGS = 60
_HALVINGS = 64


def _floats(value: npt.ArrayLike) -> Floats:
    return np.asarray(value, dtype=np.float64)


def _log(value: Any) -> Floats:
    """log, with log 0 = -inf in silence: an underflowing factor of a martingale only rounds it down."""
    with np.errstate(divide="ignore"):
        return np.log(_floats(value))


def normal_rho(v_opt: float, alpha_opt: float = 0.05, *, one_sided: bool = False) -> float:
    """The mixture precision that makes the normal mixture bound tightest at ``v_opt`` (Section 3.5).

    rho = v / (2 log(1/a) + log(1 + 2 log(1/a))), with a doubled for one side. Units: those of ``v``.
    """
    a = 2 * alpha_opt if one_sided else alpha_opt
    if not v_opt > 0 or not 0 < a < 1:
        raise ValueError("v_opt must be above 0, and alpha_opt in (0, 1), or in (0, 0.5) for one side")
    return float(v_opt / (-2 * np.log(a) + np.log1p(-2 * np.log(a))))


def normal_log_mixture(
    s: npt.ArrayLike, v: npt.ArrayLike, v_opt: float, alpha_opt: float = 0.05, *, one_sided: bool = True
) -> Floats:
    """log of the normal mixture supermartingale at (s, v); Propositions 5 and 6 (sub-Gaussian S)."""
    s, v = _floats(s), _floats(v)
    rho = normal_rho(v_opt, alpha_opt, one_sided=one_sided)
    base = 0.5 * np.log(rho / (v + rho)) + s * s / (2 * (v + rho))
    if not one_sided:
        return _floats(base)
    return _floats(base + np.log(2) + log_ndtr(s / np.sqrt(v + rho)))


def normal_mixture_bound(
    v: npt.ArrayLike, alpha: float, v_opt: float, alpha_opt: float = 0.05, *, one_sided: bool = True
) -> Floats:
    """The boundary u(v) of the normal mixture: P(exists t: S_t >= u(V_t)) <= alpha (|S_t| for two sides)."""
    v = _floats(v)
    if one_sided:
        return _bound(lambda s: normal_log_mixture(s, v, v_opt, alpha_opt), v, alpha)
    rho = normal_rho(v_opt, alpha_opt)
    return _floats(np.sqrt((v + rho) * (np.log1p(v / rho) - 2 * np.log(alpha))))


def gamma_exponential_log_mixture(
    s: npt.ArrayLike, v: npt.ArrayLike, v_opt: float, c: float, alpha_opt: float = 0.05
) -> Floats:
    """log of the gamma-exponential mixture (Proposition 9); S sub-exponential, scale ``c`` (units of s)."""
    return gamma_exponential_at(s, v, normal_rho(v_opt, alpha_opt, one_sided=True), c)


def gamma_exponential_at(s: npt.ArrayLike, v: npt.ArrayLike, rho: npt.ArrayLike, c: npt.ArrayLike) -> Floats:
    """`gamma_exponential_log_mixture` with the mixture precision ``rho`` itself; all four broadcast.

    Written with what cancels taken out by hand, so that it holds at 1e9 observations.
    """
    s, v, rho, c = _floats(s), _floats(v), _floats(rho), _floats(c)
    prior, shape = rho / c**2, (v + rho) / c**2
    shift = c * s / (v + rho)
    # Below its domain the process is certainly not large; the mixture is zero there, not undefined.
    inside = shift > -1
    shift = np.where(inside, shift, 0.0)
    tail = _log(gammainc(shape, shape * (1 + shift))) - _log(gammainc(prior, prior))
    value = -shape * _log1p_less(shift) + _stirling(shape) - _stirling(prior) + tail
    return _floats(np.where(inside, value, -np.inf))


def gamma_exponential_mixture_bound(
    v: npt.ArrayLike, alpha: float, v_opt: float, c: float, alpha_opt: float = 0.05
) -> Floats:
    """The boundary of the gamma-exponential mixture (Proposition 9)."""
    v = _floats(v)
    return _bound(lambda s: gamma_exponential_log_mixture(s, v, v_opt, c, alpha_opt), v, alpha)


def gamma_poisson_log_mixture(
    s: npt.ArrayLike, v: npt.ArrayLike, v_opt: float, c: float, alpha_opt: float = 0.05
) -> Floats:
    """log of the gamma-Poisson mixture (Proposition 10): sub-Poisson S with scale ``c`` (units of s)."""
    s, v, c2 = _floats(s), _floats(v), c * c
    prior = normal_rho(v_opt, alpha_opt, one_sided=True) / c2
    rate = v / c2 + prior
    shape = s / c + rate
    lead = prior * np.log(prior) - gammaln(prior) - _log(gammaincc(prior, prior))
    return _floats(lead + gammaln(shape) + _log(gammaincc(shape, rate)) - shape * np.log(rate) + v / c2)


def gamma_poisson_mixture_bound(
    v: npt.ArrayLike, alpha: float, v_opt: float, c: float, alpha_opt: float = 0.05
) -> Floats:
    """The boundary of the gamma-Poisson mixture (Proposition 10)."""
    v = _floats(v)
    return _bound(lambda s: gamma_poisson_log_mixture(s, v, v_opt, c, alpha_opt), v, alpha)


def beta_binomial_log_mixture(
    s: npt.ArrayLike,
    v: npt.ArrayLike,
    v_opt: float,
    g: float,
    h: float,
    alpha_opt: float = 0.05,
    *,
    one_sided: bool = True,
) -> Floats:
    """log of the beta-binomial mixture (Propositions 7 and 8): increments of S in [-g, h] with mean 0.

    For a coin of probability p that showed k heads in n throws: g = p, h = 1 - p, s = k - n p and
    v = n p (1 - p).
    """
    s, v = _floats(s), _floats(v)
    width = g + h
    rho = normal_rho(v_opt, alpha_opt, one_sided=one_sided)
    r = max(rho - g * h, 1e-3 * g * h)
    x = h / width if one_sided else 1.0
    ends = (
        v / (g * h) * np.log(width)
        - (v + h * s) / (h * width) * np.log(g)
        - (v - g * s) / (g * width) * np.log(h)
    )
    mass = _log_incomplete_beta((r + v - g * s) / (g * width), (r + v + h * s) / (h * width), x)
    return _floats(ends + mass - _log_incomplete_beta(r / (g * width), r / (h * width), x))


def beta_binomial_mixture_bound(
    v: npt.ArrayLike,
    alpha: float,
    v_opt: float,
    g: float,
    h: float,
    alpha_opt: float = 0.05,
    *,
    one_sided: bool = True,
) -> Floats:
    """The boundary of the beta-binomial mixture; never above v/g, which S can't exceed at time v."""
    v = _floats(v)

    def mixture(s: Floats) -> Floats:
        return beta_binomial_log_mixture(s, v, v_opt, g, h, alpha_opt, one_sided=one_sided)

    return _bound(mixture, v, alpha, high=v / g)


def poly_stitching_bound(
    v: npt.ArrayLike, alpha: float, v_min: float, c: float = 0.0, s: float = 1.4, eta: float = 2.0
) -> Floats:
    """The polynomial stitched boundary (Theorem 1): like sqrt(v log log v); S is sub-gamma, scale ``c``."""
    v = np.maximum(_floats(v), v_min)
    k1 = (eta**0.25 + eta**-0.25) / np.sqrt(2)
    k2 = (np.sqrt(eta) + 1) / 2
    ell = s * np.log(np.log(eta * v / v_min)) + np.log(zeta(s) / (alpha * np.log(eta) ** s))
    drift = k2 * c * ell
    return _floats(np.sqrt(k1 * k1 * v * ell + drift * drift) + drift)


def _log1p_less(x: Floats) -> Floats:
    """log(1 + x) - x, without the cancellation that spoils it near 0."""
    near = np.abs(x) < 0.01
    y = np.where(near, x, 0.0)
    series = -y * y * (1 / 2 - y * (1 / 3 - y * (1 / 4 - y * (1 / 5 - y * (1 / 6 - y / 7)))))
    return _floats(np.where(near, series, np.log1p(x) - x))


def _stirling(a: Floats) -> Floats:
    """log Gamma(a) - a log a + a, by its asymptotic series where the direct form would cancel."""
    large = np.maximum(a, 1.0)
    series = 0.5 * np.log(2 * np.pi / large) + 1 / (12 * large) - 1 / (360 * large**3)
    small = np.minimum(a, 1e3)
    return _floats(np.where(a > 1e3, series, gammaln(small) - small * np.log(small) + small))


def _log_incomplete_beta(a: npt.ArrayLike, b: npt.ArrayLike, x: float) -> Floats:
    whole = _floats(betaln(a, b))
    return whole if x == 1 else _log(betainc(a, b, x)) + whole


def _bound(
    mixture: Callable[[Floats], Floats], v: Floats, alpha: float, high: Floats | None = None
) -> Floats:
    """The s at which the log mixture, rising in s, reaches log(1/alpha)."""
    threshold = -np.log(alpha)
    low = np.zeros_like(v)
    if high is None:
        high = _reach(mixture, np.maximum(v, 1e-9), threshold)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = mixture(middle) > threshold
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return _floats((low + high) / 2)


def _reach(mixture: Callable[[Floats], Floats], high: Floats, threshold: float) -> Floats:
    for _ in range(_DOUBLINGS):
        short = mixture(high) <= threshold
        if not short.any():
            return high
        high = np.where(short, high * 2, high)
    raise ArithmeticError("no upper limit was found for the mixture bound; check v, v_opt and alpha")
