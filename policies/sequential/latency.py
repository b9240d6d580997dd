"""Always-valid intervals for latency quantiles, and for their ratio between two variants, from histograms.

A histogram is {bucket index: count}; ``edges(i)`` gives the lower and upper end of bucket i, in
milliseconds. Histograms merge by adding, so any number of workers and windows can be put together.

If x is the true p-quantile, each value falls below x with probability p, so the count below x follows
the martingale of a rate (`policies.sequential.two_sample.rate_log_martingale`) at p. All x that it does not refute
make the confidence sequence (Howard & Ramdas 2022, Section 3), and the product of two variants'
martingales tests every pair of quantiles (their Section 5). Within a bucket the count below x is known
only to lie between two numbers; the smaller evidence is taken, so that buckets widen an interval, and
never make it too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from policies.sequential.mixtures import Floats
from policies.sequential.two_sample import rate_log_martingale

Edges = Callable[[int], tuple[float, float]]
"""(lower end, upper end) of a bucket in milliseconds."""
Histogram = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Cells:
    """The positive axis cut where the count below changes; ``level`` is the least evidence in each cell."""

    low: Floats
    high: Floats
    level: Floats
    centre: int
    """The cell that the data speak least against."""

    def farthest(self, room: Floats, *, up: bool) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """For each ``room``, the outermost cell above (below) the centre whose level is below it."""
        branch = self.level[self.centre :] if up else self.level[self.centre :: -1]
        steps = np.searchsorted(np.maximum.accumulate(branch), room, side="left") - 1
        return np.asarray(self.centre + steps if up else self.centre - steps)


def _cells(histogram: Histogram, p: float, edges: Edges) -> _Cells:
    buckets = sorted(bucket for bucket, count in histogram.items() if count > 0)
    ends = np.asarray([edges(bucket) for bucket in buckets], dtype=np.float64)
    upto = np.cumsum([histogram[bucket] for bucket in buckets], dtype=np.float64)
    before = np.concatenate([[0.0], upto[:-1]])
    # A gap before each bucket (of no width between neighbours), each bucket, and all beyond the last.
    low = np.append(np.column_stack([np.append(0.0, ends[:-1, 1]), ends[:, 0]]).ravel(), ends[-1, 1])
    high = np.append(ends.ravel(), math.inf)
    least = np.append(np.column_stack([before, before]).ravel(), upto[-1])
    most = np.append(np.column_stack([before, upto]).ravel(), upto[-1])
    n = upto[-1]
    # The martingale is convex in the count: the point of a range that is nearest to its lowest has the least evidence.
    level = _level(np.clip(_bottom(n, p), least, most), n, p)
    return _Cells(low, high, level, int(np.argmin(level)))


def _level(below: Floats, n: float, p: float) -> Floats:
    return rate_log_martingale(np.asarray(p), below, np.asarray(n))


def _bottom(n: float, p: float) -> float:
    """The count below, of n, that speaks least against p: near n p; the martingale is convex in it."""
    left, right = 0.0, float(n)
    for _ in range(5):
        grid = np.linspace(left, right, 33)
        at = int(np.argmin(_level(grid, n, p)))
        left, right = float(grid[max(at - 1, 0)]), float(grid[min(at + 1, 32)])
    return (left + right) / 2


def quantile_ratio(
    baseline: Histogram, candidate: Histogram, p: float, alpha: float, edges: Edges
) -> tuple[float, float]:
    """(low, high) for candidate's p-quantile / baseline's, at all times; probability 1 - alpha.

    (0, inf) when nothing was observed; high is infinite until about log(1/alpha) / (1 - p) values of both came.
    """
    return _contrast(baseline, candidate, p, alpha, edges, _divide)


def quantile_difference(
    baseline: Histogram, candidate: Histogram, p: float, alpha: float, edges: Edges
) -> tuple[float, float]:
    """(low, high) for candidate's p-quantile - baseline's, in milliseconds; else as `quantile_ratio`."""
    if not _size(baseline) or not _size(candidate):
        return -math.inf, math.inf
    return _contrast(baseline, candidate, p, alpha, edges, np.subtract)


def _divide(candidate: Floats, baseline: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = candidate / baseline
    # Both unknown (0/0, inf/inf): the end that was asked for is the one that can't be excluded.
    return np.where(np.isnan(ratio), np.where(np.isinf(candidate), np.inf, 0.0), ratio)


def _contrast(
    baseline: Histogram,
    candidate: Histogram,
    p: float,
    alpha: float,
    edges: Edges,
    measure: Callable[[Floats, Floats], Floats],
) -> tuple[float, float]:
    if not _size(baseline) or not _size(candidate):
        return 0.0, math.inf
    first, second = _cells(baseline, p, edges), _cells(candidate, p, edges)
    room = -math.log(alpha) - first.level
    kept = room > second.level[second.centre]
    room, low, high = room[kept], first.low[kept], first.high[kept]
    lowest = measure(second.low[second.farthest(room, up=False)], high)
    highest = measure(second.high[second.farthest(room, up=True)], low)
    return float(np.min(lowest)), float(np.max(highest))


def _size(histogram: Histogram) -> float:
    return sum(histogram.values())


def quantile_estimate(histogram: Histogram, p: float, edges: Edges) -> float:
    """The p-quantile in milliseconds, to within a bucket; NaN when nothing was observed."""
    total = _size(histogram)
    passed = 0.0
    for bucket in sorted(histogram):
        passed += histogram[bucket]
        if passed >= p * total and passed > 0:
            low, high = edges(bucket)
            return math.sqrt(low * high) if low > 0 else high / 2
    return math.nan
