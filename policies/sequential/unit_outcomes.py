"""Errors and latencies of sticky units, each unit as one observation, in bounded memory.

The requests of one unit are not independent, so their number says nothing of how much is known. A unit counts once
for each variant that it was given: with the share of its requests that failed, and with its latencies, together
weighing 1. Its observation stands in the stratum of time in which the unit came first.

Values in [0, 1] keep the martingales of a rate valid (`policies.sequential.two_sample.UnitShareMartingale`), and so do
weights of latencies (`policies.sequential.latency`): the count below a quantile is then a sum of values in [0,
1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from policies.sequential.srm import EVERY_UNIT
from policies.sequential.stratified import Stratum
from policies.types import CLIENT_ERROR_RATE, ERROR_RATES, PairSums, RewardSums

MAX_LATENCIES_PER_UNIT: Final = 32
"""Requests of a unit whose latencies count: its first ones. More would cost memory and tell little."""
STRATUM_S: Final = 60.0
MAX_STRATA: Final = 720
"""With more of them, two neighbours become one."""

Row = tuple[int, float, str, bool, int, float, bool]
"""One decision: the unit's `policies.sequential.srm.mix`, seconds since the epoch, variant, whether it failed, the
latency's bucket or -1, the probability with which the variant was assigned, and whether it was a client error."""


@dataclass(slots=True)
class _Unit:
    """One unit on one variant."""

    first: float
    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    weighted: float = 0.0
    """Of the requests that failed, the sum of 1 - propensity."""
    weighted_client_errors: float = 0.0
    """Of the client errors."""
    weight: float = 0.0
    """Of all requests."""
    latencies: list[int] = field(default_factory=list)
    """Buckets, in order of arrival."""
    weighed: int = 0
    """How many of them are in the histogram: a power of two, so that each is weighed only a few times."""


@dataclass(slots=True)
class _Cell:
    """All units of one variant that came first in one stratum."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    """Of the shares of each unit's requests that failed, as ``total``."""
    client_errors: float = 0.0
    client_errors_squares: float = 0.0
    """Of the shares that were client errors."""
    latency: dict[int, float] = field(default_factory=dict)

    def add(self, unit: _Unit, sign: float) -> None:
        share = unit.errors / unit.requests
        self.count += sign
        self.total += sign * share
        self.squares += sign * share * share
        if unit.client_errors:
            share = unit.client_errors / unit.requests
            self.client_errors += sign * share
            self.client_errors_squares += sign * share * share

    def weigh(self, buckets: Iterable[int], weight: float) -> None:
        for bucket in buckets:
            self.latency[bucket] = self.latency.get(bucket, 0.0) + weight

    def join(self, other: _Cell) -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.client_errors += other.client_errors
        self.client_errors_squares += other.client_errors_squares
        for bucket, weight in other.latency.items():
            self.latency[bucket] = self.latency.get(bucket, 0.0) + weight

    def side(self) -> Stratum:
        latency = {bucket: weight for bucket, weight in self.latency.items() if weight > 1e-9}
        refused = _sums(self.count, self.client_errors, self.client_errors_squares)
        return Stratum(
            latency=latency,
            rewards={CLIENT_ERROR_RATE: refused},
            units=_sums(self.count, self.total, self.squares),
        )


def _sums(count: float, total: float, squares: float) -> RewardSums:
    return RewardSums(count, max(total, 0.0), max(squares, 0.0))


