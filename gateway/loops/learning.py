"""What the policy of a route makes of its rewards: one method for each type of plan that learns.

Each collects evidence from the store and hands it to a pure function of `policies`. Nothing is published here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final, NamedTuple

from gateway.clock import Clock
from gateway.compile.arrange import RouteAllocation
from gateway.compile.ensembles import RECENT, Drawn, averaged, draw, refit, seed
from gateway.compile.plans import reported
from gateway.compile.steering import Steering
from gateway.config.document import Document
from gateway.config.service import MetricConfig
from gateway.ingest.by_unit import OutcomesByUnit
from gateway.ingest.comparable import periods
from gateway.ingest.evidence import (
    by_time,
    joined,
    observations,
    of_buckets,
    rewarded,
)
from gateway.ingest.feature_rows import MAX_HALF_LIVES, linear_sums
from gateway.ingest.remembered import Remembered, spans_of_all, windows_over
from gateway.loops.periodic import MAX_READ_SHARE
from gateway.state.base import BUCKET_S, Bucket, OutcomeFilter
from gateway.state.store import Store
from policies.allocate import Plan, allocate
from policies.allocation import bandit
from policies.allocation.bandit import Bandit, Standing
from policies.allocation.model import Allocation, Learned
from policies.contextual.bandit import Contextual
from policies.sequential.design_based import Periods
from policies.types import Discounted, PairSums, RewardSums

STOP_RULE_S: Final = 10.0
"""Seconds for which the periods of a stop rule are not read again."""
MAX_UNITS_S: Final = 0.5
"""Seconds for which one look reads the units of the record: other routes wait."""
MIN_REST_S: Final = 0.05
"""Seconds: rewards of a bandit with a half-life that are read faster are read each time."""


@dataclass(frozen=True, slots=True)
class Look:
    """A route at the moment when its policy looks at the evidence."""

    name: str
    document: Document
    held: RouteAllocation
    steering: Steering
    epoch: int
    """The epoch under which an allocation would be published now."""

    def metrics(self, plan: Bandit) -> dict[str, MetricConfig]:
        """The declared metrics that the bandit learns from."""
        declared = reported(self.document, self.name)
        return {o.metric: declared[o.metric] for o in plan.objectives if o.metric in declared}


@dataclass(frozen=True, slots=True)
class Proposal:
    """The allocation that follows from the evidence."""

    allocation: Allocation
    evidence: str = ""
    """JSON for the history of allocations."""
    drawn: Drawn | None = None
    standing: Standing | None = None


class _Aged(NamedTuple):
    """Rewards by their age, as they were read last."""

    of: tuple[Mapping[str, MetricConfig], float]
    """Metrics and half-life."""
    due: float
    """When they are read again."""
    found: Mapping[tuple[str, str], Discounted]


class Learning:
    """The evidence of all routes whose policies learn."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._last: dict[str, tuple[RouteAllocation, Learned, Proposal]] = {}
        """By route: the last proposal, and what it was computed from."""
        self._sums: dict[str, tuple[object, Mapping[tuple[str, str], RewardSums]]] = {}
        """By route: the observations, and the version of the rewards and the metrics that they were read for."""
        self._aged: dict[str, _Aged] = {}
        self._units = OutcomesByUnit(store, clock, max_look_s=MAX_UNITS_S)
        self._parts: dict[str, tuple[object, Remembered[Periods]]] = {}
        """By route: the metrics, those with values of units, and the periods that the stop rule compares by, a span of
        time at a time."""
        self._compared: dict[str, tuple[Plan, float, Periods]] = {}
        """By route: the plan, when they were read, and the periods that the stop rule compares by."""

    def keep(self, names: Collection[str]) -> None:
        """Forget what was read of other routes than these."""
        for known in (self._last, self._sums, self._aged, self._parts, self._compared):
            for name in known.keys() - names:
                del known[name]

    async def propose(self, look: Look) -> Proposal | None:
        """Return the allocation that the evidence of a route asks for now; None if its policy keeps what it has."""
        match look.held.plan:
            case Bandit() as plan:
                return await self._bandit(plan, look)
            case Contextual() as plan:
                return await self._contextual(plan, look)
        return None

    async def preview(self, look: Look) -> Allocation | None:
        """Return the allocation once the policy has looked at its rewards; None if each request has its own."""
        match look.held.plan:
            case Contextual():
                return None
            case Bandit() as plan:
                return (await asyncio.to_thread(bandit.refresh, plan, await self._learned(plan, look)))[0]
        return look.held.allocation

    # Bandits ------------------------------------------------------------------------------------------
    async def _bandit(self, plan: Bandit, look: Look) -> Proposal | None:
        learned = await self._learned(plan, look)
        last = self._last.get(look.name)
        if last is not None and last[0] is look.held and last[1] == learned:
            return last[2]  # the rewards that came were another route's, or it could not be published
        standing, compared, reading = await asyncio.to_thread(bandit.assess, plan, learned), learned, False
        if learned.winner is None and standing.believed is not None:
            found = await self._periods(plan, look)
            compared, reading = replace(learned, periods=found), found is None
            # No winner while a part of the evidence is still being read.
            standing = replace(standing, believed=None) if reading else standing
        fresh, standing = await asyncio.to_thread(bandit.refresh, plan, compared, standing)
        proposal = Proposal(fresh, json.dumps(standing.as_dict()), standing=standing)
        if not reading:  # else the next step goes on, whether or not a reward comes
            self._last[look.name] = look.held, learned, proposal
        return proposal

    async def _learned(self, plan: Bandit, look: Look) -> Learned:
        metrics = look.metrics(plan)
        learned = Learned(
            sums=await self._observations(look.name, metrics),
            caps=look.steering.caps,
            winner=look.steering.winner,
            previous=look.held.allocation,
        )
        if plan.half_life is None:
            return learned
        return replace(learned, discounted=await self._discounted(look.name, metrics, plan.half_life))

    async def _observations(
        self, name: str, metrics: Mapping[str, MetricConfig]
    ) -> Mapping[tuple[str, str], RewardSums]:
        """Read again only if rewards of the route came, or missing ones may count now: it is all of its history."""
        of, known = (await self._store.rewards_version(name), metrics), self._sums.get(name)
        if known is None or known[0] != of or any(m.missing == "zero" for m in metrics.values()):
            found = observations(await rewarded(self._store, name, metrics, now=self._clock()))
            known = self._sums[name] = of, found
        return known[1]

    async def _discounted(
        self, name: str, metrics: Mapping[str, MetricConfig], half_life: float
    ) -> Mapping[tuple[str, str], Discounted]:
        """The rewards by their age. Of months they take a second to read: then they are not read each second."""
        now, began, known = self._clock(), perf_counter(), self._aged.get(name)
        if known is not None and known.of == (metrics, half_life) and began < known.due:
            return known.found
        since = now - MAX_HALF_LIVES * half_life
        buckets = await self._store.series(
            name, since=since, until=now, step=BUCKET_S, epochs="together", histograms=False
        )

        def read() -> dict[tuple[str, str], Discounted]:
            rewarded = by_time(of_buckets(buckets, metrics, now=now))
            found = bandit.discounted(rewarded, now=now, half_life=half_life)
            buckets.clear()  # to free thousands would hold up the event loop
            return found

        found = await asyncio.to_thread(read)
        took = perf_counter() - began
        due = perf_counter() + (took / MAX_READ_SHARE if took > MIN_REST_S else 0.0)
        self._aged[name] = _Aged((metrics, half_life), due, found)
        return found

    async def _periods(self, plan: Bandit, look: Look) -> Periods | None:
        """What the stop rule compares by, read at most once in `STOP_RULE_S`.

        Missing values of sticky units that count as zero are of units whose numbers of requests the record tells; None
        while it is being read.
        """
        now, known = self._clock(), self._compared.get(look.name)
        if known is None or known[0] != plan or not now - STOP_RULE_S < known[1] <= now:
            metrics, requests = look.metrics(plan), dict[str, PairSums]()
            zeros = any(metric.missing == "zero" for metric in metrics.values())
            if zeros and look.document.routes[look.name].unit is not None:
                outcomes = await self._units.read(look.name, 0.0)
                if outcomes is None:
                    return None
                failures = await asyncio.to_thread(outcomes.failures)
                requests = {variant: pairs for (variant, _), pairs in failures.items()}
            parts = await self._parts_of(look, metrics, now)
            found = await asyncio.to_thread(Periods.joined, parts, requests)
            known = self._compared[look.name] = plan, now, found
        return known[2]

    async def _parts_of(self, look: Look, metrics: Mapping[str, MetricConfig], now: float) -> list[Periods]:
        """The periods a span of time at a time: only those that changed, or in which windows ended, are read."""
        totals = joined(await self._store.reward_sums(look.name))
        by_unit = frozenset(metric for (_, metric), one in totals.items() if one.weighted.y.count)
        known = self._parts.get(look.name)
        if known is None or known[0] != (metrics, by_unit):

            def made(buckets: list[Bucket], step: float, now: float) -> Periods:
                return periods(of_buckets(buckets, metrics, now=now, step=step), by_unit=by_unit)

            remembered = Remembered(made, windows_over(metrics))
            known = self._parts[look.name] = (metrics, by_unit), remembered
        return await known[1].read(self._store, look.name, spans_of_all(now), now=now)

    # Bandits with features: all work on numbers is done in threads --------------------------------------
    async def _contextual(self, plan: Contextual, look: Look) -> Proposal | None:
        held, caps = look.held, look.steering.caps
        sums = await linear_sums(self._store, look.name, plan, now=self._clock())
        if not any(s.count > 0 for s in sums.values()):
            return Proposal(allocate(plan, Learned(caps=caps, previous=held.allocation)))
        if not await asyncio.to_thread(refit, plan, sums, caps, held.drawn):
            return None
        sticky = look.document.routes[look.name].unit is not None
        drawn = await asyncio.to_thread(draw, plan, sums, caps, seed(look.name, look.epoch, sticky=sticky))
        recent = await self._store.outcomes(OutcomeFilter(route=look.name, limit=RECENT))
        fresh = await asyncio.to_thread(averaged, drawn, recent, held.allocation)
        return Proposal(fresh, drawn.evidence, drawn)


def counts_missing(look: Look) -> bool:
    """Whether missing rewards count at the end of their window, when nothing in the store changes."""
    plan = look.held.plan
    return isinstance(plan, Bandit) and any(m.missing == "zero" for m in look.metrics(plan).values())
