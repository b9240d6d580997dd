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

Where a metric is adjusted by the units' past (`policies.sequential.adjusted`), `PERIOD~EXPERIMENT` is written for the
period. The mean of a unit's values from outside the experiment, as far as they are known at its first value in a
period, stands next to its observation, in three more sums over units that have such a past:

    NAME|past       the mean before
    NAME|known      the observation
    NAME|both       the sum of the two, whose squares give their products

Values that are missing and count as zero are of no known unit (`gateway.ingest.evidence`). For such a metric, `EPOCH+`
is written for an epoch: how much the values of one unit go together within it follows from three sums over its units:

    NAME|sum        Σ y of a unit
    NAME|number     the number of its values
    NAME|together   the sum of the two

A bandit's shares move while a unit stays, so its values are compared one by one, each with the propensity p of its own
decision (`policies.sequential.design_based`). How much the values of one unit go together follows from three sums over
the units of a variant, whatever the period, in which a value y has the weight w = 1 - p:

    NAME|weighted   Σ w y of a unit
    NAME|weight     Σ w of a unit
    NAME|joint      the sum of the two

A policy with features draws each request with its own propensity p, so its values are compared by the weights w = 1 / p
(`policies.sequential.design_based.inverse_weighted`), and so are the sums over units above:

    NAME|ipw        Σ w y of a value y
    NAME|ipw_weight Σ w
    NAME|ipw_joint  the sum of the two

Of each covariate x that a decision has (`policies.contextual.features.Covariate`), there are three sums over the values
y of such decisions, whatever the metric is adjusted by, so that a correction takes away what was added:

    NAME|x:ID       x
    NAME|y:ID       y
    NAME|xy:ID      the sum of the two

In each segment that a decision is in, its values count as those of a metric of its own, NAME|@SEGMENT, which has the
aspects above except those of the past, of covariates and of missing values (`gateway.ingest.segments`).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.record.context import covariates_of, has_row, segments_of
from gateway.record.events import Reward
from gateway.state.exact import ExactSums, Expansion
from gateway.state.tally import SumKey, sum_key
from policies.contextual.features import GRID

STICKY: Final = "|sticky"
UNITS: Final = "|units"
RESCUED: Final = "|rescued"
PAST: Final = "|past"
KNOWN: Final = "|known"
BOTH: Final = "|both"
WEIGHT: Final = "|weight"
WEIGHTED: Final = "|weighted"
JOINT: Final = "|joint"
OF_PAST: Final = (PAST, KNOWN, BOTH)
OF_UNITS: Final = ("|sum", "|number", "|together")
OF_WEIGHTS: Final = (WEIGHTED, WEIGHT, JOINT)
OF_INVERSE: Final = ("|ipw", "|ipw_weight", "|ipw_joint")
SEGMENT: Final = "|@"
COVARIATE: Final = "|x:"
_EXPERIMENT: Final = "~"
_EPOCH: Final = "e"
"""First letter of the periods in which shares are constant."""
_SUMMED: Final = "+"
"""Last letter of those for which the sums of each unit are kept."""
_ALL: Final = "all"
WEIGHT_STEPS: Final = 1 << 20
"""Weights are multiples of 1 / WEIGHT_STEPS, so that their sums are exact."""
_HISTORY: Final = "past"
"""Period under which all values of a unit are kept; with an experiment behind it, those of the experiment alone."""
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

    def change(self, before: float | None, after: float | None) -> None:
        """A value counted as ``before`` and counts as ``after``."""
        for value, sign in ((before, -1), (after, 1)):
            if value is not None:
                self.count += sign
                self.total.add(sign * value)

    def come(self, place: SumKey, decided: float) -> None:
        """A decision was made at ``decided``, in ``place``."""
        self.last = max(self.last, decided)
        if place.start - self.start > UNIT_MOVES_S:
            self.start, self.epoch = place.start, place.epoch


Cells = MutableMapping[SumKey, ExactSums]


