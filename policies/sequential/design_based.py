"""Comparing two variants whose shares moved, from the exact probability of each decision.

Pooling over time would confound: if everything fails more often in the evening, the variant whose share grew in the
evening looks worse. So each value is weighted, by h / p: p is the propensity of its decision, and h, the same for both
variants, says how much a moment counts. Both means are then those of the same requests, whatever moved the shares
and however the means move with time. With p_b and p_c the propensities of the two variants at that moment,
h = p_b p_c / (p_b + p_c): the overlap weights of Li, Morgan & Zaslavsky (2018), "Balancing covariates via propensity
score weighting", JASA 113. They vary least for a constant difference, lie below 1, and are equal while shares are.
Inverse propensities (h = 1) would let the few values of a variant at its floor outweigh all others.

The interval is the asymptotic confidence sequence over the linearised terms w (y - mean), whose squares bound the
variance by design: Ham, Bojinov, Lindon & Tingley (2022), "Design-based confidence sequences", arXiv:2210.08639,
Section 4; Waudby-Smith et al. (2024), Section 3, for the sequence; Sarndal, Swensson & Wretman, "Model Assisted Survey
Sampling" (1992), Section 5.7, for the linearisation of a ratio.

Sums only: periods of constant propensity are added in any order.

A sticky unit stays while shares move, so its values lie in many periods. Each has the weight of its own decision: a
unit's mean would hold the values from its stay on a variant, and be later for the variant that gains units. The values
of a unit go together, so the variance is that between units: that of independent values times the `design_effect`
(Kish, "Survey Sampling", 1965, Section 5.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from math import inf, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from policies.sequential.asymptotic import MIN_VALUES, Sample
from policies.types import PairSums, RewardSums

Columns = npt.NDArray[np.float64]

_UNKNOWN: Final[Mapping[str, PairSums]] = {}
SAME_SHARES: Final = 1e-6
"""Change of one variant's share among two below which it counts as constant."""


@dataclass(frozen=True, slots=True)
class WeightedSums:
    """Sums over one variant's values y with weights w."""

    count: float = 0.0
    weight: float = 0.0
    """Sum of w."""
    total: float = 0.0
    """Sum of w y."""
    squares: float = 0.0
    """Sum of w y^2."""
    weight2: float = 0.0
    """Sum of w^2."""
    total2: float = 0.0
    """Sum of w^2 y."""
    squares2: float = 0.0
    """Sum of w^2 y^2."""
    groups: float = inf
    """Effective number of units behind the values."""

    @classmethod
    def of(cls, sums: RewardSums, w: float) -> WeightedSums:
        """Return the sums of values that all have the weight ``w``."""
        n, total, squares = sums.count, sums.total, sums.squares
        return cls(n, w * n, w * total, w * squares, w * w * n, w * w * total, w * w * squares)

    def __add__(self, other: WeightedSums) -> WeightedSums:
        return WeightedSums(
            self.count + other.count,
            self.weight + other.weight,
            self.total + other.total,
            self.squares + other.squares,
            self.weight2 + other.weight2,
            self.total2 + other.total2,
            self.squares2 + other.squares2,
            min(self.groups, other.groups),
        )

    def squared_deviations(self) -> float:
        """Return the sum of w^2 (y - mean)^2."""
        mean = self.total / self.weight
        return max(self.squares2 - 2 * mean * self.total2 + mean * mean * self.weight2, 0.0)

    def by_unit(self, effect: float, groups: float) -> WeightedSums:
        """Return the sums that tell as much as those of ``groups`` units with the design effect ``effect``."""
        return replace(
            self,
            weight2=self.weight2 * effect,
            total2=self.total2 * effect,
            squares2=self.squares2 * effect,
            groups=groups,
        )

    def sample(self) -> Sample | None:
        """Return the sample that intervals take; None below two values.

        Its size is Kish's, (sum of w)^2 / sum of w^2; the number of units where that is too small for an interval.
        """
        if self.count < 2 or not self.weight > 0:
            return None
        size, mean, bessel = (
            self.weight**2 / self.weight2,
            self.total / self.weight,
            self.count / (self.count - 1),
        )
        spread = max(self.squares / self.weight - mean * mean, 0.0) * bessel
        size = size if self.groups >= MIN_VALUES else min(size, self.groups)
        return Sample(size, mean, spread, self.squared_deviations() * bessel / self.weight**2)


def inverse_weighted(sums: PairSums) -> WeightedSums:
    """Return the sums of values that are each weighted by w = 1 / p, from those of w y and of w.

    For requests that are each drawn with a propensity of their own: both means are then those of all requests (Horvitz
    & Thompson 1952; normalised by the weights, Hajek 1971). The variance of a value is that under the weights w^2.
    """
    total, weight = sums.x, sums.y
    if not weight.total > 0:
        return WeightedSums()
    total2, mean = (sums.both.squares - total.squares - weight.squares) / 2, total.total / weight.total
    spread = max(total.squares - 2 * mean * total2 + mean * mean * weight.squares, 0.0) / weight.squares
    squares = weight.total * (spread + mean * mean)
    return WeightedSums(
        weight.count, weight.total, total.total, squares, weight.squares, total2, total.squares
    )


