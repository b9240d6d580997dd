"""What a canary's rollout goes by: the verdicts over the window, and what its bandit believes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from gateway.clock import Clock
from gateway.compile.plans import adjustments, plan_of, rail_of, reported
from gateway.compile.steering import guardrails_fingerprint
from gateway.config.document import Document
from gateway.config.policy import CanaryConfig
from gateway.ingest.by_unit import OutcomesByUnit
from gateway.ingest.comparable import known_before, values_by_unit
from gateway.ingest.evidence import observations, rewarded
from gateway.loops.alarms import distrust
from gateway.loops.allocation import Allocations
from gateway.loops.early_mismatch import early_mismatch
from gateway.record.histogram import edges
from gateway.state.base import BUCKET_S, Counts, StoreUnavailable
from gateway.state.store import EvidenceStore
from policies.allocation.bandit import Standing
from policies.rollout import client_errors
from policies.rollout.events import Tick
from policies.rollout.guardrails import (
    MAX_BASELINE_ERROR_RATE,
    Judgement,
    could_not_look,
    judge_agreement,
    judge_all,
    judge_alone,
)
from policies.rollout.route import RouteState
from policies.rollout.state import Plan, State, shadow_share
from policies.rollout.table import Status
from policies.rollout.verdicts import Guardrail, Levels, Verdict
from policies.sequential.betting import WindowBets
from policies.sequential.metric_comparison import Evidence
from policies.sequential.stratified import Stratum
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.types import CLIENT_ERROR_RATE, RewardSums

log = logging.getLogger("turnout.rollout")

MAX_FAILED_LOOKS: Final = 3
"""Looks in a row at which the evidence could not be read before that is a verdict (and pauses the rollout)."""

RECENT_S: Final = 30.0
"""Age up to which a judgement is shown in metrics."""


def capped_ranges(document: Document) -> dict[str, tuple[float, float]]:
    """(least, greatest) value of each metric with a cap."""
    ranges = {key: metric.capped_range for key, metric in document.metrics.items()}
    return {key: found for key, found in ranges.items() if found is not None}


def by_unit(seen: Evidence, side: Stratum) -> Evidence:
    """``seen`` with errors, client errors and latencies by unit."""
    own = {CLIENT_ERROR_RATE: side.rewards.get(CLIENT_ERROR_RATE, RewardSums())}
    return replace(
        seen, latency=side.latency, units=side.units or RewardSums(), rewards={**seen.rewards, **own}
    )


class _Shown(NamedTuple):
    """A judgement with forecasts."""

    time: float
    document: Document
    state: State
    judgement: Judgement
    samples: float


class RolloutEvidence:
    """The evidence for the rollouts of all canaries, read from the store."""

    def __init__(self, store: EvidenceStore, allocations: Allocations, clock: Clock) -> None:
        self._store = store
        self._allocations = allocations
        self._clock = clock
        self._failed: dict[str, int] = {}
        self._units = OutcomesByUnit(store, clock)
        self._bets: dict[str, tuple[tuple[float, int], WindowBets]] = {}
        self._last: dict[str, tuple[float, float, Judgement]] = {}
        """By route: when and over which window it was judged last, and the result."""
        self._shown: dict[str, _Shown] = {}
        self._refusing: dict[str, str] = {}

    async def tick(
        self, document: Document, name: str, section: CanaryConfig, state: RouteState
    ) -> Tick | None:
        """A look; None if the evidence could not be read this time."""
        try:
            tick = await self._tick(document, name, section, state)
        except StoreUnavailable:
            raise
        except Exception as error:
            log.exception("rollout of %s: the evidence could not be read", name)
            self._failed[name] = self._failed.get(name, 0) + 1
            return Tick((_blind(section, str(error)),)) if self._failed[name] >= MAX_FAILED_LOOKS else None
        self._failed.pop(name, None)
        return tick

    async def _tick(self, document: Document, name: str, section: CanaryConfig, route: RouteState) -> Tick:
        judgement, samples = await self.judgement(document, name, section, route, forecast=False, own=True)
        state = route.rollout
        assert state is not None
        standing = self._standing(name, state)
        winner = standing.stopped if standing is not None else None
        if winner is not None and state.status is Status.RUNNING and await self._early(name, state):
            winner = None
        return Tick(
            judgement.verdicts,
            samples,
            judgement.sick,
            share=self._allocations.share(name, section.candidate),
            winner=winner,
            beliefs=standing.as_dict() if standing is not None else None,
            carried=self.carried(name, state),
        )

    async def _early(self, name: str, state: State) -> str:
        return await early_mismatch(self._store, name, state.doubted_from)

    def carried(self, name: str, state: State) -> Mapping[str, float] | None:
        """The bets on the present window, as `Tick.carried`; None if this process has not looked at it."""
        known = self._bets.get(name)
        return known[1].carried() if known is not None and known[0][0] == state.window else None

    def _standing(self, name: str, state: State) -> Standing | None:
        """What the bandit of a rollout knows, where one decides."""
        standing = self._allocations.standings.get(name) if state.deciding else None
        return standing if standing is not None and state.candidate in standing.variants else None

    async def judgement(
        self,
        document: Document,
        name: str,
        section: CanaryConfig,
        route: RouteState,
        *,
        forecast: bool = True,
        own: bool = False,
    ) -> tuple[Judgement, float]:
        """The verdicts over the current window, and the candidate's samples in it.

        ``own``: the look of the leader, which alone adds to the bets.
        """
        judgement, samples = await self._judgement(document, name, section, route, forecast, own)
        state = route.rollout
        assert state is not None
        if state.watched and (doubt := await distrust(self._store, name, state.doubted_from)):
            judgement = judgement.doubted(doubt)
            if not judgement.verdicts:
                judgement = Judgement((_blind(section, doubt),))
        elif state.watched and {one.verdict for one in judgement.verdicts} == {"pass"}:
            judgement = _held(judgement, await self._early(name, state))
        self._last[name] = self._clock(), state.window, judgement
        if own:
            held = client_errors.held(judgement) if state.watched else None
            self._refusing[name] = "" if held is None else held.reason
        return judgement, samples

    async def held(
        self, document: Document, name: str, section: CanaryConfig, route: RouteState
    ) -> float | None:
        """By how much more client errors hold the stage; None if they do not, or the evidence can't be read."""
        try:
            judgement, _ = await self.judgement(document, name, section, route, forecast=False)
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("rollout of %s: the evidence could not be read", name)
            return None
        return client_errors.increase(judgement)

    def refusing(self, name: str) -> str:
        """ "" or why the candidate is not promoted, whose client errors no guardrail is on (`client_errors`)."""
        return self._refusing.get(name, "")

    async def shown(
        self, document: Document, name: str, section: CanaryConfig, route: RouteState, max_age: float
    ) -> tuple[Judgement, float]:
        """`judgement` with forecasts; that of the same document and state is used for ``max_age`` seconds."""
        state, known, now = route.rollout, self._shown.get(name), self._clock()
        assert state is not None
        same = known is not None and known.document is document and known.state == state
        if known is None or not same or not 0.0 <= now - known.time < max_age:
            found = await self.judgement(document, name, section, route)
            known = self._shown[name] = _Shown(now, document, state, *found)
        return known.judgement, known.samples

    async def recent(
        self, document: Document, name: str, section: CanaryConfig, route: RouteState
    ) -> Judgement:
        """The verdicts over the current window, at most `RECENT_S` old."""
        time, window, judgement = self._last.get(name, (0.0, 0.0, Judgement(())))
        assert route.rollout is not None
        if window == route.rollout.window and 0.0 <= self._clock() - time < RECENT_S:
            return judgement
        return (await self.judgement(document, name, section, route, forecast=False))[0]

    async def _judgement(
        self,
        document: Document,
        name: str,
        section: CanaryConfig,
        route: RouteState,
        forecast: bool,
        own: bool,
    ) -> tuple[Judgement, float]:
        plan, state = plan_of(section), route.rollout
        assert state is not None
        levels = plan.levels(len(section.guardrails))
        if not state.watched:
            return Judgement(tuple(map(Verdict.from_dict, state.evidence)), _sick(state)), 0.0
        if shadow_share(state, plan):
            return await self._agreement(name, plan, state, levels)
        if state.competing is not None and plan.bandit is not None and state.status is not Status.PROMOTED:
            # A bandit's epochs are short: its variants are compared over matched times instead.
            fingerprint = guardrails_fingerprint(section, state.competing)
            kept = route.ejections.judgement if route.ejections.fingerprint == fingerprint else None
            return kept or Judgement(()), 0.0
        epoch = self._allocations.held[name].epoch
        baseline, candidate, samples = await self._window(document, name, plan, state, epoch)
        if state.status is Status.PROMOTED and state.weight >= 1.0:  # no holdback to compare with
            alone = await asyncio.to_thread(judge_alone, candidate, MAX_BASELINE_ERROR_RATE, levels.fail)
            return Judgement((alone,)), samples
        bets = self._window_bets(name, state, epoch)
        rails = [rail_of(rail) for rail in section.guardrails]
        judgement = await asyncio.to_thread(
            judge_all,
            rails,
            baseline,
            candidate,
            levels,
            bets=bets if own else bets.copy(),
            edges=edges,
            forecast=forecast,
        )
        promoted = state.status is Status.PROMOTED  # nothing is left to be held
        if not promoted and all(rail.metric != CLIENT_ERROR_RATE for rail in rails):
            alpha = plan.levels(len(rails) + 1).fail
            judgement = await asyncio.to_thread(
                client_errors.hold, judgement, baseline, candidate, alpha, state.accepted
            )
        return judgement, samples

    async def _agreement(
        self, name: str, plan: Plan, state: State, levels: Levels
    ) -> tuple[Judgement, float]:
        """The gate's verdict, and the responses compared."""
        found = await self._store.agreement(name, since=state.window)
        _, compared, agreeing = found.get(plan.candidate, (0, 0, 0))
        assert plan.gate is not None
        seconds = max(0.0, self._clock() - state.window)
        verdict = judge_agreement(
            agreeing, compared, plan.gate.agreement, levels.bet, levels.passing, seconds=seconds
        )
        return Judgement((verdict,)), float(compared)

    async def _window(
        self, document: Document, name: str, plan: Plan, state: State, epoch: int
    ) -> tuple[Evidence, Evidence, float]:
        """Baseline, candidate and the candidate's samples in the window.

        Only one epoch counts: with the same weights throughout, both saw the same hours of the day.
        """
        now, since = self._clock(), state.window - BUCKET_S
        seconds = max(0.0, now - state.window)
        counts = await self._store.counts(name, since=since, epoch=epoch)
        metrics = reported(document, name)
        found = await rewarded(self._store, name, metrics, now=now, since=since, epoch=epoch)
        sums = observations(found)
        kinds = {key: metric.type for key, metric in document.metrics.items()}
        ranges = capped_ranges(document)
        adjusted = adjustments(document, name)
        outcomes, by_variant = await self._by_unit(document, name, since, epoch)
        counted = [
            key for key, metric in metrics.items() if metric.missing == "zero" and by_variant is not None
        ]
        requests = await asyncio.to_thread(outcomes.requests) if counted and outcomes is not None else {}
        weighted = {
            key: values_by_unit({v: one for (v, m), one in found.items() if m == key}, requests)
            for key in counted
        }

        def evidence(variant: str) -> Evidence:
            count = counts.get(variant, Counts())
            rewards = {m: s for (v, m), s in sums.items() if v == variant}
            seen = Evidence(count.seen, count.errors, count.latency, rewards, kinds, seconds, ranges)
            seen = replace(seen, before=known_before(found, adjusted, variant))
            if by_variant is None:
                return seen
            values = {m: each[variant] for m, each in weighted.items() if variant in each}
            return by_unit(replace(seen, weighted=values), by_variant.get(variant, Stratum()))

        samples = float(counts.get(plan.candidate, Counts()).assigned)
        return evidence(plan.baseline), evidence(plan.candidate), samples

    def _window_bets(self, name: str, state: State, epoch: int) -> WindowBets:
        """The bets of the present window. A process that begins in the middle bets on the window as one."""
        window = (state.window, epoch)
        known = self._bets.get(name)
        if known is None or known[0] != window:
            known = self._bets[name] = window, WindowBets(state.carried)
        return known[1]

    async def _by_unit(
        self, document: Document, name: str, since: float, epoch: int
    ) -> tuple[UnitOutcomes | None, Mapping[str, Stratum] | None]:
        """The units, None until the record is read; by variant, their errors and latencies, None without units."""
        if document.routes[name].unit is None:
            return None, None
        outcomes = await self._units.read(name, since, epoch)
        return outcomes, {} if outcomes is None else await asyncio.to_thread(outcomes.whole)


def _sick(state: State) -> str:
    return state.reason if state.status is Status.HALTED else ""


def _held(judgement: Judgement, reason: str) -> Judgement:
    """The judgement, but that nothing passes for a ``reason``, if there is one."""
    if not reason:
        return judgement
    held = tuple(replace(one, verdict="inconclusive", reason=reason) for one in judgement.verdicts)
    return replace(judgement, verdicts=held)


def _blind(section: CanaryConfig, reason: str) -> Verdict:
    rail = rail_of(section.guardrails[0]) if section.guardrails else Guardrail("error_rate", max_increase=0.0)
    return could_not_look(rail, 0.0, reason)
