"""One controller for each route: its guardrails, its rollout and its stop rule move one state, in this order.

The reducers are pure and in `policies.rollout` (`ejections.look`, `machine.step`, `stop_rule.look`); this module brings
them evidence, stores what they make (`gateway.loops.route_states`), and carries out the effects. Every process reads
the states; the leader looks at the evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import process_time
from typing import Any, Final

from gateway.clock import Clock
from gateway.compile.plans import canaries, plan_of
from gateway.compile.steering import (
    Guarded,
    Steering,
    guarded,
    has_stop_rule,
    of_control,
    steering,
)
from gateway.config.document import Document
from gateway.config.policy import BanditConfig, CanaryConfig
from gateway.config.route import RouteConfig
from gateway.errors import TurnoutError
from gateway.loops import guardrail_verdicts
from gateway.loops.alarms import distrust
from gateway.loops.allocation import Allocations
from gateway.loops.guardrail_evidence import GuardrailEvidence
from gateway.loops.periodic import Failures, each_route
from gateway.loops.rollout_evidence import RolloutEvidence
from gateway.loops.route_states import RouteStates, require_unchanged
from gateway.loops.route_views import rollout_view
from gateway.loops.stop_rules import StopRules
from gateway.state.base import unconfirmed
from gateway.state.events import Events, Told
from gateway.state.store import EvidenceStore, StartStore
from policies.rollout import ejections
from policies.rollout.clock import absent
from policies.rollout.ejections import Ejected
from policies.rollout.events import Audit, Command, Configured, Effect, Event, Refused, SetWeight, in_words
from policies.rollout.machine import is_due, step
from policies.rollout.route import RouteState
from policies.rollout.state import Plan, State, begin, of_plan
from policies.rollout.table import Signal, Status
from policies.rollout.verdicts import Verdict

log = logging.getLogger("turnout.rollout")

GUARDRAILS_S: Final = 5.0
"""Seconds between two looks at the guardrails of a bandit."""
MAX_LOOK_SHARE: Final = 0.05
"""A look at a rollout that took t seconds of CPU is followed by a rest of t / 0.05."""
MAX_LOOKS_SHARE: Final = 0.1
"""Looks at all rollouts together take at most this part of the time: of many, each is looked at less often."""
MAX_LOOK_REST_S: Final = 15.0
"""The longest rest of up to ten rollouts; of n, n / 10 of it. Requests use CPU, too, while a look waits."""
MAX_REST_S: Final = 600.0
"""A rest that ends later than this was begun before the clock was set back."""
KEPT_S: Final = 60.0
"""Seconds after which a look that changes nothing is stored: from it the next process learns when this one ended."""

_GIVEN_UP: Final = (Status.ROLLED_BACK, Status.HALTED, Status.PAUSED)


class Controller:
    """The controllers of all routes, in one process."""

    def __init__(
        self,
        store: EvidenceStore,
        allocations: Allocations,
        *,
        clock: Clock,
        events: Events,
        waits: Callable[[str, int], str] = lambda route, epoch: "",
    ) -> None:
        """``waits(route, epoch)``: why the epoch is not in effect everywhere yet; empty if it is."""
        self._waits = waits
        self._store = store
        self._allocations = allocations
        self._clock = clock
        self._routes = RouteStates(store, events)
        self._rollouts = RolloutEvidence(store, allocations, clock)
        self._guardrails = GuardrailEvidence(store, clock)
        self._stop_rules = StopRules(store, self._routes, allocations, clock=clock, steer=self._steer)
        self._document: Document | None = None
        self._unheard: dict[str, Document] = {}
        """By canary: the document in force, until its rollout has heard of it."""
        self._complete: Document | None = None
        """The document for which `_stop_absent` is done."""
        self._failures = Failures()
        self._due: dict[str, float] = {}
        """By route: when its guardrails are looked at next."""
        self._resting: dict[str, float] = {}
        """By route: until when its rollout is not looked at."""
        self._kept: dict[str, float] = {}
        """By route that this process leads: the last look at its rollout that is stored."""

    @property
    def states(self) -> Mapping[str, RouteState]:
        """By route, as this process last read or wrote them."""
        return self._routes.states

    # A new document -----------------------------------------------------------------------------------
    async def start(self, document: Document, source: StartStore | None = None) -> None:
        """Reads where the routes of ``document`` stand, in the store or ``source``; call it before the first `take`.

        Raises StoreUnavailable also for a state that can't be read: without it, a promoted candidate would lose its
        share.
        """
        await self._routes.start(document, self._allocations.published, self._clock(), source)

    async def meet(self, document: Document) -> None:
        """Reads, as `start`, where the routes of ``document`` stand that are not in force yet; call it before it is
        prepared, or a candidate that was rolled back would get its first share."""
        await self._routes.meet(document, self._document, self._allocations.published, self._clock())

    def take(self, document: Document, steered: Mapping[str, Steering]) -> None:
        """Puts a document in force with the steering that was prepared for it; call it before `Allocations.take`."""
        self._document = document
        self._unheard = dict.fromkeys(canaries(document), document)
        self._resting.clear()
        self._allocations.steering = dict(steered)

    # The loop -------------------------------------------------------------------------------------------
    async def step(self) -> None:
        """Every process reads where the routes stand; the leader looks at the evidence too."""
        document = self._document
        if document is None:
            return
        await self._stop_absent(document)
        names = of_control(document)
        stored = await self._routes.read_all(names)
        await each_route("the controller", names, lambda name: self._step(name, stored), self._failures)

    async def _stop_absent(self, document: Document) -> None:
        """Stops the clocks of the rollouts that ``document`` does not have, once, in the leader."""
        if not self._allocations.leads:
            self._complete = None  # another leader's document may have them, and start their clocks again
        if self._complete is document or not self._allocations.leads:
            return
        present = canaries(document)
        names = [name for name in self._allocations.published if name not in present]
        stored = await self._routes.read_all(names)

        async def stop(name: str) -> None:
            rollout = stored(name).rollout
            bets = self._rollouts.carried(name, rollout) if rollout is not None else None

            def reducer(route: RouteState) -> tuple[RouteState, None]:
                if route.rollout is None or self._document is not document:
                    return route, None
                return replace(route, rollout=absent(route.rollout, self._clock(), bets)), None

            await self._routes.update(name, reducer)

        await each_route("the controller", names, stop, self._failures)
        self._complete = document

    async def _step(self, name: str, stored: Callable[[str], RouteState]) -> None:
        document = self._document
        route = document.routes.get(name) if document is not None else None
        if document is None or route is None or name not in self._allocations.held:
            return  # a new document came meanwhile
        section = route.policy
        stored(name)  # puts what was read into `_routes`, where the steps below find it
        await self._routes.keep_recalled(name)
        if isinstance(section, CanaryConfig) and not await self._configure(name, section):
            return  # another process has a newer document: the share of this one's candidate stays until it has it
        steered = await self._follow(name, route)
        if not self._allocations.leads:
            self._kept.pop(name, None)
            return
        bound = guarded(section, steered.override)
        if bound is not None and bound.guardrails:
            await self._look_at_guardrails(document, name, bound)
        if isinstance(section, CanaryConfig):
            await self._look_at_rollout(document, name, section)
        elif has_stop_rule(route):
            await self._stop_rules.look(name, route)

    async def _follow(self, name: str, route: RouteConfig) -> Steering:
        """Takes what the state asks of the allocation to it; the leader publishes what another process was told."""
        before = self._allocations.steering.get(name, Steering())
        after = self._steer(name)
        if not self._allocations.leads:
            return after
        if after.ejected != before.ejected:
            await self._allocations.reconsider(name, "guardrail")
        if after.winner != before.winner:
            await self._allocations.reconsider(name, "winner")
        if isinstance(route.policy, CanaryConfig) and self._behind(
            name, before, after, route.policy.candidate
        ):
            state = self._routes[name].rollout
            await self._allocations.reconsider(name, state.reason if state is not None else "")
        return after

    def _steer(self, name: str) -> Steering:
        # Another document may have come while this route was looked at.
        route = self._document.routes.get(name) if self._document is not None else None
        if route is None:
            return Steering()
        steered = self._allocations.steering[name] = steering(route, self._routes[name], self._clock())
        return steered

    def _behind(self, name: str, before: Steering, after: Steering, candidate: str) -> bool:
        """Whether what is in force isn't what the rollout wants: another process was told, and could not publish it
        because this one had just published for the bandit."""
        old, new = before.override, after.override
        if old is None or new is None:
            return False
        if old.deciding or new.deciding:
            return old.deciding != new.deciding
        return not self._allocations.gives(name, candidate, new.weight)

    # Guardrails -----------------------------------------------------------------------------------------
    async def _look_at_guardrails(self, document: Document, name: str, bound: Guarded) -> None:
        now = self._clock()
        if now < self._due.get(name, 0.0) <= now + GUARDRAILS_S:  # further off: the clock was set back
            return
        self._due[name] = now + GUARDRAILS_S
        state, _ = await self._routes.update(
            name, lambda s: (replace(s, ejections=s.ejections.under(bound.fingerprint, now)), ())
        )
        variants = self._allocations.held[name].allocation.variants
        judgements = await self._guardrails.judgements(document, name, bound, state.ejections, variants)
        doubt = await distrust(self._store, name, state.ejections.since)

        def reducer(route: RouteState) -> tuple[RouteState, tuple[Ejected, ...]]:
            if route.ejections.fingerprint != bound.fingerprint:  # edited while the evidence was read
                return route, ()
            look = ejections.look(route.ejections, judgements, candidate=bound.candidate, trusted=not doubt)
            return replace(route, ejections=look[0]), look[1]

        state, effects = await self._routes.update(name, reducer, _told_of_guardrails)
        for effect in effects:
            log.warning(
                "%s: variant %s gets no more traffic: %s", name, effect.variant, effect.verdict.breach()
            )
        if effects:
            self._steer(name)
            names = ", ".join(effect.variant for effect in effects)
            await self._allocations.reconsider(name, f"guardrail: {names}")
        if bound.candidate is None:  # a canary's are with its rollout
            if doubt:
                judgements = {variant: found.doubted(doubt) for variant, found in judgements.items()}
            await guardrail_verdicts.keep(self._store, name, judgements, state.ejections.ejected)

    # Rollouts -------------------------------------------------------------------------------------------
    async def _configure(self, name: str, section: CanaryConfig) -> bool:
        """Tells the rollout of the document in force; False if it is of other variants, those of a newer document."""
        document, rollout, plan = self._unheard.get(name), self._routes[name].rollout, plan_of(section)
        same = rollout is not None and of_plan(rollout, plan, self._clock()) is rollout
        if document is None and same:
            return True
        # A process with an older document (it starts, and can't build the newest) must not begin that one's rollout
        # again; where it did, those with the newest begin theirs again.
        leads = document is not None and self._allocations.leads
        if rollout is not None and not await self._allocations.may_publish(leads):
            return same
        await self._event(name, plan, Configured())
        if self._unheard.get(name) is document:  # no other came meanwhile
            self._unheard.pop(name, None)
        return True

    async def _look_at_rollout(self, document: Document, name: str, section: CanaryConfig) -> None:
        plan, now, state = plan_of(section), self._clock(), self._routes[name]
        if state.rollout is None or not is_due(state.rollout, plan, now):
            return
        if 0.0 < self._resting.get(name, now) - now < MAX_REST_S:
            return
        began = process_time()
        tick = await self._rollouts.tick(document, name, section, state)
        if tick is not None:
            waits, kept = self._waits(name, self._allocations.held[name].epoch), self._kept.get(name)
            keep = kept is None or not 0.0 <= now - kept < KEPT_S
            await self._event(name, plan, replace(tick, waits=waits, first=kept is None), keep=keep)
            self._kept[name] = now if kept is None or keep else kept
            number = len(self._resting)
            rest = (process_time() - began) * max(1.0 / MAX_LOOK_SHARE, number / MAX_LOOKS_SHARE)
            self._resting[name] = now + min(rest, MAX_LOOK_REST_S * max(1.0, number / 10))

    async def _event(self, name: str, plan: Plan, event: Event, *, keep: bool = False) -> None:
        """Raises TurnoutError for a command that is not possible now."""

        def reducer(route: RouteState) -> tuple[RouteState, tuple[Effect, ...]]:
            now = self._clock()
            before = route.rollout or begin(plan, now)
            if isinstance(event, Command):
                moves = not (before.deciding or self._allocations.gives(name, plan.candidate, before.weight))
                require_unchanged(event.seen, before.status, self._allocations.held[name].epoch, moves=moves)
            after, effects = step(before, event, plan, now)
            refused = next((effect for effect in effects if isinstance(effect, Refused)), None)
            if refused is not None:
                raise TurnoutError("conflict", refused.message)
            return replace(route, rollout=after), effects

        def told(effects: tuple[Effect, ...]) -> list[Told]:
            steps: list[Told] = [("rollout", audit.as_dict()) for audit in _audits(effects)]
            return [*steps, ("steered", event.trail())] if isinstance(event, Command) else steps

        _, effects = await self._routes.update(name, reducer, told, keep=keep)
        for audit in _audits(effects):
            # A rollout that gives up by itself needs a person.
            level = logging.WARNING if audit.target in _GIVEN_UP and not audit.actor else logging.INFO
            log.log(level, "rollout of %s: %s", name, in_words(audit.as_dict()))
        self._steer(name)
        reasons = [effect.reason for effect in effects if isinstance(effect, SetWeight)]
        if reasons:  # if the store is gone since, the loop publishes it once it is back
            await self._allocations.reconsider(name, reasons[-1])

    # For people -----------------------------------------------------------------------------------------
    async def command(self, name: str, word: Command) -> Mapping[str, Any]:
        """Steers a rollout, a stop rule or a bandit that is held; the state that follows, as the API shows it.

        Raises TurnoutError (not_found, conflict), StoreUnavailable.
        """
        route = self._document.routes.get(name) if self._document is not None else None
        section = route.policy if route is not None else None
        if route is not None and isinstance(section, BanditConfig):
            return await self._stop_rules.command(name, route, word)
        if not isinstance(section, CanaryConfig):
            raise TurnoutError("not_found", f"The route {name!r} has no rollout: its policy is not a canary.")
        await self._routes.read(name)
        await self._configure(name, section)  # or the command would move the rollout of the document before
        share, held = self._allocations.share(name, section.candidate), None
        if word.action == Signal.RESUME and (shown := self._shown(name)) is not None:
            document, section, state, _ = shown
            held = await self._rollouts.held(document, name, section, state)
        with unconfirmed():
            await self._event(name, plan_of(section), replace(word, share=share, held=held))
            return await self.describe_rollout(name) or {}

    async def describe_rollout(self, name: str, max_age: float = 0.0) -> Mapping[str, Any] | None:
        """The rollout as the API shows it; None for a route without one. ``max_age``: of its verdicts, in seconds."""
        shown = self._shown(name)
        if shown is None:
            return None
        document, section, state, rollout = shown
        judgement, samples = await self._rollouts.shown(document, name, section, state, max_age)
        share = self._allocations.share(name, section.candidate)
        waits = self._waits(name, self._allocations.held[name].epoch)
        plan, now = plan_of(section), self._clock()
        return rollout_view(rollout, plan, judgement, samples, share, waits, now)

    def refusing(self, name: str) -> str:
        """ "" or why the candidate of a canary is not promoted, as its last look found: it rejects requests."""
        state = self._routes[name].rollout if self._shown(name) is not None else None
        return self._rollouts.refusing(name) if state is not None and state.watched else ""

    async def rollout_verdicts(self, name: str) -> tuple[State, Sequence[Verdict]] | None:
        """The rollout and its verdicts, which may be half a minute old; None for a route without one."""
        shown = self._shown(name)
        if shown is None:
            return None
        document, section, state, rollout = shown
        return rollout, (await self._rollouts.recent(document, name, section, state)).verdicts

    def _shown(self, name: str) -> tuple[Document, CanaryConfig, RouteState, State] | None:
        """What a rollout is shown from; None for a route without one."""
        document, state = self._document, self._routes[name]
        route = document.routes.get(name) if document is not None else None
        section = route.policy if route is not None else None
        if document is None or not isinstance(section, CanaryConfig) or name not in self._allocations.held:
            return None
        # A rollout of the document before says nothing of this one's candidate.
        rollout = of_plan(state.rollout, plan_of(section), self._clock())
        return document, section, replace(state, rollout=rollout), rollout

    def describe_stop_rule(self, name: str) -> Mapping[str, Any] | None:
        """Where the stop rule stands, as the API shows it; None for a route without one."""
        route = self._document.routes.get(name) if self._document is not None else None
        return self._stop_rules.describe(name, route) if route is not None else None

    async def held(self, name: str) -> str:
        """ "" or why a bandit ejects nothing or names no winner until it is resumed. Raises StoreUnavailable."""
        route = self._document.routes.get(name) if self._document is not None else None
        return await self._stop_rules.held(name, route) if route is not None else ""


def _audits(effects: Sequence[Effect]) -> list[Audit]:
    return [effect for effect in effects if isinstance(effect, Audit)]


def _told_of_guardrails(effects: Sequence[Ejected]) -> list[Told]:
    return [
        (
            "guardrail",
            {"variant": e.variant, "reason": e.verdict.breach(), "evidence": e.verdict.as_dict()},
        )
        for e in effects
    ]
