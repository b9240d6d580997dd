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

An estimate is refused, with the reason, when the record can't carry it: see `Limits`. Rewards that do not vary have a
standard error of 0, and yet say nothing of those that are rarer than one in n: intervals are as wide as those of
values between known bounds n of which were alike (Clopper & Pearson 1934), and without bounds there are none.

All of it follows from sums over the rows of each unit and from the products of these sums, since the predictions
of a linear model are linear in its coefficients. So rows are read once and not kept: what is kept grows with the number
of units, by 8 (5 + variants x columns of the features) bytes each, and not with the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, nan, sqrt
from typing import Any, Final

import numpy as np
from scipy import special

from policies.contextual.features import Feature, encode
from policies.contextual.regression import fit, total
from policies.offpolicy.sums import (
    COLUMNS,
    FOLDS,
    ONE,
    REWARD,
    ROWS,
    WEIGHT,
    WEIGHTED,
    Array,
    Logged,
    Products,
    Sums,
    UnitsInMemory,
    UnitSums,
    fold_of,
)

Target = Mapping[str, float] | Callable[[Logged], Sequence[float]]
"""The policy to evaluate: probabilities by variant, the same for all rows, or for each row those of the variants in
the order in which `Evaluation` was given them."""

Bounds = tuple[float, float]
"""Least and greatest value of a reward."""

ROUNDING: Final = 1e-10
"""Part of a sum of squares that may be rounding."""
CHUNK_ROWS: Final = 1 << 16
"""Rows that are added up together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what the record can estimate. An estimate is refused if any of these does not hold."""

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
    variants: Sequence[str] = (),
    features: Sequence[Feature] = (),
    level: float = 0.95,
    limits: Limits = Limits(),
    bounds: Bounds | None = None,
) -> Report:
    """What ``target`` would have earned per decision, in the reward's unit: see `Evaluation`."""
    evaluation = Evaluation(target, variants=variants, features=features, bounds=bounds)
    evaluation.add(rows)
    return evaluation.report(level=level, limits=limits)


class Evaluation:
    """What a policy would have earned per decision, from rows that are added piece by piece."""

    def __init__(
        self,
        target: Target,
        *,
        variants: Sequence[str] = (),
        features: Sequence[Feature] = (),
        units: Callable[[int], UnitSums] = UnitsInMemory,
        bounds: Bounds | None = None,
    ) -> None:
        """``variants`` are those of a ``target`` with probabilities for each row. ``features`` let the model of DM and
        DR use what is known of each request. ``units`` makes the place for the sums of units, from how many each has.
        ``bounds``: between which all rewards lie; None if they are unknown.
        """
        self._bounds = bounds
        self._units = units
        self._target = target
        self._features = features
        self._variants = tuple(target) if isinstance(target, Mapping) else tuple(variants)
        self._waiting: list[Logged] = []
        self._left_out = {"forced": 0, "no_reward": 0}
        self._sums: Sums | None = None

    def add(self, rows: Iterable[Logged]) -> None:
        """Add rows of the record.

        Raises:
            ValueError: A propensity is outside (0, 1], or target probabilities do not sum to 1: such a record, or
                policy, is not merely poor but wrong.
        """
        for row in rows:
            if row.forced:
                self._left_out["forced"] += 1
            elif row.reward is None:
                self._left_out["no_reward"] += 1
            else:
                self._waiting.append(row)
                if len(self._waiting) == CHUNK_ROWS:
                    self._add_up()

    def report(self, *, level: float = 0.95, limits: Limits = Limits()) -> Report:
        """The report on all rows so far. Raises ValueError as `add`."""
        self._add_up()
        if self._sums is None:
            why = "no decision with a reward is left to learn from"
            return Report(0, 0, dict(self._left_out), 0.0, 0.0, 0.0, 0.0, why)
        total = _Total.of(self._sums)
        facts = total.facts() | {"left_out": dict(self._left_out), "level": level}
        refusal = _refusal(facts, total, limits) or (None if self._bounds else total.alike())
        estimates = () if refusal else total.estimates(level, self._bounds)
        return Report(**facts, refusal=refusal, estimates=estimates)

    def _add_up(self) -> None:
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        if self._sums is None:
            origin = float(np.mean([row.reward for row in rows]))
            self._sums = Sums(self._variants, len(encode(self._features, {})), origin, self._units)
        x = np.array([encode(self._features, row.features) for row in rows], dtype=float)
        self._sums.add(rows, self._probabilities(rows), x)

    def _probabilities(self, rows: Sequence[Logged]) -> Array:
        """The target's for each row; (n, K)."""
        if isinstance(self._target, Mapping):
            wanted = np.tile(np.array(list(self._target.values()), dtype=float), (len(rows), 1))
        else:
            wanted = np.array([self._target(row) for row in rows], dtype=float)
        if not (wanted >= 0).all() or not np.allclose(wanted.sum(axis=1), 1.0, rtol=0, atol=1e-6):
            raise ValueError("the target policy's probabilities must not be negative and must sum to 1")
        return wanted


