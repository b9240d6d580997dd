"""Mixtures of exponential martingales, the building blocks of every always-valid test of a mean.

Howard, Ramdas, McAuliffe & Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Annals of Statistics 49(2). A process S with intrinsic time V (its accumulated variance, in
squared units of S) that is sub-psi exceeds 1/alpha in such a mixture at some time with probability at
most alpha (Ville 1939), so it may be looked at continuously.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import gammainc, gammaln

Floats = npt.NDArray[np.float64]


def normal_rho(v_opt: float, alpha_opt: float = 0.05, *, one_sided: bool = False) -> float:
    """Return the mixture precision that makes a mixture tightest at intrinsic time ``v_opt`` (Section 3.5).

    rho = v / (2 log(1/a) + log(1 + 2 log(1/a))), with a doubled for one side. Units: those of ``v_opt``.

    Raises:
        ValueError: ``v_opt`` is not above 0, or ``alpha_opt`` not in (0, 1) (one side: (0, 0.5)).
    """
    a = 2 * alpha_opt if one_sided else alpha_opt
    if not v_opt > 0 or not 0 < a < 1:
        raise ValueError("v_opt must be above 0, and alpha_opt in (0, 1), or in (0, 0.5) for one side")
    return float(v_opt / (-2 * np.log(a) + np.log1p(-2 * np.log(a))))


def gamma_exponential_log_mixture(
    s: npt.ArrayLike, v: npt.ArrayLike, rho: npt.ArrayLike, c: npt.ArrayLike
) -> Floats:
    """Return the log of the gamma-exponential mixture of precision ``rho`` at (s, v) (Proposition 9).

    S is sub-exponential with scale ``c``, in units of S. All four broadcast. Terms that cancel are taken out
    by hand, so that the result holds at 1e9 observations.
    """
    s, v, rho, c = _floats(s), _floats(v), _floats(rho), _floats(c)
    prior, shape = rho / c**2, (v + rho) / c**2
    shift = c * s / (v + rho)
    # Below its domain the process is certainly not large; the mixture is zero there, not undefined.
    inside = shift > -1
    shift = np.where(inside, shift, 0.0)
    with np.errstate(divide="ignore"):  # a factor that underflows only rounds the martingale down
        tail = np.log(gammainc(shape, shape * (1 + shift))) - np.log(gammainc(prior, prior))
    value = -shape * _log1p_less(shift) + _stirling(shape) - _stirling(prior) + tail
    return _floats(np.where(inside, value, -np.inf))


def _floats(value: npt.ArrayLike) -> Floats:
    return np.asarray(value, dtype=np.float64)


def _log1p_less(x: Floats) -> Floats:
    """log(1 + x) - x, without the cancellation near 0."""
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
