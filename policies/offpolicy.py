"""What another policy would have earned, from the record of the one that ran.

Each row says which variant was assigned, with what probability, and what reward came. With the weight
w = π(variant | features) / propensity,

    IPS     mean of w r                                          Horvitz & Thompson 1952
    SNIPS   Σ w r / Σ w                                          Hájek 1971; Swaminathan & Joachims 2015
    DM      mean of Σ_v π(v | x) q(v, x), q a model of the reward
    DR      DM + mean of w (r - q(variant, x))                   Dudík, Langford & Li 2011

IPS is unbiased, SNIPS steadier; DM is as good as its model; DR is right if either the propensities or the
model are, and here the propensities are exact. The model is fitted without the row that it predicts
(cross-fitting: Chernozhukov et al. 2018). Rows of one unit stand or fall together: all errors are between
units and not between rows.

An estimate is refused, with the reason, when the record can't carry it: see `Limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from policies.contextual.features import Feature, Raw, encode
from policies.contextual.regression import LinearSums, fit

Array = NDArray[np.float64]
Places = NDArray[np.intp]
_NO_FEATURES: Raw = {}


class Logged(NamedTuple):
    """One decision of the record with its reward."""

    variant: str
    """Assigned, not served: the policy decides on the assignment, fallback on the rest."""
    propensity: float
    reward: float | None
    """None: none came; such rows are counted and left out."""
    unit: str = ""
    """Rows with the same unit are one observation; "" makes the row its own."""
    features: Raw = _NO_FEATURES
    forced: bool = False
    """Forced rows were not decided by the policy and are left out."""


Target = Mapping[str, float] | Callable[[Logged], Mapping[str, float]]
"""The policy to evaluate: probabilities by variant, the same for all rows or for each row its own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what the record can estimate. An estimate is refused if any of these does not hold."""

    units: int = 30
    """The least number of units."""
    effective: float = 100.0
    """The least effective sample size, (Σ w)² / Σ w² over units (Kish 1965)."""
    largest: float = 0.05
    """Maximum share of one unit's weight in all weights."""
    mean_weight: float = 0.05
    """How far the mean weight may be from 1, which it must be near if the propensities are true and the
    record went everywhere where the target goes; 4 standard errors are allowed if they are more."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error and confidence interval."""

    name: str
    value: float
    error: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Report:
    """What the record says of the target policy."""

    rows: int
    units: int
    left_out: Mapping[str, int]
    """Rows that were not used, by reason: forced, no_reward."""
    effective: float
    """Effective sample size, in units."""
    mean_weight: float
    largest_weight: float
    largest_share: float
    """The largest weight of one unit over the sum of all."""
    refusal: str | None
    """Why there are no estimates; None when there are."""
    estimates: tuple[Estimate, ...] = ()
    """ips, snips, dm, dr; logged, what the running policy earned itself; and gain, dr less logged, with an
    interval of its own: both are of the same rows, so theirs can't be held against each other."""
    level: float = 0.95
    shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By variant: (share of the record's rows, share that the target would give it)."""

    def __getitem__(self, name: str) -> Estimate:
        return next(estimate for estimate in self.estimates if estimate.name == name)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    rows: Iterable[Logged],
    target: Target,
    *,
    features: Sequence[Feature] = (),
    level: float = 0.95,
    folds: int = 10,
    limits: Limits = Limits(),
) -> Report:
    """What ``target`` would have earned per decision, in the reward's unit.

    ``features`` let the model of DM and DR use what is known of each request. Raises ValueError for a
    propensity outside (0, 1] or target probabilities that don't sum to 1: such a record, or policy, is not
    merely poor but wrong.
    """
    used, left_out = _usable(rows)
    if not used:
        return _refused("no decision with a reward is left to learn from", left_out)
    table = _Table.of(used, target, features)
    weight = table.by_unit(table.weight)
    facts = _facts(table, weight, left_out, level)
    refusal = _refusal(facts, table, limits)
    if refusal is not None:
        return Report(**facts, refusal=refusal)
    return Report(**facts, refusal=None, estimates=_estimates(table, min(folds, table.units), level))


def _usable(rows: Iterable[Logged]) -> tuple[list[Logged], dict[str, int]]:
    used, left_out = [], {"forced": 0, "no_reward": 0}
    for row in rows:
        if row.forced:
            left_out["forced"] += 1
        elif row.reward is None:
            left_out["no_reward"] += 1
        else:
            used.append(row)
    return used, left_out