@dataclass(frozen=True, slots=True)
class _Total:
    """The sums over all units."""

    sums: Sums
    products: Array
    """(folds, p, p)"""
    largest_weight: float
    """Of a unit."""

    @classmethod
    def of(cls, sums: Sums) -> _Total:
        units = Products(sums.loose.width)
        for keys, by_unit in sums.units.parts():
            units.add(fold_of(keys), by_unit)
        largest = max(units.largest_weight, sums.loose.largest_weight)
        return cls(sums, units.by_fold + sums.loose.by_fold, largest)

    def facts(self) -> dict[str, Any]:
        rows, weight = self.products[:, ONE, [ROWS, WEIGHT]].sum(axis=0).tolist()
        taken = self.sums.taken
        wanted = dict(zip(self.sums.variants, self.sums.direct.sum(axis=0)[:, 0].tolist(), strict=True))
        return {
            "rows": round(rows),
            "units": self.units,
            "effective": self.kish(WEIGHT),
            "mean_weight": weight / rows,
            "largest_weight": self.sums.largest_weight,
            "largest_share": self.largest_weight / weight if weight else 1.0,
            "shares": {
                v: (taken[v] / rows, wanted.get(v, 0.0) / rows) for v in dict.fromkeys([*wanted, *taken])
            },
        }

    @property
    def units(self) -> int:
        return round(float(self.products[:, ONE, ONE].sum()))

    def kish(self, column: int) -> float:
        """(Σ s)² / Σ s²: how many units of an equal sum say as much; 0 of none."""
        products = self.products.sum(axis=0)
        squares = float(products[column, column])
        return float(products[ONE, column]) ** 2 / squares if squares else 0.0

    def mean(self, coefficients: Array) -> tuple[float, float]:
        """The mean over rows of sums with ``coefficients`` (folds, p), and its standard error.

        sqrt(U/(U-1) Σ_u (Σ_i value_i - mean)²) / n: Liang & Zeger 1986.
        """
        rows, units = self.products[:, ONE, ROWS].sum(), max(2, self.units)
        value = float(np.einsum("fp,fp->", coefficients, self.products[:, ONE]) / rows)
        influence = coefficients - value * self.unit_vector(ROWS)
        squares = float(np.einsum("fp,fpq,fq->", influence, self.products, influence))
        return value, sqrt(units / (units - 1) * max(squares, 0.0)) / rows

    def unit_vector(self, column: int) -> Array:
        """Coefficients that choose one of the sums; (folds, p)."""
        return np.tile(np.eye(self.sums.loose.width)[column], (FOLDS, 1))

    def alike(self) -> str | None:
        """Why there is no interval, if the rewards of each variant that the target uses are all the same."""
        sums, shares = self.sums, self.sums.direct.sum(axis=0)[:, 0]
        rewards = {
            v: total((sums.models[f, k] for f in range(FOLDS)), sums.d)
            for k, v in enumerate(sums.variants)
            if shares[k] > 0
        }
        if any(r.rr - r.xr[0] ** 2 / r.count > ROUNDING * r.rr for r in rewards.values()):
            return None
        seen = ", ".join(f"{sums.origin + r.xr[0] / r.count:.4g} of {v}" for v, r in rewards.items())
        return (
            f"all rewards were the same ({seen}), and without bounds of the metric nothing tells how far others would "
            "lie from them: evaluate with a configuration (--config) that declares the metric boolean, a fraction, or "
            "with a 'cap'"
        )

    def estimates(self, level: float, bounds: Bounds | None) -> tuple[Estimate, ...]:
        rows, weight, reward, weighted = map(self.unit_vector, (ROWS, WEIGHT, REWARD, WEIGHTED))
        origin = self.sums.origin
        logged = reward + origin * rows
        robust = weighted + origin * rows
        robust[:, COLUMNS:] = [self.coefficients(without=f).ravel() for f in range(FOLDS)]
        mean_weight, _ = self.mean(weight)
        ratio = self.mean(weighted)[0] / mean_weight
        _, error = self.mean((weighted - ratio * weight) / mean_weight)
        degrees, effective, alike = self.units - 1, self.kish(WEIGHT), self.kish(ROWS)
        low, high = bounds or (nan, nan)
        of_target = (level, effective, (low, high))
        of_gain = (level, min(effective, alike), (low - high, high - low))
        return (
            _estimate("ips", self.mean(weighted + origin * weight), degrees, *of_target),
            _estimate("snips", (ratio + origin, error), degrees, *of_target),
            _estimate("dm", self.direct(), FOLDS - 1, *of_target),
            _estimate("dr", self.mean(robust), degrees, *of_target),
            _estimate("logged", self.mean(logged), degrees, level, alike, (low, high)),
            _estimate("gain", self.mean(robust - logged), degrees, *of_gain),
        )

    def direct(self) -> tuple[float, float]:
        """DM with the error of a jackknife that leaves out one fold of units at a time.

        The spread of the predictions says nothing of the model's own error; refitting without a part of the
        units does (Shao & Tu, "The Jackknife and Bootstrap", 1995, section 2.3).
        """
        rows, direct = self.products[:, ONE, ROWS], self.sums.direct
        value = float((self.coefficients() * direct.sum(axis=0)).sum() / rows.sum())
        without = np.array(
            [
                (self.coefficients(without=f) * (direct.sum(axis=0) - direct[f])).sum()
                / max(1.0, rows.sum() - rows[f])
                for f in range(FOLDS)
            ]
        )
        error = sqrt((FOLDS - 1) / FOLDS * float(((without - without.mean()) ** 2).sum()))
        return self.sums.origin + value, error

    def coefficients(self, without: int | None = None) -> Array:
        """Of one linear model of the reward for each variant, fitted to all folds but one; (K, d)."""
        sums = self.sums
        kept = [f for f in range(FOLDS) if f != without]
        by_variant = [total((sums.models[f, v] for f in kept), sums.d) for v in range(len(sums.variants) + 1)]
        return np.array([c.mean for c in fit(by_variant)[:-1]])


