"""The posterior density of each mean, and the latency distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaln, xlog1py, xlogy

from gateway.config.document import MetricConfig
from gateway.record.histogram import quantile
from gateway.state.base import Counts
from policies.bayes.posterior import Beta, Gamma, Posterior, Student
from policies.bayes.prior import posteriors
from policies.types import RewardSums

Json = dict[str, Any]

POINTS: Final = 64
QUANTILES: Final = (*(k / 20 for k in range(1, 20)), 0.99, 0.999)
_TAIL: Final = 0.001


def distributions(
    variants: Sequence[str],
    declared: Mapping[str, MetricConfig],
    sums: Mapping[tuple[str, str], RewardSums],
    counts: Mapping[str, Counts],
) -> Json:
    """Return by metric the densities at `POINTS` points, and by variant [quantile, milliseconds]."""
    densities = {name: _densities(variants, name, metric, sums) for name, metric in declared.items()}
    return {
        "densities": {name: found for name, found in densities.items() if found is not None},
        "quantiles": {
            v: _quantiles(counts[v].latency) for v in variants if v in counts and counts[v].latency
        },
    }


def _densities(
    variants: Sequence[str], name: str, metric: MetricConfig, sums: Mapping[tuple[str, str], RewardSums]
) -> Json | None:
    known = {v: found for v in variants if (found := sums.get((v, name))) is not None and found.count >= 2}
    if not known:
        return None
    try:
        made = dict(zip(known, posteriors(metric.type, list(known.values())), strict=True))
    except ValueError:
        return None  # values of another type of metric
    low = min(p.quantile(_TAIL) for p in made.values())
    high = max(p.quantile(1.0 - _TAIL) for p in made.values())
    points = np.linspace(low, high, POINTS)
    return {
        "points": points.tolist(),
        "variants": {v: np.nan_to_num(_density(p, points), posinf=0.0).tolist() for v, p in made.items()},
    }


def _density(posterior: Posterior, at: NDArray[np.float64]) -> NDArray[np.float64]:
    match posterior:
        case Beta(a, b):
            log = xlogy(a - 1, at) + xlog1py(b - 1, -at) - betaln(a, b)
        case Gamma(shape, rate):
            log = xlogy(shape - 1, rate * at) - rate * at - gammaln(shape) + np.log(rate)
        case Student(df, loc, scale):
            power, z = (df + 1) / 2, (at - loc) / scale
            log = gammaln(power) - gammaln(df / 2) - np.log(np.pi * df) / 2 - np.log(scale)
            log = log - power * np.log1p(z * z / df)
    return np.asarray(np.exp(log), dtype=np.float64)


def _quantiles(histogram: Mapping[int, int]) -> list[list[float | None]]:
    return [[q, quantile(histogram, q)] for q in QUANTILES]
