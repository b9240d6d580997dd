"""Confidence sequences for quantiles, and the A/B test of a quantile from raw samples.

Howard & Ramdas (2022), "Sequential estimation of quantiles with applications to A/B testing and
best-arm identification", Bernoulli 28(3). Everything holds at all sample sizes at once. Latencies
kept as histograms have their own module, `policies.sequential.latency`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit, zeta

from policies.sequential.mixtures import Floats, beta_binomial_log_mixture


def empirical_process_lil_bound(t: float, alpha: float, t_min: float, a: float = 0.85) -> float:
    """Half-width of a band around the whole empirical distribution function (Theorem 2).

    a * sqrt((log(1 + log(t / t_min)) + C) / t), with C such that the band holds for all t >= t_min with
    probability 1 - alpha; infinite before ``t_min`` samples. ``a`` must be above 1/sqrt(2).
    """
    if t < t_min:
        return float("inf")
    constant = brentq(lambda c: _lil_error(c, a) - alpha, 5.0, _lil_ceiling(alpha, a), xtol=1e-12)
    return float(a * np.sqrt((np.log1p(np.log(t / t_min)) + constant) / t))


def _lil_ceiling(alpha: float, a: float) -> float:
    high = 10.0
    while _lil_error(high, a) > alpha:
        high *= 2
    return high


def _lil_error(c: float, a: float) -> float:
    """The probability that the band with constant ``c`` is ever left, at the best choice of eta."""

    def gamma_squared(eta: float) -> float:
        return float(2 / eta * (a - np.sqrt(2 * (eta - 1) / c)) ** 2)

    def error(eta: float) -> float:
        g = gamma_squared(eta)
        return float("inf") if g <= 1 else float(4 * np.exp(-g * c) * (1 + 1 / ((g - 1) * np.log(eta))))

    top = brentq(lambda eta: np.sqrt(eta / 2) + np.sqrt(2 * (eta - 1) / c) - a, 1.0, 2 * a * a)
    best = minimize_scalar(error, bounds=(1.0, top), method="bounded", options={"xatol": 1e-12})
    return float(best.fun)


def double_stitching_bound(
    p: float, t: float, alpha: float, t_opt: float, delta: float = 0.5, s: float = 1.4, eta: float = 2.0
) -> float:
    """How many more than p*t samples may lie below the p-quantile, for all p and t at once (Theorem 3).

    Unit: samples. Divide by t for a share. For the lower side use 1 - p.
    """
    k1 = (eta**0.25 + eta**-0.25) / np.sqrt(2)
    k2 = (np.sqrt(eta) + 1) / 2
    m = max(t, t_opt)
    r = p if p >= 0.5 else min(0.5, float(expit(logit(p) + 2 * delta * np.sqrt(t_opt * eta / m))))
    variance = r * (1 - r)
    j = np.sqrt(m / t_opt) * abs(logit(p)) / (2 * delta) + 1
    z = zeta(s)
    ell = s * np.log(np.log(eta * m / t_opt)) + s * np.log(j)
    ell += np.log(2 * z * (2 * z + 1) / (alpha * np.log(eta) ** s))
    drift = k2 * (1 - 2 * p) / 3 * ell
    root = np.sqrt(k1 * k1 * variance * m * ell + drift * drift)
    return float(delta * np.sqrt(eta * m * variance / t_opt) + root + drift)


def quantile_ab_p_value(
    a: npt.ArrayLike, b: npt.ArrayLike, p: float, t_opt: float, alpha_opt: float = 0.05
) -> float:
    """Always-valid p-value for "the p-quantiles of both samples are equal" (Section 5).

    ``a``, ``b``: one-dimensional samples of any order and lengths. ``t_opt``: the sample size at which the
    test is to be sharpest. The product of both arms' beta-binomial martingales is minimised over every
    value that the common quantile could have.
    """
    first, second = _Arm(a, p, t_opt, alpha_opt), _Arm(b, p, t_opt, alpha_opt)
    if first.high > second.high:
        first, second = second, first
    # Between the arms' own quantiles one martingale rises and the other falls, in steps at samples
    # of the second; outside, both rise. So the minimum is at one of these points.
    inside = second.sorted[(second.sorted >= first.high) & (second.sorted <= second.low)]
    points = np.concatenate([[first.high, second.low], inside])
    return float(min(1.0, np.exp(-np.min(first(points) + second(points)))))


class _Arm:
    """The log martingale of one sample as a function of the value that its quantile is supposed to have."""

    def __init__(self, sample: npt.ArrayLike, p: float, t_opt: float, alpha_opt: float) -> None:
        self.sorted: Floats = np.sort(np.asarray(sample, dtype=np.float64))
        n = self.sorted.size
        if not n:
            raise ValueError("a sample is empty; wait for the first value of each variant")
        variance = p * (1 - p)
        self._mixture: Callable[[Floats], Floats] = lambda below: beta_binomial_log_mixture(
            (below - p) * n, variance * n, t_opt * variance, p, 1 - p, alpha_opt, one_sided=False
        )
        share = minimize_scalar(
            lambda q: float(self._mixture(np.asarray(q))), bounds=(0, 1), method="bounded"
        )
        self._bottom = float(share.x)
        self.low = float(self.sorted[max(int(np.ceil(self._bottom * n)) - 1, 0)])
        self.high = float(self.sorted[min(int(np.floor(self._bottom * n)), n - 1)])

    def __call__(self, x: Floats) -> Floats:
        upto = np.searchsorted(self.sorted, x, side="right") / self.sorted.size
        under = np.searchsorted(self.sorted, x, side="left") / self.sorted.size
        return self._mixture(np.where(x < self.low, upto, np.where(x > self.high, under, self._bottom)))
