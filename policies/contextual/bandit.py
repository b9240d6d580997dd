"""Linear Thompson sampling on declared features, with propensities that are exact by construction.

Drawing coefficients for every request would leave its propensity unknown: the probability that a draw
favours the chosen variant has no closed form for more than two variants, and no other bandit gateway
records it. Here the leader draws a finite *ensemble* of coefficients from the posterior when it moves
(M for each variant), and a request with features x gets the variants with the shares

    floor + (1 - K floor) * #{m : x·w_mk is the best of the K} / M.

Its unit's point picks among these. So the shares *are* the propensities, to the last digit, whatever M is;
as M grows they tend to Thompson sampling's own (Lu & Van Roy, "Ensemble Sampling", 2017, bound what a
finite ensemble loses). The same unit with the same features keeps its variant while the ensemble stands.
One product of a (M K, d) matrix with the row decides (`benchmarks/policies.py` has the cost); the gateway remembers
the allocations of rows that recur.

Every replica that holds the same ensemble decides alike, to the last bit: coefficients lie on a grid of 30
bits, rows on one of 12 (`policies.contextual.features`), so that the products are exact whatever the machine, and
`Ensemble.packed` loses nothing.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import frexp

import numpy as np

from policies.allocation.bucketing import allocation
from policies.allocation.model import Allocation, Learned
from policies.allocation.shares import capped, floored
from policies.contextual.features import MAX_COEFFICIENTS, MAX_COLUMNS, Feature, columns
from policies.contextual.regression import Array, Belief, Coefficients, LinearSums, fit
from policies.types import Goal

BITS = 30
"""Of a coefficient, without its sign; with 12 of a row's entry and 5 for 32 of them a sum fits a float's 53."""


@dataclass(frozen=True, slots=True)
class Contextual:
    """The plan. ``draws`` is M, even; ``strength`` is what the prior is worth, in rows."""

    variants: tuple[str, ...]
    metric: str
    features: tuple[Feature, ...]
    goal: Goal = "maximize"
    floor: float = 0.01
    draws: int = 256
    strength: float = 1.0
    half_life: float | None = None
    """Seconds after which a decision counts half; None: all count the same."""
    shadows: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError("a contextual bandit needs at least one variant")
        most = 1.0 / len(self.variants)
        if not 0 <= self.floor <= most + 1e-12:
            raise ValueError(
                f"a floor of {self.floor:g} for each of {len(self.variants)} variants is more than "
                f"everything; write one between 0 and {most:g}"
            )
        if self.draws < 2 or self.draws % 2:
            raise ValueError(f"draws come in pairs: write an even number above zero, not {self.draws}")
        if not self.strength > 0:
            raise ValueError(f"the prior's strength is {self.strength!r}; write a number above zero")
        if self.half_life is not None and not self.half_life > 0:
            raise ValueError(f"the half-life is {self.half_life!r}; write a time above zero")
        wide = columns(self.features)
        if len(wide) > MAX_COLUMNS or len(wide) * len(self.variants) > MAX_COEFFICIENTS:
            raise ValueError(
                f"the features make {len(wide)} columns ({', '.join(wide[:6])}, ...), for each of "
                f"{len(self.variants)} variants; at most {MAX_COLUMNS} columns and {MAX_COEFFICIENTS} "
                "coefficients can be learned: declare fewer values or features"
            )

    @property
    def width(self) -> int:
        """d: the columns of an encoded row."""
        return len(columns(self.features))


def allocate(plan: Contextual, learned: Learned) -> Allocation:
    """Even shares (caps apply): what requests get until there is an ensemble."""
    even = [1.0 / len(plan.variants)] * len(plan.variants)
    shares = capped(even, [learned.caps.get(name, 1.0) for name in plan.variants])
    made = dict(zip(plan.variants, shares, strict=True))
    return allocation(made, previous=learned.previous, shadows=plan.shadows)


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """M draws of every variant's coefficients: immutable, and all that a request needs."""

    plan: Contextual
    coefficients: Array
    """(M, K, d); with the sign that makes more better, less what all have in common, on a grid of `BITS`."""
    caps: tuple[float, ...]
    posteriors: tuple[Coefficients, ...]
    """What it was drawn from; empty in one that was `restored`."""
    _flat: Array = field(init=False, repr=False)
    """The coefficients as (M K, d): one product with a row is three times as fast as M of them."""

    def __post_init__(self) -> None:
        flat = np.ascontiguousarray(self.coefficients).reshape(-1, self.coefficients.shape[-1])
        object.__setattr__(self, "_flat", flat)

    def shares(self, row: Sequence[float]) -> tuple[float, ...]:
        """The K exact probabilities for an encoded row (d numbers); they sum to 1."""
        k = len(self.plan.variants)
        best = (self._flat @ np.asarray(row)).reshape(-1, k).argmax(axis=1)
        votes = np.bincount(best, minlength=k) / self.plan.draws
        return tuple(capped(floored(votes.tolist(), self.plan.floor), self.caps))

    def average(self, rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """The mean of the shares over encoded rows, (n, d) with n above zero; K numbers that sum to 1."""
        # Row by row: one product for all of them took four times the processor time.
        counts = Counter(map(tuple, rows))
        each = np.array([self.shares(row) for row in counts])
        return tuple(np.average(each, axis=0, weights=list(counts.values())).tolist())

    def packed(self) -> bytes:
        """The coefficients as bytes: the exponent of the grid's step, then 4 bytes for each number."""
        step = _step(float(np.abs(self.coefficients).max()))
        whole = np.ldexp(self.coefficients, -step).astype("<i4")
        return struct.pack("<i", step) + whole.tobytes()

    def allocation(self, row: Sequence[float]) -> Allocation:
        """The shares for an encoded row as ranges of [0, 1): one for each variant that has any, in their order."""
        shares = self.shares(row)
        owners = tuple(k for k, share in enumerate(shares) if share)
        bounds = list(accumulate(shares[k] for k in owners))
        bounds[-1] = 1.0  # the sum of the shares but for rounding
        return Allocation(self.plan.variants, shares, tuple(bounds), owners)


def ensemble(
    plan: Contextual,
    sums: Mapping[str, LinearSums],
    rng: np.random.Generator,
    caps: Mapping[str, float] | None = None,
) -> Ensemble:
    """Draws an ensemble from what was learned; ``sums`` by variant, those missing have learned nothing.

    Pass a Generator seeded by (route, epoch) to let every replica draw the same. Raises ValueError when
    the caps leave less than everything, or sums are of another width than the plan's features.
    """
    empty = LinearSums.empty(plan.width)
    mine = [sums.get(name, empty) for name in plan.variants]
    if any(s.xr.shape != (plan.width,) for s in mine):
        raise ValueError(
            f"sums must be over rows of {plan.width} columns: {', '.join(columns(plan.features))}"
        )
    fitted = fit(mine, plan.strength)
    sign = 1.0 if plan.goal == "maximize" else -1.0
    limits = _limits(plan, caps or {})
    drawn = sign * np.stack([c.draw(rng, plan.draws) for c in fitted], axis=1)
    return Ensemble(plan, _on_grid(drawn), limits, tuple(fitted))


def restored(plan: Contextual, data: bytes, caps: Mapping[str, float] | None = None) -> Ensemble:
    """What `Ensemble.packed` was made of. Raises ValueError when ``data`` is not of the plan's size."""
    shape = (plan.draws, len(plan.variants), plan.width)
    if len(data) != 4 + 4 * shape[0] * shape[1] * shape[2]:
        raise ValueError(f"{len(data)} bytes do not hold coefficients of the shape {shape}")
    (step,) = struct.unpack_from("<i", data)
    whole = np.frombuffer(data, "<i4", offset=4).astype(np.float64)
    return Ensemble(plan, np.ldexp(whole, step).reshape(shape), _limits(plan, caps or {}), ())


def moved(before: Sequence[Belief], after: Sequence[Belief], by: float = 0.05) -> bool:
    """Whether any coefficient's posterior mean has moved by more than ``by`` of its standard deviation, or
    the deviation itself by that part. Smaller moves do not change a share noticeably."""
    if len(before) != len(after):
        return True
    for old, new in zip(before, after, strict=True):
        if old.mean.shape != new.mean.shape:
            return True
        limit = by * new.deviation
        if (np.abs(new.mean - old.mean) > limit).any():
            return True
        if (np.abs(old.deviation - new.deviation) > limit).any():
            return True
    return False


def discounted(
    buckets: Iterable[tuple[float, Mapping[str, LinearSums]]], *, now: float, half_life: float
) -> dict[str, LinearSums]:
    """Sums by variant in which what is ``half_life`` seconds old counts half, as
    `policies.allocation.bandit.discounted`
    has it. ``buckets`` are (start in seconds, sums by variant)."""
    found: dict[str, LinearSums] = {}
    for start, sums in buckets:
        weight = 0.5 ** (max(0.0, now - start) / half_life)
        for variant, one in sums.items():
            found[variant] = found[variant] + one * weight if variant in found else one * weight
    return found


def _limits(plan: Contextual, caps: Mapping[str, float]) -> tuple[float, ...]:
    """The caps in the plan's order; those that can't hold are refused before any request meets them."""
    limits = tuple(caps.get(name, 1.0) for name in plan.variants)
    capped([1.0 / len(limits)] * len(limits), limits)
    return limits


def _on_grid(drawn: Array) -> Array:
    """``drawn`` (M, K, d) less the mean constant, rounded to `BITS` bits of the largest.

    What all variants share decides nothing, and would cost the digits in which they differ.
    """
    near = drawn.copy()
    near[:, :, 0] -= drawn[:, :, 0].mean()
    step = _step(float(np.abs(near).max()))
    most = 2.0**BITS - 1  # the largest may round up to 2**BITS, and would then ask for another step
    whole: Array = np.clip(np.rint(np.ldexp(near, -step)), -most, most)
    return np.ldexp(whole, step)


def _step(largest: float) -> int:
    """The exponent of the grid's step: ``largest`` is below 2**`BITS` steps."""
    return max(frexp(largest)[1] - BITS, -1000)
