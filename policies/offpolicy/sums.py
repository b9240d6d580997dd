"""Decisions of the record, and the sums over them that off-policy estimates need."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.contextual.features import Raw
from policies.contextual.regression import LinearSums

Array = NDArray[np.float64]
Units = NDArray[np.uint64]
Places = NDArray[np.intp]
_NO_FEATURES: Raw = {}
FOLDS: Final = 10


class Logged(NamedTuple):
    """One decision of the record with its reward."""

    variant: str
    """Assigned, not served: the policy decides on the assignment, fallback on the rest."""
    propensity: float
    reward: float | None
    """None: none came; such rows are counted and left out."""
    unit: int | None = None
    """64 bits; rows with the same unit are one observation. None makes the row its own."""
    features: Raw = _NO_FEATURES
    forced: bool = False
    """Forced rows were not decided by the policy and are left out."""


# The sums of a unit: its rows, weights, rewards, weighted rewards, and for each variant v and column of the features
# Σ π(v) x - Σ w x [v was assigned], whose product with the coefficients of a model is what DR adds to Σ w r.
# `_Total` puts a 1 before them. Rewards are less the origin, so that a large constant in all costs no digits.
ONE, ROWS, WEIGHT, REWARD, WEIGHTED, COLUMNS = range(6)


class UnitSums(Protocol):
    """The sums of each unit."""

    def add(self, unit: Units, sums: Array) -> None:
        """Add rows (n, p) of units (n,)."""
        ...

    def parts(self) -> Iterator[tuple[Units, Array]]:
        """All units (U,) with their sums (U, p), piece by piece; each unit is in one piece."""
        ...


class UnitsInMemory:
    """`UnitSums` of p numbers each in two arrays: 8 (1 + p) bytes a unit."""

    def __init__(self, p: int) -> None:
        self.keys = np.empty(0, np.uint64)
        """In ascending order; (U,)."""
        self.sums = np.empty((0, p))
        """(U, p)"""

    def add(self, unit: Units, sums: Array) -> None:
        keys, place = np.unique(unit, return_inverse=True)
        added = np.zeros((len(keys), sums.shape[1]))
        np.add.at(added, place, sums)
        at = np.searchsorted(self.keys, keys)
        new = np.searchsorted(self.keys, keys, side="right") == at
        self.sums[at[~new]] += added[~new]
        if new.any():
            self.keys = np.insert(self.keys, at[new], keys[new])
            self.sums = np.insert(self.sums, at[new], added[new], axis=0)

    def parts(self) -> Iterator[tuple[Units, Array]]:
        yield self.keys, self.sums


class Sums:
    """Sums over rows: K variants of the target, d columns of the features."""

    def __init__(
        self, variants: tuple[str, ...], d: int, origin: float, units: Callable[[int], UnitSums]
    ) -> None:
        self.variants = variants
        self.d = d
        self.origin = origin
        self.taken = Counter[str]()
        self.largest_weight = 0.0
        self.models: dict[tuple[int, int], LinearSums] = defaultdict(lambda: LinearSums.empty(d))
        """Of the rewards, by fold and variant, K for all that the target does not know."""
        self.direct = np.zeros((FOLDS, len(variants), d))
        """Σ π(v) x of each fold."""
        self.loose = Products(COLUMNS + len(variants) * d)
        """Of rows that are units of their own."""
        self.units = units(self.loose.width - 1)

    def add(self, rows: Sequence[Logged], wanted: Array, x: Array) -> None:
        """Add rows with the target's probabilities (n, K) and encoded features (n, d).

        Raises:
            ValueError: A recorded propensity lies outside (0, 1].
        """
        n, k, d = len(rows), len(self.variants), self.d
        index = {name: place for place, name in enumerate(self.variants)}
        chosen = np.array([index.get(row.variant, k) for row in rows])
        propensity = np.array([row.propensity for row in rows], dtype=float)
        if not ((propensity > 0) & (propensity <= 1)).all():
            raise ValueError(
                "a recorded propensity lies outside (0, 1]; the record is not one of decisions drawn"
            )
        weight = np.column_stack([wanted, np.zeros(n)])[np.arange(n), chosen] / propensity
        reward = np.array([row.reward for row in rows], dtype=float) - self.origin
        loose = np.array([row.unit is None for row in rows])
        unit = np.array([row.unit or 0 for row in rows], dtype=np.uint64)
        fold = np.where(loose, (self.taken.total() + np.arange(n)) % FOLDS, fold_of(unit))
        self.taken.update(row.variant for row in rows)
        self.largest_weight = max(self.largest_weight, float(weight.max()))
        for f in range(FOLDS):
            self.direct[f] += wanted[fold == f].T @ x[fold == f]
        for f, v in set(zip(fold.tolist(), chosen.tolist(), strict=True)):
            where = (fold == f) & (chosen == v)
            self.models[f, v] += LinearSums.of(x[where], reward[where])
        assigned = weight[:, None] * (chosen[:, None] == np.arange(k))
        columns = ((wanted - assigned)[:, :, None] * x[:, None, :]).reshape(n, k * d)
        sums = np.column_stack([np.ones(n), weight, reward, weight * reward, columns])
        self.loose.add(fold[loose], sums[loose])
        self.units.add(unit[~loose], sums[~loose])


def fold_of(unit: Units) -> Places:
    """The fold of each unit by its number alone, so that no order of the rows changes an estimate."""
    mixed = unit * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    return (mixed % np.uint64(FOLDS)).astype(np.intp)


class Products:
    """Σ z zᵀ over units for each fold, z being 1 and the sums of a unit."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.by_fold = np.zeros((FOLDS, width, width))
        self.largest_weight = 0.0

    def add(self, fold: Places, sums: Array) -> None:
        for f in range(FOLDS):
            z = np.insert(sums[fold == f], 0, 1.0, axis=1)
            self.by_fold[f] += z.T @ z
            self.largest_weight = max(self.largest_weight, float(z[:, WEIGHT].max(initial=0.0)))
