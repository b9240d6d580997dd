"""Keeps every route's allocation where its policy wants it, on all workers and replicas alike.

One leader (a lease) computes and publishes; everybody else follows what is published. A publication is a new
epoch. What a request reads is swapped with one assignment.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from gateway.clock import Clock
from gateway.compile.arrange import RouteAllocation, fitting, same
from gateway.compile.ensembles import (
    RECENT,
    Drawn,
    averaged,
    draw,
    expected,
    refit,
    restore,
    seed,
)
from gateway.compile.plans import overridden, plan, reported
from gateway.compile.steering import Steering
from gateway.config.document import Document
from gateway.engines.fleet import InEffect
from gateway.ingest.evidence import (
    Metric,
    by_time,
    observations,
    of_buckets,
    over_time,
    periods,
    rewarded,
)
from gateway.ingest.feature_rows import MAX_HALF_LIVES, linear_sums
from gateway.loops.periodic import each_route
from gateway.state.base import BUCKET_S, OutcomeFilter, Published
from gateway.state.store import StartStore, Store
from policies.allocate import Plan, allocate
from policies.allocation import bandit
from policies.allocation.bandit import Bandit, Standing
from policies.allocation.model import Allocation, Learned
from policies.contextual.bandit import Contextual, Ensemble
from policies.sequential.design_based import Periods
from policies.types import Discounted

log = logging.getLogger("turnout.allocation")

LEASE: Final = "allocation"
LEASE_TTL_S: Final = 5.0
STOP_RULE_S: Final = 10.0
"""Seconds for which the periods of a stop rule are not read again."""

Swap = Callable[[str, int, Allocation, Ensemble | None], None]
"""Puts (route, epoch, allocation, and for features an ensemble) where the requests read it."""
Announce = Callable[[Published], None]


_NO_STEERING: Final = Steering()


class Allocations:
    """The allocation of every route, in one process."""

    def __init__(self, store: Store, *, owner: str, clock: Clock, swap: Swap, announce: Announce) -> None:
        self._store = store
        self._owner = owner
        self._clock = clock
        self._swap = swap
        self._announce = announce
        self._stored: dict[str, Published] = {}
        self._packed: dict[str, tuple[int, bytes]] = {}
        """By route: the epoch and the ensemble that was published with it."""
        self._changed = -1
        self._bucket = -1.0
        self._document: Document | None = None
        self.held: dict[str, RouteAllocation] = {}
        self.steering: dict[str, Steering] = {}
        """What the rollout, the guardrails and the stop rule of each route ask (`gateway.loops.controller`)."""
        self.standings: dict[str, Standing] = {}
        """What each bandit knew when this process last looked; the leader's are up to date."""
        self.leads = False
        self._asked: dict[str, tuple[Plan, Learned]] = {}
        """What each route's allocation was last computed from."""
        self._compared: dict[str, tuple[Plan, float, Periods]] = {}
        """By route: the plan, when they were read, and the periods that the stop rule compares by."""

    async def start(self, source: StartStore | None = None) -> None:
        """Reads what was published before, in the store or ``source``; call it before the first `take`."""
        await self._read(source or self._store)

    async def _read(self, source: StartStore) -> None:
        """What is published now, with the ensembles that belong to it."""
        self._stored = await source.published()
        for name, stored in self._stored.items():
            epoch = self._packed.get(name, (0, b""))[0]
            if stored.epoch != epoch and expected(stored.evidence):
                data = await source.ensemble(name, stored.epoch)
                if data is not None:
                    self._packed[name] = stored.epoch, data

    # A new document -----------------------------------------------------------------------------------
    def take(self, document: Document, held: Mapping[str, RouteAllocation]) -> None:
        """Puts a document in force with what was prepared for it (`gateway.compile.arrange`)."""
        self._document, self.held = document, dict(held)
        self._changed = -1  # what was published while it was prepared is followed at the next step

    @property
    def published(self) -> Mapping[str, tuple[Published, bytes]]:
        """By route: what is published, and the ensemble that belongs to it (b"" without one)."""
        return {name: (stored, self._ensemble(name, stored)) for name, stored in self._stored.items()}

    async def preview(
        self, document: Document, held: Mapping[str, RouteAllocation]
    ) -> dict[str, dict[str, float]]:
        """The shares of the routes whose plan ``document`` changes, once it is in force and bandits have looked at
        their rewards. Those of a bandit with features follow its requests, and are left out."""
        found = {}
        for name, one in held.items():
            if isinstance(one.plan, Contextual) or (name in self.held and self.held[name].plan == one.plan):
                continue
            fresh = one.allocation
            if isinstance(one.plan, Bandit):
                learned = await self._learned(name, one, document)
                fresh, _ = await asyncio.to_thread(bandit.refresh, one.plan, learned)
            found[name] = fresh.as_dict()
        return found

    def in_effect(self) -> dict[str, InEffect]:
        """What is published and served here, by route."""
        return {
            name: InEffect(held.epoch, held.allocation, stored.time)
            for name, held in self.held.items()
            if (stored := self._stored.get(name)) is not None and stored.epoch == held.epoch
        }

    def share(self, name: str, variant: str) -> float:
        """The probability of a variant now, whatever decides on it."""
        return self.held[name].allocation.probability(variant)

    def _steering(self, name: str) -> Steering:
        return self.steering.get(name, _NO_STEERING)

    def _ensemble(self, name: str, stored: Published) -> bytes:
        epoch, data = self._packed.get(name, (0, b""))
        return data if epoch == stored.epoch else b""

    def _drawn(self, wanted: Contextual, stored: Published) -> Drawn | None:
        """The ensemble that was published with ``stored``, if there was one and it is for such a plan."""
        data = self._ensemble(stored.route, stored)
        return restore(wanted, data) if data else None

    # The loop -------------------------------------------------------------------------------------------
    async def step(self) -> None:
        """Follows what was published, publishes what is new, and, as the leader, learns from new rewards."""
        lease = await self._store.lease(LEASE, self._owner, ttl=LEASE_TTL_S, now=self._clock())
        self.leads = lease is not None
        changed = await self._store.changed()
        pending = any(not held.published for held in self.held.values())
        if changed == self._changed and not pending and not self._ended():
            return
        await self._read(self._store)
        await each_route("the allocation", self.held, self._step_route)
        self._changed = changed

    async def _step_route(self, name: str) -> None:
        if name not in self.held:
            return  # a new document came meanwhile
        self._follow(name)
        await self._publish_pending(name)
        if self.leads:
            await self._learn(name)

    def _ended(self) -> bool:
        """Whether windows have ended since the last look, at whose end missing rewards count: nothing in the
        store changes then."""
        bucket = self._clock() // BUCKET_S
        if bucket == self._bucket:
            return False
        self._bucket = bucket
        document = self._document
        plans = ((name, held.plan) for name, held in self.held.items())
        learning = ((name, found) for name, found in plans if isinstance(found, Bandit))
        return document is not None and any(
            m.missing == "zero" for name, found in learning for m in _metrics(document, name, found).values()
        )

    async def reconsider(self, name: str, reason: str) -> None:
        """A rollout or guardrail has moved something about ``name``: publish what follows from it."""
        held, document = self.held.get(name), self._document
        if held is None or document is None:
            return  # a new document came meanwhile
        wanted = overridden(plan(document, name), self._steering(name).override)
        self.held[name] = replace(held, plan=wanted)
        if isinstance(wanted, Bandit | Contextual):
            await self._learn(name, reason)
            return
        await self._publish(name, allocate(wanted, Learned(previous=held.allocation)), reason, "")

    def _follow(self, name: str) -> None:
        held, stored = self.held[name], self._stored.get(name)
        if stored is None or stored.epoch < held.epoch:
            return
        assert self._document is not None
        wanted = overridden(plan(self._document, name), self._steering(name).override)
        if wanted != held.plan:  # another process has moved the rollout
            held = self.held[name] = replace(held, plan=wanted)
        found = fitting(stored, held.plan)
        if found is None:
            return  # of another configuration; ours, or the newer one, will be published
        drawn = None
        if expected(stored.evidence):
            if held.published and held.epoch == stored.epoch:
                return
            drawn = self._drawn(held.plan, stored) if isinstance(held.plan, Contextual) else None
            if drawn is None or not drawn.exact:
                return  # another configuration's; or a newer epoch has come, and is followed at the next step
        if stored.epoch != held.epoch or not same(found, held.allocation):
            self._take(name, stored.epoch, found, stored.reason, drawn)
        elif not held.published:
            self.held[name] = replace(held, published=True, drawn=drawn)

    def _take(
        self, name: str, epoch: int, allocation: Allocation, reason: str, drawn: Drawn | None = None
    ) -> None:
        held = self.held[name] = RouteAllocation(epoch, allocation, self.held[name].plan, True, reason, drawn)
        self._swap(name, epoch, allocation, held.ensemble)

    async def _publish_pending(self, name: str) -> None:
        held = self.held[name]
        if not held.published:
            await self._publish(name, held.allocation, held.reason, "", held.drawn)

    async def _learn(self, name: str, reason: str = "posterior") -> None:
        held, document = self.held[name], self._document
        if isinstance(held.plan, Contextual):
            await self._learn_rows(name, held.plan, reason)
        if not isinstance(held.plan, Bandit) or document is None:
            return
        learned = await self._learned(name, held, document)
        if self._asked.get(name) == (held.plan, learned):
            return  # the rewards that came were another route's
        fresh, standing = await asyncio.to_thread(bandit.refresh, held.plan, learned)
        if learned.winner is None and standing.needs_periods:
            learned = replace(learned, periods=await self._periods(name, held.plan, document))
            fresh, standing = await asyncio.to_thread(bandit.refresh, held.plan, learned)
        if self.held.get(name) is not held:
            return  # a new document came meanwhile
        self._asked[name] = held.plan, learned
        self.standings[name] = standing
        if not same(held.allocation, fresh, within=1e-6):
            await self._publish(name, fresh, reason, json.dumps(standing.as_dict()))

    async def _learn_rows(self, name: str, plan: Contextual, reason: str) -> None:
        """`_learn` for a bandit with features. All work on numbers is done in threads."""
        held, caps, document = self.held[name], self._steering(name).caps, self._document
        sums = await linear_sums(self._store, name, plan, now=self._clock())
        if not any(s.count > 0 for s in sums.values()):
            fresh = allocate(plan, Learned(caps=caps, previous=held.allocation))
            if held.drawn is not None or not same(held.allocation, fresh, within=1e-6):
                await self._publish(name, fresh, reason, "")
            return
        if not await asyncio.to_thread(refit, plan, sums, caps, held.drawn):
            return
        assert document is not None
        stored = self._stored.get(name)
        epoch = (stored.epoch if stored is not None else 0) + 1
        drawn = await asyncio.to_thread(
            draw, plan, sums, caps, seed(name, epoch, sticky=document.routes[name].unit is not None)
        )
        recent = await self._store.outcomes(OutcomeFilter(route=name, limit=RECENT))
        fresh = await asyncio.to_thread(averaged, drawn, recent, held.allocation)
        if self.held.get(name) is held:  # else a new document came meanwhile
            await self._publish(name, fresh, reason, drawn.evidence, drawn)

    async def _learned(self, name: str, held: RouteAllocation, document: Document) -> Learned:
        assert isinstance(held.plan, Bandit)
        metrics = _metrics(document, name, held.plan)
        sums = observations(await rewarded(self._store, name, metrics, now=self._clock()))
        discounted: dict[tuple[str, str], Discounted] = {}
        if held.plan.half_life is not None:
            discounted = await self._discounted(name, held.plan.half_life, metrics)
        return Learned(
            sums=sums,
            discounted=discounted,
            caps=self._steering(name).caps,
            winner=self._steering(name).winner,
            previous=held.allocation,
        )

    async def _periods(self, name: str, plan: Bandit, document: Document) -> Periods:
        """What the stop rule compares by, read at most once in `STOP_RULE_S`: it is all of the route's history."""
        now, known = self._clock(), self._compared.get(name)
        if known is None or known[0] != plan or not now - STOP_RULE_S < known[1] <= now:
            metrics = _metrics(document, name, plan)
            buckets = await over_time(self._store, name, metrics, now=now)
            known = self._compared[name] = plan, now, await asyncio.to_thread(periods, buckets)
        return known[2]

    async def _discounted(
        self, name: str, half_life: float, metrics: Mapping[str, Metric]
    ) -> dict[tuple[str, str], Discounted]:
        now = self._clock()
        buckets = await self._store.series(
            name, since=now - MAX_HALF_LIVES * half_life, until=now, step=BUCKET_S
        )
        return bandit.discounted(by_time(of_buckets(buckets, metrics, now=now)), now=now, half_life=half_life)

    async def _publish(
        self, name: str, fresh: Allocation, reason: str, evidence: str, drawn: Drawn | None = None
    ) -> None:
        stored = self._stored.get(name)
        epoch = (stored.epoch if stored is not None else 0) + 1
        record = Published(
            route=name,
            epoch=epoch,
            probabilities=fresh.as_dict(),
            bounds=fresh.bounds,
            owners=fresh.owners,
            reason=reason,
            time=self._clock(),
            evidence=drawn.evidence if drawn is not None else evidence,
        )
        packed = await asyncio.to_thread(drawn.packed) if drawn is not None else b""
        if not await self._store.publish(record, packed):
            self._changed = -1  # somebody was faster: look again, and follow
            return
        self._stored[name] = record
        if drawn is not None:
            self._packed[name] = epoch, packed
            drawn = replace(drawn, exact=True)
        if name not in self.held:
            return
        if drawn is not None and self.held[name].plan != drawn.ensemble.plan:
            self._changed = -1  # the document was edited meanwhile: these coefficients are of other features
            return
        self._take(name, epoch, fresh, reason, drawn)
        self._announce(record)


def _metrics(document: Document, name: str, found: Bandit) -> dict[str, Metric]:
    """What the bandit learns from."""
    declared = reported(document, name)
    return {o.metric: declared[o.metric] for o in found.objectives if o.metric in declared}