@dataclass(slots=True)
class Counting:
    """What a batch of changes does: to the cells of the sums, and to the units, which ``known`` holds."""

    known: MutableMapping[UnitKey, UnitState | None]
    cells: Cells = field(default_factory=dict)

    def change(self, reward: Reward, before: float | None, after: float | None, period: str) -> None:
        """``reward`` counts as ``after`` and counted as ``before`` (None: not at all), then under ``period``."""
        self._change(reward, before, after, period)
        for segment in segments_of(reward.context):
            of_segment = reward._replace(
                metric=reward.metric + SEGMENT + segment, context="", period=_bare(reward.period)
            )
            self._change(of_segment, before, after, _bare(period))

    def _change(self, reward: Reward, before: float | None, after: float | None, period: str) -> None:
        if before is not None:
            self._move(reward._replace(period=period), before, -1)
        if after is not None:
            self._move(reward, after, 1)
        if period != reward.period:
            if period:
                self._count_unit(reward._replace(period=period), before, None)
            before = None
        if reward.period:
            self._count_unit(reward, before, after)

    def _count_unit(self, reward: Reward, before: float | None, after: float | None) -> None:
        self._observe(reward, before, after)
        if not reward.period.startswith(_EPOCH):
            w = weight_steps(reward) / WEIGHT_STEPS
            self._weigh(reward, before, after, w, unit_key(reward)._replace(period=_ALL), OF_WEIGHTS)
        elif _plain(reward.period).endswith(_SUMMED):
            self._weigh(reward, before, after, 1.0, unit_key(reward), OF_UNITS)

    def _move(self, reward: Reward, value: float, sign: int) -> None:
        key = sum_key(reward)
        _add(self.cells, _aspect(key, STICKY) if reward.period else key, value, sign)
        if reward.assigned != reward.served:
            _add(self.cells, _aspect(key, RESCUED), value, sign)
        for name, steps in covariates_of(reward.context):
            x = steps / GRID
            for aspect, part in zip(of_covariate(name), (x, value, x + value), strict=True):
                _add(self.cells, _aspect(key, aspect), part, sign)
        if has_row(reward.context):
            w = weight_steps(reward) / WEIGHT_STEPS
            for aspect, part in zip(OF_INVERSE, (w * value, w, w * value + w), strict=True):
                _add(self.cells, _aspect(key, aspect), part, sign)

    def _observe(self, reward: Reward, before: float | None, after: float | None) -> None:
        key = unit_key(reward)
        old, past = self.known.get(key), None
        experiment = experiment_of(reward.period)
        if experiment is not None:
            past = self._past(key, reward, experiment, new=old is None)
            for name in (_HISTORY, with_experiment(_HISTORY, experiment))[: 1 + bool(experiment)]:
                self._remember(key._replace(period=name, variant=""), reward.decided, before, after)
        if old is None and after is None:
            return  # forgotten already: nothing is left to be taken away
        place = sum_key(reward)
        new = old or UnitState(0, Expansion(), 0.0, place.start, place.epoch, reward.decided)
        if old is not None:
            _add(self.cells, _place(place, new), new.mean, -1)
            if past is not None:
                self._count_pair(place, past, OF_PAST, -1)
        new.change(before if old is not None else None, after)
        if new.count <= 0:
            self.known[key] = None
            if experiment is None and (past := self.known.get(_of_past(key))) is not None:
                self._count_pair(place, past, OF_PAST, -1)
            if past is not None:
                self.known[_of_past(key)] = None
            return
        self.known[key] = new
        new.come(place, reward.decided)
        new.mean = new.total.rounded / new.count
        _add(self.cells, _place(place, new), new.mean, 1)
        if past is not None:
            past = UnitState(1, past.total, new.mean, new.start, new.epoch, new.last)
            self.known[_of_past(key)] = past
            self._count_pair(place, past, OF_PAST, 1)

    def _weigh(
        self,
        reward: Reward,
        before: float | None,
        after: float | None,
        w: float,
        key: UnitKey,
        aspects: tuple[str, str, str],
    ) -> None:
        """Move the weighted sums of a unit: its total is Σ w y, its mean Σ w."""
        key = key._replace(metric=key.metric + aspects[0])
        old, place = self.known.get(key), sum_key(reward)
        if old is None and after is None:
            return
        unit = old or UnitState(0, Expansion(), 0.0, place.start, place.epoch, reward.decided)
        if old is not None:
            self._count_pair(place, unit, aspects, -1)
        before = before if old is not None else None
        unit.mean += w * ((after is not None) - (before is not None))
        unit.change(before if before is None else w * before, after if after is None else w * after)
        unit.come(place, reward.decided)
        self.known[key] = unit if unit.count > 0 else None
        if unit.count > 0:
            self._count_pair(place, unit, aspects, 1)

    def _past(self, key: UnitKey, reward: Reward, experiment: str, *, new: bool) -> UnitState | None:
        """What stands next to an observation: the mean before as its total, and the observation as its mean."""
        if not new:
            return self.known.get(_of_past(key))
        every = self.known.get(key._replace(period=_HISTORY, variant="")) if experiment else None
        if every is None:
            return None
        own = self.known.get(key._replace(period=with_experiment(_HISTORY, experiment), variant=""))
        count, total = every.count, Expansion(list(every.total.parts))
        if own is not None:
            count -= own.count
            for part in own.total.parts:
                total.add(-part)
        if count <= 0:
            return None
        mean = Expansion()
        mean.add(total.rounded / count)
        return UnitState(1, mean, 0.0, 0, 0, reward.decided)

    def _remember(self, key: UnitKey, decided: float, before: float | None, after: float | None) -> None:
        """Adds to what is kept of a unit's values whatever their period and variant."""
        state = self.known.get(key)
        if state is None and after is None:
            return
        state = state or UnitState(0, Expansion(), 0.0, 0, 0, decided)
        state.change(before, after)
        state.last = max(state.last, decided)
        self.known[key] = state if state.count > 0 else None

    def _count_pair(self, place: SumKey, unit: UnitState, aspects: tuple[str, str, str], sign: int) -> None:
        """Move the sums of a unit's total, of its mean, and of both together."""
        total, mean = unit.total.rounded, unit.mean
        for aspect, value in zip(aspects, (total, mean, total + mean), strict=True):
            _add(self.cells, _place(place, unit, aspect), value, sign)