class _Table(NamedTuple):
    """The rows as arrays: n rows, K variants, U units."""

    variants: tuple[str, ...]
    chosen: Places
    """(n,) into variants."""
    weight: Array
    """(n,)"""
    reward: Array
    """(n,)"""
    target: Array
    """(n, K)"""
    x: Array
    """(n, d) encoded features."""
    unit: Places
    """(n,) in 0..U-1."""
    units: int
    clustered: bool
    """Whether any unit has more than one row."""

    @classmethod
    def of(cls, rows: Sequence[Logged], target: Target, features: Sequence[Feature]) -> _Table:
        variants, wanted = _wanted(rows, target)
        index = {name: k for k, name in enumerate(variants)}
        chosen = np.array([index[row.variant] for row in rows])
        propensity = np.array([row.propensity for row in rows], dtype=float)
        if not ((propensity > 0) & (propensity <= 1)).all():
            raise ValueError(
                "a recorded propensity lies outside (0, 1]; the record is not one of decisions drawn"
            )
        names: dict[str, int] = {}
        unit = [names.setdefault(row.unit or f"\0{n}", len(names)) for n, row in enumerate(rows)]
        return cls(
            variants,
            chosen,
            wanted[np.arange(len(rows)), chosen] / propensity,
            np.array([row.reward for row in rows], dtype=float),
            wanted,
            np.array([encode(features, row.features) for row in rows], dtype=float),
            np.array(unit),
            len(names),
            len(names) < len(rows),
        )

    def by_unit(self, values: Array) -> Array:
        """Sums of ``values`` (n,) over the rows of each unit; (U,)."""
        if not self.clustered:
            return values
        return np.bincount(self.unit, weights=values, minlength=self.units).astype(np.float64)


def _wanted(rows: Sequence[Logged], target: Target) -> tuple[tuple[str, ...], Array]:
    """All variants, and the target's probabilities for each row; (K,) and (n, K)."""
    if isinstance(target, Mapping):
        variants = tuple(dict.fromkeys([*target, *(row.variant for row in rows)]))
        wanted = np.tile([target.get(name, 0.0) for name in variants], (len(rows), 1))
    else:
        each = [target(row) for row in rows]
        variants = tuple(
            dict.fromkeys(name for row, p in zip(rows, each, strict=True) for name in (row.variant, *p))
        )
        wanted = np.array([[p.get(name, 0.0) for name in variants] for p in each])
    if not (wanted >= 0).all() or not np.allclose(wanted.sum(axis=1), 1.0, rtol=0, atol=1e-6):
        raise ValueError("the target policy's probabilities must not be negative and must sum to 1")
    return variants, wanted


def _facts(table: _Table, weight: Array, left_out: Mapping[str, int], level: float) -> dict[str, Any]:
    total = float(weight.sum())
    n = len(table.chosen)
    taken = np.bincount(table.chosen, minlength=len(table.variants)) / n
    wanted = table.target.mean(axis=0)
    return {
        "rows": n,
        "units": table.units,
        "left_out": left_out,
        "effective": _kish(weight),
        "mean_weight": float(table.weight.mean()),
        "largest_weight": float(table.weight.max()),
        "largest_share": float(weight.max()) / total if total else 1.0,
        "level": level,
        "shares": {name: (float(taken[k]), float(wanted[k])) for k, name in enumerate(table.variants)},
    }


def _kish(weight: Array) -> float:
    """(Σ w)² / Σ w²: how many of equal weight say as much; 0 of none."""
    total = float(weight.sum())
    return total * total / float(weight @ weight) if total else 0.0


def _refused(why: str, left_out: Mapping[str, int]) -> Report:
    return Report(0, 0, left_out, 0.0, 0.0, 0.0, 0.0, why)