def _refusal(facts: Mapping[str, Any], total: _Total, limits: Limits) -> str | None:
    unseen = [name for name, (taken, wanted) in facts["shares"].items() if wanted > 0 and not taken]
    if unseen:
        seen = [name for name, (taken, _) in facts["shares"].items() if taken]
        return (
            f"the record has no rewarded decision for {', '.join(unseen)}, which the policy would use, but for "
            f"{', '.join(seen)}; correct the name, or let it be drawn at times (a floor) and evaluate again"
        )
    needed = max(2, ceil(limits.effective))
    if total.units < needed:
        return f"the record has {total.units} units, and {needed} are needed"
    alike = total.kish(ROWS)
    if alike < limits.effective:
        return (
            f"a few of the {total.units} units sent most of the requests: they count as {alike:.0f} alike, and "
            f"{limits.effective:.0f} are needed"
        )
    if facts["effective"] < limits.effective:
        return (
            f"the effective sample size is {facts['effective']:.0f} of {total.units} units, and "
            f"{limits.effective:.0f} are needed: the policy differs too much from the one that ran"
        )
    if facts["largest_share"] > limits.largest:
        return (
            f"one unit carries {facts['largest_share']:.0%} of all weight, more than {limits.largest:.0%}: "
            "the estimate would be about that unit"
        )
    _, error = total.mean(total.unit_vector(WEIGHT))
    if abs(facts["mean_weight"] - 1.0) > max(limits.mean_weight, 4.0 * error):
        # Decisions that could not draw a variant lack its weight, and no other decision makes up for it.
        unused = "a variant of the policy had no share for a part of the time (evaluate the rest), "
        return (
            f"the weights average {facts['mean_weight']:.3f} and should average 1: "
            f"{unused if facts['mean_weight'] < 1.0 else ''}the propensities are not those of the draw, or rewards "
            "are missing more for some variants than for others"
        )
    return None


def _estimate(
    name: str, found: tuple[float, float], freedom: float, level: float, n: float, bounds: Bounds
) -> Estimate:
    """Student's interval, at least as wide as that of ``n`` values between ``bounds`` (NaN: none) that were alike."""
    value, error = found
    half = float(special.stdtrit(freedom, 0.5 + level / 2)) * error
    unseen = 1.0 - (0.5 - level / 2) ** (1.0 / n)
    # A comparison with NaN is false, so that Student's end stays.
    low, high = (value + unseen * (bound - value) for bound in bounds)
    return Estimate(name, value, error, (min(value - half, low), max(value + half, high)))
