"""Predicted means of variants, and their differences, by segment of the requests.

A segment is all requests, those with one value of a category, those that lack a feature, or a point of a number (its
mean less and plus one standard deviation). Its row is the mean of its requests' rows, over all variants together, so
that every variant is predicted for the same requests. No request is read for that: the sums behind the posterior hold
Σ x xᵀ, whose row of an indicator is the sum of the rows that have it.

The prediction of a row is Student with 2a degrees of freedom (`policies.contextual.regression`). A difference takes the
smaller of the two, which keeps the interval wide enough (Hsu's bound for the Behrens-Fisher problem).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Final

import numpy as np
from scipy import special

from policies.contextual.features import Categorical, Feature, Numeric
from policies.contextual.regression import Array, Coefficients

MIN_SPREAD: Final = 1e-6
"""Of a scaled number: below it all requests have the same value, and there are no two points to compare."""

Predicted = tuple[float, tuple[float, float]]
"""A posterior mean and its equal-tailed credible interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Requests that have something in common; ``feature`` is "" for all of them."""

    feature: str
    value: str
    row: Array
    """(d,)."""
    rewards: float | None
    """How many of its requests have a reward; None for a point of a number."""

    def predict(self, of: Coefficients, level: float = 0.95) -> Predicted:
        """Return the mean that a variant is predicted to have over the segment."""
        mean, scale = self._student(of)
        return _interval(mean, scale, 2.0 * of.a, level)

    def difference(self, of: Coefficients, baseline: Coefficients, level: float = 0.95) -> Predicted:
        """Return the predicted difference of two variants' means."""
        (first, scale), (second, other) = self._student(of), self._student(baseline)
        return _interval(first - second, hypot(scale, other), 2.0 * min(of.a, baseline.a), level)

    def _student(self, of: Coefficients) -> tuple[float, float]:
        mean, scale = of.predict(self.row[None, :])
        return float(mean[0]), float(scale[0])


def segments(features: Sequence[Feature], xx: Array) -> list[Segment]:
    """Return the segments of the requests behind ``xx``, Σ x xᵀ over all variants; none without requests."""
    count = float(xx[0, 0])
    if count <= 0:
        return []
    found = [Segment("", "all requests", xx[0] / count, count)]
    column = 1
    for feature in features:
        made = (
            _of_category(feature, xx, column)
            if isinstance(feature, Categorical)
            else _of_number(feature, xx, column)
        )
        found += made
        column += len(feature.columns)
    return found


def _of_category(feature: Categorical, xx: Array, column: int) -> Iterator[Segment]:
    columns = range(column, column + len(feature.values))
    for value, k in zip(feature.values, columns, strict=True):
        yield from _group(feature.name, value, xx[k], float(xx[k, k]))
    rest = float(xx[0, 0] - sum(xx[k, k] for k in columns))
    yield from _group(feature.name, "any other", xx[0] - sum(xx[k] for k in columns), rest)


def _of_number(feature: Numeric, xx: Array, column: int) -> Iterator[Segment]:
    missing = float(xx[column + 1, column + 1])
    known = float(xx[0, 0]) - missing
    if known > 0.5:
        row = (xx[0] - xx[column + 1]) / known
        spread = sqrt(max(0.0, float(xx[column, column]) / known - float(row[column]) ** 2))
        for end in (-spread, spread) if spread > MIN_SPREAD else ():
            at = np.array(row)
            at[column] = min(1.0, max(-1.0, row[column] + end))
            value = feature.minimum + (at[column] + 1.0) / 2.0 * (feature.maximum - feature.minimum)
            yield Segment(feature.name, f"about {value:.3g}", at, None)
    yield from _group(feature.name, "missing", xx[column + 1], missing)


def _group(feature: str, value: str, total: Array, count: float) -> Iterator[Segment]:
    if count > 0.5:
        yield Segment(feature, value, total / count, count)


def _interval(mean: float, scale: float, df: float, level: float) -> Predicted:
    half = float(special.stdtrit(df, (1.0 + level) / 2)) * scale
    return mean, (mean - half, mean + half)
