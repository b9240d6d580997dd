"""How the rewards of one sticky unit become one observation. Pure; every store does the same.

Ten thousand requests of one user say little more about a variant than one of them does, so for each
(variant, metric, period) the values of a unit count as one observation: their mean. The plain sums of a
metric hold the values of requests without a unit. Next to them stand sums under the metric's name and an
*aspect*, kept in the same cells, so that they are folded, pruned and added up like any others:

    NAME            values of requests without a unit
    NAME|sticky     values of sticky units, each by itself
    NAME|units      one mean for each sticky unit, in the cell of the first of its values that was reported
    NAME|rescued    values of decisions that another than the assigned variant served (they are above too)

A period is what `Reward.period` says. What was counted for a unit is kept with it, so that corrections and
retractions take exactly that away again.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.record.events import Reward
from gateway.state.exact import ExactSums, Expansion
from gateway.state.tally import SumKey, sum_key

STICKY: Final = "|sticky"
UNITS: Final = "|units"
RESCUED: Final = "|rescued"
UNIT_REST_S: Final = 100 * 86_400
"""Seconds for which a unit of which nothing is reported is remembered; later it is a new one."""
UNIT_MOVES_S: Final = 400 * 86_400
"""Seconds after which a unit's observation moves to the cell of its newest value, so that it is not
forgotten with old aggregates while the unit still comes."""


class UnitKey(NamedTuple):
    """What one observation is about."""

    route: str
    unit: int
    """64 bits."""
    period: str
    variant: str
    metric: str


@dataclass(slots=True)
class UnitState:
    """The values of one unit so far, and what the sums hold for it."""

    count: int
    total: Expansion
    mean: float
    start: int
    """Of the bucket where the mean is counted."""
    epoch: int
    last: float
    """When the newest of the decisions was made."""


Cells = MutableMapping[SumKey, ExactSums]


@dataclass(slots=True)
class Counting:
    """What a batch of changes does: to the cells of the sums, and to the units, which ``known`` holds."""

    known: MutableMapping[UnitKey, UnitState | None]
    cells: Cells = field(default_factory=dict)

    def change(self, reward: Reward, before: float | None, after: float | None, period: str) -> None:
        """``reward`` counts as ``after`` and counted as ``before`` (None: not at all), then under ``period``."""
        if before is not None:
            self._move(reward._replace(period=period), before, -1)
        if after is not None:
            self._move(reward, after, 1)
        if period != reward.period:
            if period:
                self._observe(reward._replace(period=period), before, None)
            before = None
        if reward.period:
            self._observe(reward, before, after)

    def _move(self, reward: Reward, value: float, sign: int) -> None:
        key = sum_key(reward)
        _add(self.cells, _aspect(key, STICKY) if reward.period else key, value, sign)
        if reward.assigned != reward.served:
            _add(self.cells, _aspect(key, RESCUED), value, sign)

    def _observe(self, reward: Reward, before: float | None, after: float | None) -> None:
        key = unit_key(reward)
        old = self.known.get(key)
        if old is None and after is None:
            return  # forgotten already: nothing is left to be taken away
        place = sum_key(reward)
        new = old or UnitState(0, Expansion(), 0.0, place.start, place.epoch, reward.decided)
        if old is not None:
            _add(self.cells, _place(place, new), new.mean, -1)
            if before is not None:
                new.count -= 1
                new.total.add(-before)
        if after is not None:
            new.count += 1
            new.total.add(after)
        if new.count <= 0:
            self.known[key] = None
            return
        self.known[key] = new
        new.last = max(new.last, reward.decided)
        if place.start - new.start > UNIT_MOVES_S:
            new.start, new.epoch = place.start, place.epoch
        new.mean = new.total.rounded / new.count
        _add(self.cells, _place(place, new), new.mean, 1)


def unit_key(reward: Reward) -> UnitKey:
    return UnitKey(reward.route, reward.unit, reward.period, reward.assigned, reward.metric)


def metric_of(name: str) -> str:
    """The metric of a name that may have an aspect."""
    return name.partition("|")[0]


def _aspect(key: SumKey, aspect: str) -> SumKey:
    return key._replace(metric=key.metric + aspect)


def _place(key: SumKey, state: UnitState) -> SumKey:
    return key._replace(start=state.start, epoch=state.epoch, metric=key.metric + UNITS)


def _add(cells: Cells, key: SumKey, value: float, sign: int) -> None:
    sums = cells.setdefault(key, ExactSums())
    if sign > 0:
        sums.report(value)
    else:
        sums.retract(value)