def weight_steps(reward: Reward) -> int:
    """The weight of a value, in steps of 1 / WEIGHT_STEPS: 1 - its decision's propensity, with features 1 over that."""
    if has_row(reward.context):
        return round(WEIGHT_STEPS / max(reward.propensity, 1.0 / WEIGHT_STEPS))
    return round((1.0 - reward.propensity) * WEIGHT_STEPS)


def of_covariate(name: str) -> tuple[str, str, str]:
    """The aspects of a covariate's x and y, and of both together; ``name``: its id, in hexadecimal."""
    return COVARIATE + name, "|y:" + name, "|xy:" + name


def unit_key(reward: Reward) -> UnitKey:
    return UnitKey(reward.route, reward.unit, _bare(reward.period), reward.assigned, reward.metric)


def _plain(period: str) -> str:
    """A period without its experiment."""
    return period.partition(_EXPERIMENT)[0]


def _bare(period: str) -> str:
    """A period without what is kept beyond the observation of each unit."""
    return _plain(period).removesuffix(_SUMMED)


def with_sums(period: str) -> str:
    """The period of a value of a metric whose missing values count as zero."""
    return period + _SUMMED if period.startswith(_EPOCH) else period


def with_experiment(period: str, experiment: str) -> str:
    """The period of a value of a metric that is adjusted by the past; no ``experiment``: nothing is compared."""
    return f"{period}{_EXPERIMENT}{experiment}"


def experiment_of(period: str) -> str | None:
    """What `with_experiment` added; None without it."""
    _, marked, experiment = period.partition(_EXPERIMENT)
    return experiment if marked else None


def _of_past(key: UnitKey) -> UnitKey:
    return key._replace(metric=key.metric + PAST)


def metric_of(name: str) -> str:
    """The metric of a name that may have an aspect."""
    return name.partition("|")[0]


def _aspect(key: SumKey, aspect: str) -> SumKey:
    return key._replace(metric=key.metric + aspect)


def _place(key: SumKey, state: UnitState, aspect: str = UNITS) -> SumKey:
    return key._replace(start=state.start, epoch=state.epoch, metric=key.metric + aspect)


def _add(cells: Cells, key: SumKey, value: float, sign: int) -> None:
    sums = cells.setdefault(key, ExactSums())
    if sign > 0:
        sums.report(value)
    else:
        sums.retract(value)
