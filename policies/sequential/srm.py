"""Sample-ratio mismatch: whether units are assigned as often as the allocation says. Always valid.

Tested on assignments, never on responses (a variant that fails responds less often, which other
checks report), and never on forced decisions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from policies.sequential.mixtures import Floats

TILTS: Final = np.asarray([sign * size for size in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0) for sign in (-1.0, 1.0)])
"""The log odds by which one variant may be over- or under-represented, in the alternatives that are mixed."""


@dataclass(slots=True)
class SampleRatio:
    """Tests assignments against each decision's own probabilities, which may move with time.

    Under the alternative (variant k, tilt d) a decision with probabilities q goes to variant a with
    probability q_a exp(d [a = k]) / (1 + q_k (exp(d) - 1)): variant k is logged exp(d) times as often as it
    should be. The likelihood ratio against q is a martingale whatever makes q move, as long as q was fixed
    before the assignment; so is its equal mixture over all k and `TILTS`. Its logarithm is
    d N_k - sum over decisions of log(1 + q_k (exp(d) - 1)): sums only, so periods of constant allocation
    (epochs) are added one by one, in any order, from counts and probabilities.

    A fixed-share test would flag every healthy bandit. State is O(variants) and survives as a dict.
    """

    counts: dict[str, float] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    """Sum of each variant's probability over all decisions."""
    _norms: dict[str, Floats] = field(default_factory=dict)
    impossible: float = 0.0
    """Assignments to variants whose probability was 0."""

    def add(self, assigned: Mapping[str, float], probabilities: Mapping[str, float]) -> None:
        """Adds an epoch (or a part of one): assignments by variant, and the probabilities that held."""
        n = float(sum(assigned.values()))
        for variant, count in assigned.items():
            if probabilities.get(variant, 0.0) <= 0.0:
                self.impossible += count
        for variant, q in probabilities.items():
            self.counts[variant] = self.counts.get(variant, 0.0) + assigned.get(variant, 0.0)
            self.expected[variant] = self.expected.get(variant, 0.0) + n * q
            norm = n * np.log1p(q * np.expm1(TILTS))
            self._norms[variant] = self._norms.get(variant, np.zeros_like(TILTS)) + norm

    @property
    def log_evidence(self) -> float:
        """log of the martingale against "assigned as the probabilities say"; infinite after the impossible."""
        if self.impossible > 0:
            return math.inf
        if not self._norms:
            return 0.0
        logs = np.stack([TILTS * self.counts[variant] - norm for variant, norm in self._norms.items()])
        return float(np.logaddexp.reduce(logs, axis=None) - math.log(logs.size))

    @property
    def e_value(self) -> float:
        return math.exp(min(self.log_evidence, 700.0))  # the largest that a double holds is e^709

    def mismatch(self, alpha: float = 0.001) -> bool:
        """Whether the assignments refute the probabilities; false alarms at most alpha, over all time."""
        return self.log_evidence >= -math.log(alpha)

    def as_dict(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "expected": dict(self.expected),
            "norms": {variant: [float(x) for x in norm] for variant, norm in self._norms.items()},
            "impossible": self.impossible,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        norms = {variant: np.asarray(norm, dtype=np.float64) for variant, norm in data["norms"].items()}
        return cls(dict(data["counts"]), dict(data["expected"]), norms, float(data["impossible"]))


EVERY_UNIT: Final = 1 << 64
"""More than any `mix`: the sample holds all units."""


def mix(units: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 bits for each 64-bit unit, as good as independent of the unit's own upper bits, which say what it gets.

    The finalizer of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"); one
    to one, so no two units share their bits.
    """
    z = units + np.uint64(0x9E37_79B9_7F4A_7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


@dataclass(slots=True)
class UnitRatio:
    """`SampleRatio` over distinct units, in bounded memory: each counts once, at the first of its decisions.

    The requests of a unit are not independent, but the hashes of different units are: the first decision of a
    unit that was not seen before is a fair draw with the probabilities in force at that moment. Which units have
    been seen is remembered for a sample: those whose `mix` is less than ``below``. When ``size`` of them are
    known, ``below`` is halved and half of them are forgotten; they are never counted again, and what they counted
    stays. Whether a unit is looked at depends on its mix and on the past only, never on what it is given, so the
    evidence remains a martingale (and its alarm always valid) however often the sample shrinks.
    """

    ratio: SampleRatio = field(default_factory=SampleRatio)
    seen: set[int] = field(default_factory=set)
    """Mixes of the units of the sample that were counted."""
    below: int = EVERY_UNIT
    size: int = 16_384

    def add(
        self,
        sightings: Iterable[tuple[int, int, str]],
        probabilities: Mapping[int, Mapping[str, float]],
    ) -> None:
        """Adds decisions as (mix, epoch, variant), oldest first. Those of an epoch without probabilities are
        passed over."""
        assigned: dict[int, dict[str, float]] = {}
        for mixed, epoch, variant in sightings:
            if mixed >= self.below or mixed in self.seen or epoch not in probabilities:
                continue
            self.seen.add(mixed)
            of_epoch = assigned.setdefault(epoch, {})
            of_epoch[variant] = of_epoch.get(variant, 0.0) + 1.0
            if len(self.seen) >= self.size:
                self._shrink()
        for epoch, counts in assigned.items():
            self.ratio.add(counts, probabilities[epoch])

    def _shrink(self) -> None:
        while len(self.seen) > self.size // 2 and self.below > 1:
            self.below //= 2
            self.seen = {mixed for mixed in self.seen if mixed < self.below}

    def renewed(self) -> UnitRatio:
        """A new test that begins now. The known units stay known: whether they come back may depend on what they
        were given, so only new ones are a fair sample."""
        return UnitRatio(SampleRatio(), self.seen, self.below, self.size)
