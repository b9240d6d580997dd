"""The posterior density of each mean, and the latency distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaln, xlog1py, xlogy

from gateway.config.service import MetricConfig
from gateway.record.histogram import quantile
from gateway.state.base import Counts
from policies.bayes.posterior import Beta, Gamma, Posterior, Student
from policies.bayes.prior import posteriors
from policies.types import RewardSums

Json = dict[str, Any]

POINTS: Final = 64
QUANTILES: Final = (*(k / 20 for k in range(1, 20)), 0.99, 0.999)
_TAIL: Final = 0.001
_BASE_QUANTILES: Final = 200


def distributions(
    variants: Sequence[str],
    declared: Mapping[str, MetricConfig],
    sums: Mapping[tuple[str, str], RewardSums],
    counts: Mapping[str, Counts],
    baseline: str,
) -> Json:
    """Return by metric the densities of the means, and of their differences from the baseline's, at `POINTS` points;
    and by variant [quantile, milliseconds]."""
    made = {name: _posteriors(variants, name, metric, sums) for name, metric in declared.items()}
    return {
        "baseline": baseline,
        "densities": {name: _densities(found) for name, found in made.items() if found},
        "differences": {
            name: _differences(found, baseline)
            for name, found in made.items()
            if baseline in found and len(found) > 1
        },
        "quantiles": {
            v: _quantiles(counts[v].latency) for v in variants if v in counts and counts[v].latency
        },
    }


def _posteriors(
    variants: Sequence[str], name: str, metric: MetricConfig, sums: Mapping[tuple[str, str], RewardSums]
) -> dict[str, Posterior]:
    """By variant with at least two values; empty for values of another type of metric."""
    known = {v: found for v in variants if (found := sums.get((v, name))) is not None and found.count >= 2}
    try:
        return dict(zip(known, posteriors(metric.type, list(known.values())), strict=True)) if known else {}
    except ValueError:
        return {}


def _densities(made: Mapping[str, Posterior]) -> Json:
    low = min(p.quantile(_TAIL) for p in made.values())
    high = max(p.quantile(1.0 - _TAIL) for p in made.values())
    points = np.linspace(low, high, POINTS)
    return {
        "points": points.tolist(),
        "variants": {v: np.nan_to_num(_density(p, points), posinf=0.0).tolist() for v, p in made.items()},
    }


def _differences(made: Mapping[str, Posterior], baseline: str) -> Json:
    """The densities of X - B: the mean of X's density at d + b, over evenly spaced quantiles b of B."""
    base = np.array([made[baseline].quantile((k + 0.5) / _BASE_QUANTILES) for k in range(_BASE_QUANTILES)])
    others = {v: p for v, p in made.items() if v != baseline}
    low = min(p.quantile(_TAIL) for p in others.values()) - base[-1]
    high = max(p.quantile(1.0 - _TAIL) for p in others.values()) - base[0]
    points = np.linspace(low, high, POINTS)
    at = points[:, None] + base[None, :]
    found = {v: np.nan_to_num(_density(p, at), posinf=0.0).mean(axis=1).tolist() for v, p in others.items()}
    return {"points": points.tolist(), "variants": found}


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
