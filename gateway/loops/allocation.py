"""Keeps every route's allocation where its policy wants it, on all workers and replicas alike.

One leader (a lease) computes and publishes; all other processes follow what is published. A publication is a new
epoch. What a request reads is swapped with one assignment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from gateway.clock import Clock
from gateway.compile.arrange import RouteAllocation, fitting, followed, same
from gateway.compile.ensembles import expected
from gateway.compile.plans import overridden, plan
from gateway.compile.recalled import traces
from gateway.compile.steering import Steering
from gateway.config.document import Document
from gateway.engines.offers import InEffect
from gateway.loops.learning import Learning, Look, Proposal, counts_missing
from gateway.loops.periodic import Failures, each_route
from gateway.state.base import BUCKET_S, Published
from gateway.state.store import StartStore, Store
from policies.allocate import allocate
from policies.allocation.bandit import Bandit, Standing
from policies.allocation.fixed_plans import Split
from policies.allocation.model import Allocation, Learned
from policies.contextual.bandit import Contextual, Ensemble

LEASE: Final = "allocation"
LAGGING_LEASE: Final = "allocation-lagging"
"""Of the processes that can't build the newest configuration: only its holder may lead, while none that can does."""
LEASE_TTL_S: Final = 5.0
LEASE_STEPS: Final = 2
"""How many times `loops.allocation` a lease lasts, if that is longer: after a crash, nothing leads for that long."""
RENEWAL_S: Final = 1.0
"""The lease is renewed between two routes of a step that takes longer than this."""

Swap = Callable[[str, int, Allocation, Ensemble | None], None]
"""Puts (route, epoch, allocation, and for features an ensemble) where the requests read it."""
Announce = Callable[[Published], None]
MayPublish = Callable[[bool], Awaitable[bool]]
"""Whether the document in force may still be published, by a process that leads or does not."""

_NO_STEERING: Final = Steering()