@dataclass(frozen=True, slots=True)
class UnitSums:
    """How the values of the units of one variant go together."""

    weighted: PairSums
    """Of the sums of w y and of w over the values y of each unit, w = 1 - propensity."""
    values: float
    """Number of values, with those that follow."""
    missing: float = 0.0
    """Number of values that count as zero, whose units are unknown."""
    loose: float = 0.0
    """Number of values without a unit."""
    requests: PairSums | None = None
    """Of the weights of the requests of each unit that failed, and of all its requests, one without a unit being its
    own; None: not known."""
    worst: RewardSums = field(default_factory=RewardSums)
    """Of ``missing``, those that do not count as zero but, since the request failed, as the metric's worst value; with
    the weights of ``requests``."""


def design_effect(alone: WeightedSums, units: UnitSums) -> tuple[float, float]:
    """Return the variance between units over that of independent values, at least 1, and the effective units.

    ``alone``: the sums of the values with the same weights. Where the requests of units are not known, missing values
    are taken for those of units as large as the others, all of whose values are missing. Values that are not among
    ``units``, because only a part of the time is known by unit, are taken for further ones of the same units: the
    variance is then rather too large. Failures beyond those that are known by unit are taken for those of units whose
    requests all failed.
    """
    sums, weights = units.weighted.x, units.weighted.y
    missing, loose = units.missing / units.values, units.loose / units.values
    grouped, deviations = 1.0 - missing - loose, alone.squared_deviations()
    told = grouped > 0 and weights.squares > 0
    covering = alone.weight * grouped / weights.total if told else 0.0
    size, known = weights, covering
    if units.requests is not None and units.requests.y.squares > 0:
        size, known = units.requests.y, alone.weight / units.requests.y.total
        grouped, missing = 1.0, 0.0
    groups = min(known, 1.0) * size.total**2 / size.squares / grouped if known > 0 else inf
    if not (deviations > 0 and known > 0):
        return 1.0, groups
    mean, of_failures = alone.total / alone.weight, 0.0
    if units.requests is not None and units.worst.count > 0:
        of_failures = _of_failures(units.requests, units.worst, alone.weight)
        mean -= units.worst.total / alone.weight
    # Of the products of a unit's sum and its requests, those with the requests that were rewarded are known, and less.
    between = covering * max(covering, 1.0) * (sums.squares - 2 * mean * _products(units.weighted))
    between += known * max(known, 1.0) * mean * mean * size.squares * (1.0 + missing / grouped)
    # Which units were rewarded and failed is not known: as if they were the same ones.
    between = (max(between, 0.0) ** 0.5 + of_failures) ** 2
    return max(between / deviations + loose, 1.0), groups


def _of_failures(requests: PairSums, worst: RewardSums, weight: float) -> float:
    """Return the square root of the variance between units that failures of the total ``weight`` make, at most."""
    failed, size = requests.x, requests.y
    known = weight / size.total
    failing, earlier = failed.total / size.total, max(worst.count - min(known, 1.0) * failed.total, 0.0)
    told = failed.squares - 2 * failing * _products(requests) + failing * failing * size.squares
    of_unit = max(known, 1.0) * size.squares / size.total  # the requests of a unit, as a request meets it
    untold = earlier * of_unit * (1.0 - min(earlier / weight, 1.0))
    return abs(worst.mean) * (sqrt(min(known, 1.0) * max(told, 0.0)) + sqrt(untold))


def _products(pairs: PairSums) -> float:
    """The sum of x y."""
    return (pairs.both.squares - pairs.x.squares - pairs.y.squares) / 2


@dataclass(frozen=True, slots=True)
class Period:
    """A period of constant propensities: each variant's propensity, and the sums of its values by metric."""

    propensities: Mapping[str, float]
    sums: Mapping[tuple[str, str], RewardSums]
    """By (variant, metric)."""
    units: Mapping[tuple[str, str], UnitSums] = field(default_factory=dict)
    """By (variant, metric), for values of units that are counted one by one."""


