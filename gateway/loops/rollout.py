"""Rollouts: one leader looks, `policies.rollout.machine` decides, and what follows is published.

The state of each rollout is a document in the store under compare-and-swap, so that it survives restarts, a
command may come in at any replica, and two leaders at once (which a lease can't rule out) can't both move it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any, Final

from gateway.clock import Clock
from gateway.compile.arrange import begun, override_of
from gateway.compile.plans import RolloutOverride, canaries, plan_of, rail_of, reported
from gateway.config.document import CanaryConfig, Document
from gateway.errors import TurnoutError
from gateway.ingest.evidence import observations, rewarded
from gateway.loops.alarms import distrust
from gateway.loops.allocation import Allocations
from gateway.loops.by_unit import OutcomesByUnit
from gateway.record.histogram import edges
from gateway.state.base import Counts, StoreUnavailable
from gateway.state.store import Store
from policies.allocation.bandit import Standing
from policies.allocation.model import RewardSums
from policies.rollout.events import Audit, Command, Configured, Event, Refused, SetWeight, Tick
from policies.rollout.guardrails import (
    MAX_BASELINE_ERROR_RATE,
    Judgement,
    could_not_look,
    judge_agreement,
    judge_all,
    judge_alone,
)
from policies.rollout.machine import next_due, possible, step
from policies.rollout.state import Plan, State, begin, shadow_share, stage_of
from policies.rollout.table import Status
from policies.rollout.verdicts import Guardrail, Verdict
from policies.sequential.betting import WindowBets
from policies.sequential.metric_comparison import Evidence
from policies.sequential.stratified import Stratum

log = logging.getLogger("turnout.rollout")

KIND: Final = "rollout"
EASE: Final = 20.0
"""A look that took t seconds is followed by a rest of 20 t at least: looking takes 5 % of the leader at most."""
TRIES: Final = 5
BLIND: Final = 3
"""Looks in a row at which the evidence could not be read before that is a verdict (and pauses the rollout)."""

_GIVEN_UP: Final = (Status.ROLLED_BACK, Status.HALTED, Status.PAUSED)

Emit = Callable[[str, str, Mapping[str, Any]], Awaitable[object]]


def capped_ranges(document: Document) -> dict[str, tuple[float, float]]:
    """(least, greatest) value of each metric with a cap."""
    ranges = {key: metric.capped_range for key, metric in document.metrics.items()}
    return {key: found for key, found in ranges.items() if found is not None}


def by_unit(seen: Evidence, side: Stratum) -> Evidence:
    """``seen`` with errors and latencies by unit."""
    return replace(seen, latency=side.latency, units=side.units or RewardSums())


class Rollouts:
    """See the module. `arrange` is synchronous, for the moment a document is put in force."""

    def __init__(self, store: Store, allocations: Allocations, *, clock: Clock, emit: Emit) -> None:
        self._store = store
        self._allocations = allocations
        self._clock = clock
        self._emit = emit
        self._document: Document | None = None
        self._versions: dict[str, int] = {}
        self._resting: dict[str, float] = {}
        self._configured: set[str] = set()
        self._blind: dict[str, int] = {}
        self._units = OutcomesByUnit(store, clock)
        self._bets: dict[str, tuple[tuple[float, int], WindowBets]] = {}
        self.states: dict[str, State] = {}

    # A new document -----------------------------------------------------------------------------------
    def arrange(self, document: Document) -> None:
        """Prepares ``document`` and puts it in force; call it before `Allocations.arrange`."""
        now, overrides = self._clock(), dict[str, RolloutOverride]()
        for name in document.routes:
            overrides |= begun(document, name, self.states, now)
        self.take(document, overrides)

    def take(self, document: Document, overrides: Mapping[str, RolloutOverride]) -> None:
        """Puts a document in force with the ``overrides`` that were prepared for it (`gateway.compile.arrange`)."""
        self._document = document
        self._configured |= overrides.keys()
        for name, move in overrides.items():
            self._put(name, move)

    async def start(self, document: Document) -> None:
        """Reads where the rollouts of ``document`` stand; call it before the first `arrange`."""
        for name in canaries(document):
            await self._read(name)

    def _hand_over(self, name: str, state: State, plan: Plan) -> None:
        """Tells the allocation what share the rollout wants."""
        self._put(name, override_of(state, plan))

    def _put(self, name: str, move: RolloutOverride) -> None:
        self._allocations.overrides[name] = move
        if move.competing is None or move.promoted:  # nothing was ejected from a bandit that is not there
            self._allocations.caps.pop(name, None)
            self._allocations.judged.pop(name, None)

    def _share(self, name: str, candidate: str) -> float:
        """What the candidate has now, whoever decides on that."""
        return self._allocations.held[name].allocation.probability(candidate)

    # The loop -------------------------------------------------------------------------------------------
    async def step(self) -> None:
        """Everybody reads where the rollouts stand; the leader looks at the evidence too."""
        document = self._document
        if document is None:
            return
        for name, section in canaries(document).items():
            plan = plan_of(section)
            await self._read(name)
            if name in self._configured or name not in self._versions:
                self._configured.discard(name)
                await self._event(name, plan, Configured())
            state = self.states[name]
            before = self._allocations.overrides.get(name)
            self._hand_over(name, state, plan)
            if self._allocations.leads and before is not None and self._behind(name, before, state):
                await self._allocations.reconsider(name, state.reason)
            if self._allocations.leads and self._clock() >= next_due(state, plan):
                await self._look(name, section, plan, state)

    def _behind(self, name: str, before: RolloutOverride, state: State) -> bool:
        """Whether what is in force isn't what the rollout wants: another process was told, and could not publish it
        because this one had just published for the bandit."""
        if before.deciding or state.deciding:
            return before.deciding != state.deciding
        return abs(self._share(name, state.candidate) - state.weight) > 1e-9

    async def _look(self, name: str, section: CanaryConfig, plan: Plan, state: State) -> None:
        now = self._clock()
        if now < self._resting.get(name, 0.0):
            return
        began = perf_counter()
        try:
            tick = await self._tick(name, section, plan, state)
        except StoreUnavailable:
            raise
        except Exception as error:
            log.exception("rollout of %s: the evidence could not be read", name)
            self._blind[name] = self._blind.get(name, 0) + 1
            if self._blind[name] < BLIND:
                return
            tick = Tick((_blind(section, str(error)),))
        else:
            self._blind.pop(name, None)
        await self._event(name, plan, tick)
        self._resting[name] = now + EASE * (perf_counter() - began)

    async def _tick(self, name: str, section: CanaryConfig, plan: Plan, state: State) -> Tick:
        judgement, samples = await self.judged(name, section, plan, state, forecast=False)
        doubt = await distrust(self._store, name, max(state.since, state.window))
        if doubt:
            judgement = Judgement((_blind(section, doubt),))
        standing = self._standing(name, state)
        return Tick(
            judgement.verdicts,
            samples,
            judgement.sick,
            share=self._share(name, plan.candidate),
            winner=standing.stopped if standing is not None else None,
            beliefs=standing.as_dict() if standing is not None else None,
            carried=self._carried(name, state),
        )

    def _carried(self, name: str, state: State) -> Mapping[str, float] | None:
        known = self._bets.get(name)
        return known[1].carried() if known is not None and known[0][0] == state.window else None

    def _standing(self, name: str, state: State) -> Standing | None:
        """What the bandit of a rollout knows, where one decides."""
        standing = self._allocations.standings.get(name) if state.deciding else None
        return standing if standing is not None and state.candidate in standing.variants else None

    async def judged(
        self, name: str, section: CanaryConfig, plan: Plan, state: State, *, forecast: bool = True
    ) -> tuple[Judgement, float]:
        """The verdicts over the current window, and the candidate's samples in it."""
        document = self._document
        assert document is not None
        levels = plan.levels(len(section.guardrails))
        seconds = max(0.0, self._clock() - state.window)
        if shadow_share(state, plan):
            found = await self._store.agreement(name, since=state.window)
            _, compared, agreeing = found.get(plan.candidate, (0, 0, 0))
            assert plan.gate is not None
            verdict = judge_agreement(
                agreeing, compared, plan.gate.agreement, levels.bet, levels.passing, seconds=seconds
            )
            return Judgement((verdict,)), float(compared)
        if state.competing is not None and plan.bandit is not None and state.status is not Status.PROMOTED:
            return self._judged_by_guards(name, state)
        epoch = self._allocations.held[name].epoch
        # Only this epoch counts: the same weights throughout, so both saw the same hours of the day.
        since = state.window - 10.0
        counts = await self._store.counts(name, since=since, epoch=epoch)
        declared = reported(document, name)
        found_rewards = await rewarded(
            self._store, name, declared, now=self._clock(), since=since, epoch=epoch
        )
        sums = observations(found_rewards)
        kinds = {key: metric.type for key, metric in document.metrics.items()}
        ranges = capped_ranges(document)

        sides = await self._by_unit(document, name, since, epoch)

        def evidence(variant: str) -> Evidence:
            found = counts.get(variant, Counts())
            rewards: dict[str, RewardSums] = {m: s for (v, m), s in sums.items() if v == variant}
            seen = Evidence(found.assigned, found.errors, found.latency, rewards, kinds, seconds, ranges)
            return seen if sides is None else by_unit(seen, sides.get(variant, Stratum()))

        candidate = evidence(plan.candidate)
        if state.status is Status.PROMOTED and state.weight >= 1.0:  # no holdback to compare with
            alone = await asyncio.to_thread(judge_alone, candidate, MAX_BASELINE_ERROR_RATE, levels.fail)
            return Judgement((alone,)), candidate.requests
        bets = self._window_bets(name, state, epoch)  # only the leader's own look adds to them
        judgement = await asyncio.to_thread(
            judge_all,
            [rail_of(rail) for rail in section.guardrails],
            evidence(plan.baseline),
            candidate,
            levels,
            bets=bets.copy() if forecast else bets,
            edges=edges,
            forecast=forecast,
        )
        return judgement, candidate.requests

    def _window_bets(self, name: str, state: State, epoch: int) -> WindowBets:
        """The bets of the present window. A process that begins in the middle bets on the window as one."""
        window = (state.window, epoch)
        known = self._bets.get(name)
        if known is None or known[0] != window:
            known = self._bets[name] = window, WindowBets(state.carried)
        return known[1]

    async def _by_unit(
        self, document: Document, name: str, since: float, epoch: int
    ) -> Mapping[str, Stratum] | None:
        """Errors and latencies by unit, by variant; None where requests are their own units."""
        if document.routes[name].unit is None:
            return None
        outcomes = await self._units.read(name, since, epoch)
        return {} if outcomes is None else await asyncio.to_thread(outcomes.whole)

    def _judged_by_guards(self, name: str, state: State) -> tuple[Judgement, float]:
        """A bandit's epochs are short: its variants are compared over matched times (`gateway.loops.guards`)."""
        since, judgement = self._allocations.judged.get(name, (None, Judgement(())))
        return judgement if since == state.competing else Judgement(()), 0.0

    # Moving ---------------------------------------------------------------------------------------------
    async def _read(self, name: str) -> None:
        found = await self._store.load(KIND, name)
        if found is not None:
            self._versions[name] = found[0]
            self.states[name] = State.from_dict(json.loads(found[1]))

    async def _event(self, name: str, plan: Plan, event: Event) -> State:
        """Applies one event under compare-and-swap. Raises TurnoutError for a command that can't be."""
        for _ in range(TRIES):
            now = self._clock()
            fresh = name not in self._versions
            before = self.states.get(name) or begin(plan, now)
            after, effects = step(before, event, plan, now)
            refused = next((e for e in effects if isinstance(e, Refused)), None)
            if refused is not None:
                raise TurnoutError("conflict", refused.message)
            if not fresh and replace(after, checked=before.checked) == before:
                # A look that changed nothing is not written down: it would be a write each second.
                self.states[name] = after
                return after
            text = json.dumps(after.as_dict())
            version = self._versions.get(name, 0)
            if await self._store.save(KIND, name, text, expected=version):
                self._versions[name] = version + 1
                self.states[name] = after
                await self._carry_out(name, plan, after, effects)
                return after
            await self._read(name)
        raise TurnoutError("conflict", f"The rollout of {name!r} keeps moving; read its state and try again.")

    async def _carry_out(self, name: str, plan: Plan, state: State, effects: tuple[object, ...]) -> None:
        self._hand_over(name, state, plan)
        reasons = [effect.reason for effect in effects if isinstance(effect, SetWeight)]
        if reasons:
            await self._allocations.reconsider(name, reasons[-1])
        for effect in effects:
            if isinstance(effect, Audit):
                # What a rollout gives up by itself somebody should see.
                level = logging.WARNING if effect.target in _GIVEN_UP and not effect.actor else logging.INFO
                log.log(
                    level, "rollout of %s: %s → %s (%s)", name, effect.source, effect.target, effect.reason
                )
                await self._emit("rollout", name, effect.as_dict())

    # For people -----------------------------------------------------------------------------------------
    def _section(self, name: str) -> CanaryConfig:
        document = self._document
        section = canaries(document).get(name) if document is not None else None
        if section is None:
            raise TurnoutError("not_found", f"The route {name!r} has no rollout: its policy is no canary.")
        return section

    async def command(
        self, name: str, action: str, weight: float | None, by: str, reason: str = ""
    ) -> Mapping[str, Any]:
        """A person's word; the state that follows. Raises TurnoutError (not_found, conflict)."""
        plan = plan_of(self._section(name))
        await self._read(name)
        share = self._share(name, plan.candidate)
        await self._event(name, plan, Command(action, by, weight, share, reason))
        return await self.describe(name) or {}

    async def describe(self, name: str) -> Mapping[str, Any] | None:
        """The rollout as the API tells it; None for a route without one."""
        document = self._document
        section = canaries(document).get(name) if document is not None else None
        state = self.states.get(name)
        if section is None or state is None or name not in self._allocations.held:
            return None
        plan = plan_of(section)
        judgement, samples = await self.judged(name, section, plan, state)
        stage = stage_of(plan, state.stage)
        if state.competing is not None:  # no stage any more
            stage = replace(stage, duration=0.0, min_samples=0)
        return {
            "state": str(state.status),
            "phase": state.phase,
            "stage": state.stage,
            "stages": len(plan.stages),
            "weight": self._share(name, plan.candidate) if state.deciding else state.weight,
            "baseline": plan.baseline,
            "candidate": plan.candidate,
            "reason": state.reason,
            "since": state.since,
            "entered": state.entered,
            "stage_ends": state.entered + stage.duration if stage.duration else None,
            "samples": samples if state.competing is None else None,
            "min_samples": stage.min_samples,
            "bake_until": state.bake_until,
            "verdicts": [verdict.as_dict() for verdict in judgement.verdicts],
            "sick_baseline": judgement.sick or None,
            "possible": list(possible(state)),
        }


def _blind(section: CanaryConfig, reason: str) -> Verdict:
    rail = rail_of(section.guardrails[0]) if section.guardrails else Guardrail("error_rate", max_increase=0.0)
    return could_not_look(rail, 0.0, reason)