class Allocations:
    """The allocation of every route, in one process."""

    def __init__(
        self,
        store: Store,
        *,
        owner: str,
        clock: Clock,
        swap: Swap,
        announce: Announce,
        may_publish: MayPublish | None = None,
        lags: Callable[[], bool] = lambda: False,
    ) -> None:
        """``may_publish``: if absent, always. ``lags()``: the newest configuration can't be built here."""
        self._store = store
        self._may_publish = may_publish
        self._outdated = False
        """Whether a newer document than the one in force may be published already."""
        self._lags = lags
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
        self._asked = 0.0
        """When this process last asked for the lease."""
        self._learning = Learning(store, clock)
        self._failures = Failures()
        self._publications = 0
        """How often this process has published."""
        self._in_effect: dict[str, InEffect] | None = None
        """What `in_effect` returned last; None after a change."""

    async def start(self, source: StartStore | None = None) -> None:
        """Reads what was published before, in the store or ``source``; call it before the first `take`."""
        await self._read(source or self._store)

    async def _read(self, source: StartStore) -> None:
        """What is published now, with the ensembles that belong to it."""
        before = None
        while before != self._publications:  # what was read while this process published is outdated
            before = self._publications
            found = await source.published()
        self._stored, self._in_effect = found, None
        for name, stored in self._stored.items():
            epoch = self._packed.get(name, (0, b""))[0]
            if stored.epoch != epoch and expected(stored.evidence):
                data = await source.ensemble(name, stored.epoch)
                if data is not None:
                    self._packed[name] = stored.epoch, data

    # A new document -----------------------------------------------------------------------------------
    def take(self, document: Document, held: Mapping[str, RouteAllocation]) -> None:
        """Puts a document in force with what was prepared for it (`gateway.compile.arrange`)."""
        self._document, self._in_effect = document, None
        self.held = {name: self._ahead(name, one) for name, one in held.items()}
        self._learning.keep(held.keys())
        self.standings = {name: one for name, one in self.standings.items() if name in held}
        self._changed = -1  # what was published while it was prepared is followed at the next step

    def _ahead(self, name: str, held: RouteAllocation) -> RouteAllocation:
        """``held`` of a new document; not published, and under the next epoch, if what is published now is of the
        document before.

        Under an epoch that is published already, the edit would give way to what it replaces. A bandit or a rollout
        goes on from there by itself; and the same shares are of another process that took the edit first.
        """
        stored = self._stored.get(name)
        if stored is None or stored.epoch < held.epoch + held.published:
            return held
        found = fitting(stored, held.plan)
        if found and (not isinstance(held.plan, Split) or same(found, held.allocation, within=1e-9)):
            return held
        return replace(held, epoch=stored.epoch + 1, published=False)

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
            if name in self.held and self.held[name].plan == one.plan:
                continue
            fresh = await self._learning.preview(self._look(name, one, document))
            if fresh is not None:
                found[name] = fresh.as_dict()
        return found

    def in_effect(self) -> Mapping[str, InEffect]:
        """What is published and served here, by route; the same object until it changes."""
        if self._in_effect is None:
            self._in_effect = {
                name: InEffect(held.epoch, held.allocation, stored.time, stored.reason)
                for name, held in self.held.items()
                # Not what is still to be published: another allocation may have its epoch.
                if held.published
                and (stored := self._stored.get(name)) is not None
                and stored.epoch == held.epoch
            }
        return self._in_effect

    def share(self, name: str, variant: str) -> float:
        """The probability of a variant now, whatever decides on it."""
        return self.held[name].allocation.probability(variant)

    def gives(self, name: str, variant: str, weight: float) -> bool:
        """Whether ``weight`` is what a variant has now."""
        return abs(self.share(name, variant) - weight) <= 1e-9

    def _steering(self, name: str) -> Steering:
        return self.steering.get(name, _NO_STEERING)

    def _ensemble(self, name: str, stored: Published) -> bytes:
        epoch, data = self._packed.get(name, (0, b""))
        return data if epoch == stored.epoch else b""

    # The loop -------------------------------------------------------------------------------------------
    async def step(self, *, first: bool = False) -> None:
        """Follows what was published, publishes what is new, and, as the leader, learns from new rewards.

        ``first``: before the first request, only routes without a published allocation learn: to read the rewards of
        hundreds takes seconds.
        """
        led, self.leads = self.leads, await self._lead()
        if self.leads and not led:
            self._changed = -1  # what the leader before did not come to is done now
        changed = await self._store.changed()
        pending = any(not held.published for held in self.held.values())
        if changed == self._changed and not pending and not self._ended():
            return
        await self._read(self._store)
        await self._look_at_revision()
        await each_route(
            "the allocation", self.held, lambda name: self._step_route(name, first=first), self._failures
        )
        # The first step has left routes out, and an outdated one what was learned: the next must not think them done.
        self._changed = -1 if first or (self.leads and self._outdated) else changed

    async def _look_at_revision(self) -> None:
        # After the epochs: what another process publishes of a newer revision that comes later takes the next epoch.
        self._outdated = not await self.may_publish(self.leads)

    async def may_publish(self, leads: bool) -> bool:
        """Whether the document in force may still be published, by a process that leads or does not."""
        return self._may_publish is None or await self._may_publish(leads)

    async def _lead(self) -> bool:
        # Each step, so that a leader that hangs is followed by another within the lease. It outlasts the time between
        # two steps: else processes would lead in turn, and each think until its next step that it still does.
        interval = self._document.loops.allocation if self._document is not None else 0.0
        ttl, now = max(LEASE_TTL_S, LEASE_STEPS * interval), self._clock()
        self._asked = now
        lags = self._lags()
        if lags and await self._store.lease(LAGGING_LEASE, self._owner, ttl=ttl, now=now) is None:
            return False
        leads = await self._store.lease(LEASE, self._owner, ttl=ttl, now=now) is not None
        if lags and leads:  # let go of right away: the next step of a process that can build it takes over
            await self._store.release(LEASE, self._owner)
        return leads

    async def _step_route(self, name: str, *, first: bool) -> None:
        if name not in self.held or self._document is None:
            return  # a new document came meanwhile
        # Looks at hundreds of bandits outlast a lease.
        if self.leads and self._clock() - self._asked > RENEWAL_S:
            self.leads = await self._lead()
        self._follow(name, self._document)
        known = self.held[name].published
        await self._publish_pending(name)
        if self.leads and not (first and known):
            await self._learn(name)

    def _ended(self) -> bool:
        """Whether windows have ended since the last look, at whose end missing rewards count: nothing in the
        store changes then."""
        bucket, document = self._clock() // BUCKET_S, self._document
        if bucket == self._bucket or document is None:
            return False
        self._bucket = bucket
        return any(counts_missing(self._look(name, held, document)) for name, held in self.held.items())

    async def reconsider(self, name: str, reason: str) -> None:
        """A rollout or guardrail has moved something about ``name``: publish what follows from it."""
        await self._look_at_revision()
        held, document = self.held.get(name), self._document
        if held is None or document is None:
            return  # a new document came meanwhile
        wanted = overridden(plan(document, name), self._steering(name).override)
        self.held[name] = replace(held, plan=wanted)
        if isinstance(wanted, Bandit | Contextual):
            await self._learn(name, reason)
            return
        fresh = allocate(wanted, Learned(previous=held.allocation))
        await self._publish(name, Proposal(fresh), reason)

    def _follow(self, name: str, document: Document) -> None:
        held, stored = self.held[name], self._stored.get(name)
        if stored is not None and stored.epoch >= held.epoch:
            wanted = overridden(plan(document, name), self._steering(name).override)
            # Of an edit that another process had not seen when it published.
            if not (held.published or self._outdated):
                held = self._ahead(name, held)
            self._serve(name, followed(held, wanted, stored, self._ensemble(name, stored)))

    def _serve(self, name: str, after: RouteAllocation) -> None:
        before, self.held[name] = self.held[name], after
        self._in_effect = None
        if replace(after, plan=before.plan) != before:
            self._swap(name, after.epoch, after.allocation, after.ensemble)

    async def _publish_pending(self, name: str) -> None:
        held = self.held[name]
        if not held.published:
            evidence = held.drawn.evidence if held.drawn is not None else ""
            await self._publish(name, Proposal(held.allocation, evidence, held.drawn), held.reason)

    async def _learn(self, name: str, reason: str = "posterior") -> None:
        held, document = self.held[name], self._document
        if document is None:
            return
        found = await self._learning.propose(self._look(name, held, document))
        # It was computed from what is held no longer.
        if found is None or self.held.get(name) is not held:
            return  # or a new document came meanwhile
        if found.standing is not None:
            self.standings[name] = found.standing
        # A bandit's shares move with every reward: less than a millionth is not worth an epoch.
        if found.drawn is not held.drawn or not same(held.allocation, found.allocation, within=1e-6):
            await self._publish(name, found, reason)

    def _look(self, name: str, held: RouteAllocation, document: Document) -> Look:
        return Look(name, document, held, self._steering(name), self._next_epoch(name))

    def _next_epoch(self, name: str) -> int:
        stored = self._stored.get(name)
        return 1 if stored is None else stored.epoch + 1

    def _placed(self, name: str, evidence: str) -> str:
        """``evidence`` with what tells of the route's state."""
        found = traces(self._steering(name))
        return json.dumps({**(json.loads(evidence) if evidence else {}), **found}) if found else evidence

    async def _publish(self, name: str, found: Proposal, reason: str) -> None:
        if self._outdated:
            self._changed = -1  # look again
            return
        fresh, drawn, document, before = found.allocation, found.drawn, self._document, self.held[name].plan
        record = Published(
            route=name,
            epoch=self._next_epoch(name),
            probabilities=fresh.as_dict(),
            bounds=fresh.bounds,
            owners=fresh.owners,
            reason=reason,
            time=self._clock(),
            evidence=self._placed(name, found.evidence),
        )
        packed = await asyncio.to_thread(drawn.packed) if drawn is not None else b""
        if not await self._store.publish(record, packed):
            self._changed = -1  # another process was faster: look again, and follow
            return
        self._stored[name], self._in_effect = record, None
        self._publications += 1
        if drawn is not None:
            self._packed[name] = record.epoch, packed
            drawn = replace(drawn, exact=True)
        if name not in self.held:
            return
        held = self.held[name]
        if self._document is not document and held.plan != before:
            held = self._ahead(name, held)  # the route was edited meanwhile
            self._serve(name, held)
        if held.epoch > record.epoch or (drawn is not None and held.plan != drawn.ensemble.plan):
            self._changed = -1
            return
        self._serve(name, RouteAllocation(record.epoch, fresh, held.plan, True, reason, drawn))
        self._announce(record)