class Periods:
    """P periods of constant propensities, as columns."""

    def __init__(self, periods: Sequence[Period]) -> None:
        variants = dict.fromkeys(variant for period in periods for variant in period.propensities)
        keys = dict.fromkeys(key for period in periods for key in period.sums)
        self._propensity = {v: np.asarray([p.propensities.get(v, 0.0) for p in periods]) for v in variants}
        self._sums = {key: _columns([p.sums.get(key, _NONE) for p in periods]) for key in keys}
        self._units = [period.units for period in periods]
        self._never = np.zeros(len(periods))

    @classmethod
    def joined(cls, parts: Sequence[Periods], requests: Mapping[str, PairSums] = _UNKNOWN) -> Periods:
        """Return the periods of all ``parts``, one part after the other.

        ``requests``: `UnitSums.requests` of each variant, where values are missing.
        """
        found, parts = cls(()), [part for part in parts if part._never.size]
        for variant in dict.fromkeys(variant for part in parts for variant in part._propensity):
            columns = [part._propensity.get(variant, part._never) for part in parts]
            found._propensity[variant] = np.concatenate(columns)
        for key in dict.fromkeys(key for part in parts for key in part._sums):
            sums = [part._sums.get(key, np.zeros((part._never.size, 3))) for part in parts]
            found._sums[key] = np.concatenate(sums)
        found._units = [units for part in parts for units in part._units]
        if requests:
            found._units = [
                {
                    (variant, metric): replace(units, requests=requests.get(variant))
                    if units.missing
                    else units
                    for (variant, metric), units in each.items()
                }
                for each in found._units
            ]
        found._never = np.zeros(len(found._units))
        return found

    def first(self, count: int) -> Periods:
        """Return the first ``count`` of the periods, without a copy."""
        part = copy(self)
        part._propensity = {variant: column[:count] for variant, column in self._propensity.items()}
        part._sums = {key: columns[:count] for key, columns in self._sums.items()}
        part._units = self._units[:count]
        part._never = self._never[:count]
        return part

    def one_by_one(self, metric: str) -> bool:
        """Return whether values of units are counted one by one."""
        return any(m == metric for units in self._units for _, m in units)

    def moved(self, baseline: str, candidate: str, *, while_both: bool = False) -> bool:
        """Return whether the ratio of both variants' propensities changed while either (both) could be drawn."""
        b, c = (self._propensity.get(variant, self._never) for variant in (baseline, candidate))
        drawn = (b > 0) & (c > 0) if while_both else (b > 0) | (c > 0)
        share = c[drawn] / (b[drawn] + c[drawn])
        return bool(share.size) and bool(np.ptp(share) > SAME_SHARES)

    def weighted(self, metric: str, *variants: str) -> tuple[WeightedSums, ...]:
        """Return the sums of each variant over the periods in which all of ``variants`` could be drawn.

        A variant's weight is h / p with 1 / h the sum of all their 1 / p.
        """
        p = np.asarray([self._propensity.get(variant, self._never) for variant in variants])
        drawn = np.asarray((p > 0).all(axis=0))
        return tuple(
            self._by_unit(variant, metric, _weighted(self._sums.get((variant, metric)), drawn, weight))
            for variant, weight in zip(variants, overlap_weights(p[:, drawn]), strict=True)
        )

    def _by_unit(self, variant: str, metric: str, found: WeightedSums) -> WeightedSums:
        p, key = self._propensity.get(variant, self._never), (variant, metric)
        each = [
            (units[key], w) for units, w in zip(self._units, (1.0 - p).tolist(), strict=True) if key in units
        ]
        if not each or not found.weight > 0:
            return found
        alone = _weighted(self._sums.get(key), p > 0, 1.0 - p[p > 0])
        worst = _sum([units.worst * w for units, w in each])
        together = replace(_together([units for units, _ in each]), worst=worst)
        return found.by_unit(*design_effect(alone, together)) if alone.weight > 0 else found


def _together(each: Sequence[UnitSums]) -> UnitSums:
    pairs = [units.weighted for units in each]
    parts = (_sum([getattr(pair, name) for pair in pairs]) for name in ("x", "y", "both"))
    values, missing, loose = np.asarray([(units.values, units.missing, units.loose) for units in each]).sum(
        axis=0
    )
    requests = next((units.requests for units in each if units.requests is not None), None)
    return UnitSums(PairSums(*parts), float(values), float(missing), float(loose), requests)


def _sum(sums: Sequence[RewardSums]) -> RewardSums:
    return RewardSums(*_columns(sums).sum(axis=0).tolist())


def overlap_weights(propensities: Columns) -> Columns:
    """Return the weights h / p of each variant's values, from the propensities; both (variants, P)."""
    w = 1.0 / propensities
    return np.asarray(w / w.sum(axis=0))


def _weighted(columns: Columns | None, kept: npt.NDArray[np.bool_], w: Columns) -> WeightedSums:
    if columns is None:
        return WeightedSums()
    values = columns[kept]
    return WeightedSums(float(values[:, 0].sum()), *(w @ values).tolist(), *((w * w) @ values).tolist())


_NONE: Final = RewardSums()


def _columns(sums: Sequence[RewardSums]) -> Columns:
    """Counts, totals and squares; (P, 3)."""
    return np.asarray([(s.count, s.total, s.squares) for s in sums], dtype=np.float64)
