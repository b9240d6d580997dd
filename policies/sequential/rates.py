"""The always-valid interval of a rate.

The other always-valid tools: `policies.sequential.mixtures` (boundaries), `policies.sequential.quantiles` and
`policies.sequential.latency` (quantiles), `policies.sequential.betting` (yes and no),
`policies.sequential.asymptotic` (unbounded means), `policies.sequential.two_sample` (two variants against each
other), `policies.sequential.srm` (sample-ratio mismatch).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

from policies.sequential.mixtures import beta_binomial_log_mixture

_TINY = 1e-15


def bernoulli_confidence_interval(
    successes: float, n: float, alpha: float, t_opt: float, alpha_opt: float = 0.05
) -> tuple[float, float]:
    """(low, high) for a probability, valid at all times at once.

    All p at which the two-sided beta-binomial martingale of the observed count is below 1/alpha: Howard
    et al. (2021), Section 4.3 with Proposition 7. ``t_opt``: the count at which the interval is to be
    tightest. (0, 1) when nothing was observed.
    """
    if not 0 <= successes <= n:
        raise ValueError("successes must lie between 0 and n")
    if n == 0:
        return 0.0, 1.0
    mean = successes / n

    def excess(p: float) -> float:
        v = p * (1 - p)
        log = beta_binomial_log_mixture(
            successes - n * p, n * v, t_opt * v, p, 1 - p, alpha_opt, one_sided=False
        )
        return float(log) + math.log(alpha)

    low = _root(excess, _TINY, mean) if successes > 0 else 0.0
    high = _root(excess, 1 - _TINY, mean) if successes < n else 1.0
    return low, high


def _root(excess: Callable[[float], float], edge: float, mean: float) -> float:
    """Where ``excess`` changes sign between the mean and the edge of [0, 1]; the edge if it never does."""
    inner = min(max(mean, _TINY), 1 - _TINY)
    if excess(edge) <= 0:
        return float(round(edge))
    return float(brentq(excess, min(edge, inner), max(edge, inner), xtol=1e-14))