class UnitOutcomes:
    """What is known of the units of one route over one window.

    When ``size`` units are known, the sample is halved (by a hash that is independent of what a unit is given):
    what the others counted stays, and they are not looked at again.
    """

    def __init__(self, size: int = 16_384, since: float = 0.0) -> None:
        self.since = since
        """Time of the first decision that is added."""
        self.below = EVERY_UNIT
        self._size = size
        self._units: dict[tuple[int, str], _Unit] = {}
        self._cells: dict[int, dict[str, _Cell]] = {}
        self._length = STRATUM_S

    def add(self, rows: Iterable[Row]) -> None:
        """Adds decisions, in about the order of time, each once."""
        for mixed, time, variant, failed, latency, propensity, client_error in rows:
            if mixed >= self.below:
                continue
            unit = self._units.get((mixed, variant))
            if unit is None:
                unit = self._new(mixed, time, variant)
            cell = self._cell(unit.first, variant)
            # Its observation moves with each request: the old one is taken away first.
            if unit.requests:
                cell.add(unit, -1.0)
            unit.requests += 1
            unit.errors += failed
            unit.client_errors += client_error
            unit.weight += 1.0 - propensity
            unit.weighted += failed * (1.0 - propensity)
            unit.weighted_client_errors += client_error * (1.0 - propensity)
            cell.add(unit, 1.0)
            if latency >= 0 and len(unit.latencies) < MAX_LATENCIES_PER_UNIT:
                _weigh(unit, latency, cell)

    def failures(self) -> dict[tuple[str, str], PairSums]:
        """By variant and one of `ERROR_RATES`, the sums over units of w y and of w: y = 1 for a request that failed,
        or was a client error, and w = 1 - propensity. Estimated from the sample."""
        each: dict[tuple[str, str], list[tuple[float, float]]] = {}
        # Of one moment: decisions may be added meanwhile.
        for (_, variant), unit in list(self._units.items()):
            for metric, weighted in zip(
                ERROR_RATES, (unit.weighted, unit.weighted_client_errors), strict=True
            ):
                each.setdefault((variant, metric), []).append((weighted, unit.weight))
        return {key: PairSums.of(*np.asarray(pairs).T) * self._units_each for key, pairs in each.items()}

    def requests(self) -> dict[str, PairSums]:
        """By variant, the sums over the numbers of failures and of requests of its units, estimated from the sample."""
        each: dict[str, list[tuple[int, int]]] = {}
        for (_, variant), unit in list(self._units.items()):
            each.setdefault(variant, []).append((unit.errors, unit.requests))
        return {
            variant: PairSums.of(*np.asarray(pairs, np.float64).T) * self._units_each
            for variant, pairs in each.items()
        }

    @property
    def _units_each(self) -> float:
        """Units for which each unit in the sample stands."""
        return EVERY_UNIT / self.below

    def whole(self) -> dict[str, Stratum]:
        """Each variant over the whole window, where shares are constant."""
        whole: dict[str, _Cell] = {}
        for variants in self._cells.values():
            for variant, cell in variants.items():
                whole.setdefault(variant, _Cell()).join(cell)
        return {variant: cell.side() for variant, cell in whole.items()}

    def strata(self) -> list[Mapping[str, Stratum]]:
        """Each variant in each stratum of time, for shares that move (`policies.sequential.stratified`)."""
        return [{name: cell.side() for name, cell in variants.items()} for variants in self._cells.values()]

    def _new(self, mixed: int, time: float, variant: str) -> _Unit:
        unit = self._units[mixed, variant] = _Unit(time)
        if len(self._units) >= self._size and self.below > 1:
            self.below //= 2
            self._units = {key: one for key, one in self._units.items() if key[0] < self.below}
        return unit

    def _cell(self, first: float, variant: str) -> _Cell:
        variants = self._cells.get(int(first // self._length))
        if variants is None:
            if len(self._cells) >= MAX_STRATA:
                self._coarsen()
            variants = self._cells.setdefault(int(first // self._length), {})
        cell = variants.get(variant)
        if cell is None:
            cell = variants[variant] = _Cell()
        return cell

    def _coarsen(self) -> None:
        """Joins neighbouring strata."""
        self._length *= 2
        old, self._cells = self._cells, {}
        for place, variants in old.items():
            for variant, cell in variants.items():
                self._cells.setdefault(place // 2, {}).setdefault(variant, _Cell()).join(cell)


def _weigh(unit: _Unit, latency: int, cell: _Cell) -> None:
    unit.latencies.append(latency)
    n = len(unit.latencies)
    if n & (n - 1) == 0:  # a power of two
        if unit.weighed:
            cell.weigh(unit.latencies[: unit.weighed], -1.0 / unit.weighed)
        cell.weigh(unit.latencies, 1.0 / n)
        unit.weighed = n