def _refusal(facts: Mapping[str, Any], table: _Table, limits: Limits) -> str | None:
    unseen = [name for name, (taken, wanted) in facts["shares"].items() if wanted > 0 and not taken]
    if unseen:
        return (
            f"the record has no rewarded decision for {', '.join(unseen)}, which the policy would use; "
            "let it be drawn at times (a floor) and evaluate again"
        )
    needed = max(limits.units, ceil(limits.effective))
    if table.units < needed:
        return f"the record has {table.units} units, and {needed} are needed"
    alike = _kish(table.by_unit(np.ones(len(table.weight))))
    if alike < limits.effective:
        return (
            f"a few of the {table.units} units sent most of the requests: they count as {alike:.0f} alike, and "
            f"{limits.effective:.0f} are needed"
        )
    if facts["effective"] < limits.effective:
        return (
            f"the effective sample size is {facts['effective']:.0f} of {table.units} units, and "
            f"{limits.effective:.0f} are needed: the policy differs too much from the one that ran"
        )
    if facts["largest_share"] > limits.largest:
        return (
            f"one unit carries {facts['largest_share']:.0%} of all weight, more than {limits.largest:.0%}: "
            "the estimate would be about that unit"
        )
    error = _cluster_error(table, table.weight - facts["mean_weight"])
    if abs(facts["mean_weight"] - 1.0) > max(limits.mean_weight, 4.0 * error):
        return (
            f"the weights average {facts['mean_weight']:.3f} and should average 1: the propensities are not "
            "those of the draw, or rewards are missing more for some variants than for others"
        )
    return None


def _estimates(table: _Table, folds: int, level: float) -> tuple[Estimate, ...]:
    w, r = table.weight, table.reward
    fold = table.unit % folds
    q = _cross_fitted(table, fold, folds)
    direct = (table.target * q).sum(axis=1)
    corrected = direct + w * (r - q[np.arange(len(r)), table.chosen])
    ratio = float((w @ r) / w.sum())
    return (
        _averaged("ips", table, w * r, level),
        _estimate("snips", ratio, _cluster_error(table, w * (r - ratio) / w.mean()), table.units - 1, level),
        _direct("dm", table, direct, fold, folds, level),
        _averaged("dr", table, corrected, level),
        _averaged("logged", table, r, level),
        _averaged("gain", table, corrected - r, level),
    )


def _averaged(name: str, table: _Table, values: Array, level: float) -> Estimate:
    mean = float(values.mean())
    return _estimate(name, mean, _cluster_error(table, values - mean), table.units - 1, level)


def _estimate(name: str, value: float, error: float, freedom: float, level: float) -> Estimate:
    half = float(special.stdtrit(freedom, 0.5 + level / 2)) * error
    return Estimate(name, value, error, (value - half, value + half))


def _cluster_error(table: _Table, influence: Array) -> float:
    """Standard error of a mean whose rows have this ``influence`` (n,), summing over units.

    sqrt(U/(U-1) Σ_u (Σ_i influence_i)²) / n: Liang & Zeger 1986.
    """
    sums = table.by_unit(influence)
    units = max(2, table.units)
    return sqrt(units / (units - 1) * float(sums @ sums)) / len(influence)


def _direct(name: str, table: _Table, direct: Array, fold: Places, folds: int, level: float) -> Estimate:
    """DM with the error of a jackknife that leaves out one fold of units at a time.

    The spread of the predictions says nothing of the model's own error; refitting without a part of the
    units does (Shao & Tu, "The Jackknife and Bootstrap", 1995, section 2.3).
    """
    everywhere = _fitted(table, np.ones(len(fold), dtype=bool))
    value = float((table.target * everywhere).sum(axis=1).mean())
    left = [fold != k for k in range(folds)]
    without = np.array(
        [float((table.target * _fitted(table, keep)).sum(axis=1)[keep].mean()) for keep in left]
    )
    error = sqrt((folds - 1) / folds * float(((without - without.mean()) ** 2).sum()))
    return _estimate(name, value, error, folds - 1, level)


def _cross_fitted(table: _Table, fold: Places, folds: int) -> Array:
    """q(v, x) for each row from a model that was fitted without the row's fold; (n, K)."""
    q = np.empty_like(table.target)
    for k in range(folds):
        out = fold == k
        q[out] = _fitted(table, ~out)[out]
    return q


def _fitted(table: _Table, keep: NDArray[np.bool_]) -> Array:
    """Predictions for all rows of one linear model for each variant, fitted to the rows in ``keep``; (n, K)."""
    sums = []
    for k in range(len(table.variants)):
        mine = keep & (table.chosen == k)
        sums.append(
            LinearSums.of(table.x[mine], table.reward[mine])
            if mine.any()
            else LinearSums.empty(table.x.shape[1])
        )
    return np.column_stack([table.x @ c.mean for c in fit(sums)])
