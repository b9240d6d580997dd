"""Guardrails that bind a bandit: a variant shown to breach one gets no more traffic, whatever it earns. Likewise
those of a canary that is with its bandit; its rollout, which goes back then, reads here what they say.

The leader compares each variant with the concurrent baseline (`policies.sequential.stratified`), always
validly. What is ejected is kept in the store, and stays ejected until the route's policy section is edited.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.clock import Clock
from gateway.compile.plans import plan_of, rail_of, reported
from gateway.config.document import BanditConfig, CanaryConfig, Document, GuardrailConfig
from gateway.ingest.evidence import Metric, RewardedBucket, ended_before, of_buckets
from gateway.loops.alarms import distrust
from gateway.loops.allocation import Allocations
from gateway.loops.by_unit import OutcomesByUnit
from gateway.loops.rollout import capped_ranges
from gateway.record.histogram import edges
from gateway.state.base import BUCKET, Counts
from gateway.state.store import Store
from policies.allocation.model import RewardSums
from policies.rollout.guardrails import Judgement, judge_all
from policies.rollout.verdicts import Verdict
from policies.sequential.stratified import StratifiedComparison, Stratum, stratified

log = logging.getLogger("turnout.guards")

KIND: Final = "guards"
EVERY: Final = 5.0
ALPHA: Final = 0.05
"""Probability that anything is ever ejected wrongly, over all variants, guardrails and looks of a route."""
SETTLED: Final = 10.0
"""Seconds after which a bucket of the aggregates is taken: its outcomes are there."""
STRETCHES: Final = 360
"""So many at most are read again and again, while their rewards still come in."""

_NOTHING: Final = Stratum(units=RewardSums())
_NO_UNITS: Final = (_NOTHING, _NOTHING)

Emit = Callable[[str, str, Mapping[str, Any]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Bound:
    """What binds one route."""

    baseline: str
    guardrails: tuple[GuardrailConfig, ...]
    fingerprint: str
    """With another one everything begins anew."""
    alpha: float = ALPHA
    competing: float | None = None
    """Of a canary: since when it is with its bandit."""


@dataclass(slots=True)
class _Fresh:
    """Rewards of decisions whose window is open. They are read anew now and then."""

    due: float
    matched: dict[str, StratifiedComparison] = field(
        default_factory=lambda: defaultdict(StratifiedComparison)
    )


@dataclass(slots=True)
class _Watched:
    """One route's comparisons so far."""

    fingerprint: str
    since: float
    until: float
    ejected: dict[str, str]
    """Variant → why."""
    judgement: Judgement | None = None
    """Of a canary's candidate, as last kept."""
    rewarded: dict[str, float] = field(default_factory=dict)
    """Of each metric, the end of what is in ``matched``: what was decided later may still be rewarded."""
    matched: dict[str, StratifiedComparison] = field(
        default_factory=lambda: defaultdict(StratifiedComparison)
    )
    fresh: dict[str, _Fresh] = field(default_factory=dict)
    """By metric: what has come so far for the decisions behind that end."""


class Guards:
    """See the module."""

    def __init__(self, store: Store, allocations: Allocations, *, clock: Clock, emit: Emit) -> None:
        self._store = store
        self._allocations = allocations
        self._clock = clock
        self._emit = emit
        self._units = OutcomesByUnit(store, clock)
        self._watched: dict[str, _Watched] = {}

    async def step(self, document: Document) -> None:
        for name in document.routes:
            bound = self._bound(document, name)
            if bound is not None and bound.guardrails:
                await self._step(document, name, bound)

    def _bound(self, document: Document, name: str) -> _Bound | None:
        section = document.routes[name].policy
        if isinstance(section, BanditConfig) and section.baseline is not None:
            return _Bound(section.baseline, section.guardrails, _fingerprint(section))
        move = self._allocations.overrides.get(name)
        if not isinstance(section, CanaryConfig) or move is None or move.competing is None:
            return None
        if move.promoted or (not move.deciding and move.weight in (0.0, 1.0)):
            return None  # it has ended, or there is nobody to compare with
        alpha = plan_of(section).bandit_alpha(ALPHA)
        fingerprint = _fingerprint(section, str(move.competing))
        return _Bound(section.baseline, section.guardrails, fingerprint, alpha, move.competing)

    async def _step(self, document: Document, name: str, bound: _Bound) -> None:
        watched = await self._known(name, bound)
        caps = dict.fromkeys(watched.ejected, 0.0)
        if self._allocations.caps.get(name, {}) != caps:
            self._allocations.caps[name] = caps
            if self._allocations.leads:
                await self._allocations.reconsider(name, "guardrail")
        if self._allocations.leads:
            await self._look(document, name, bound, watched)

    async def _known(self, name: str, bound: _Bound) -> _Watched:
        """What the store says is ejected under this very section; a new section begins anew."""
        fingerprint = bound.fingerprint
        found = await self._store.load(KIND, name)
        kept = json.loads(found[1]) if found is not None else {}
        known = self._watched.get(name)
        if known is None or known.fingerprint != fingerprint:
            since = kept["since"] if kept.get("fingerprint") == fingerprint else self._clock()
            known = self._watched[name] = _Watched(fingerprint, since, since, {})
        if kept.get("fingerprint") == fingerprint:
            known.ejected = dict(kept["ejected"])
            if bound.competing is not None and kept.get("verdicts") is not None:
                said = tuple(Verdict.from_dict(v) for v in kept["verdicts"])
                known.judgement = Judgement(said, kept["sick"])
                self._allocations.judged[name] = bound.competing, known.judgement
        elif self._allocations.leads:
            await self._keep(name, known, found[0] if found is not None else 0)
        return known

    async def _keep(self, name: str, watched: _Watched, version: int) -> bool:
        kept: dict[str, Any] = {
            "fingerprint": watched.fingerprint,
            "since": watched.since,
            "ejected": watched.ejected,
        }
        if watched.judgement is not None:
            kept["verdicts"] = [verdict.as_dict() for verdict in watched.judgement.verdicts]
            kept["sick"] = watched.judgement.sick
        return await self._store.save(KIND, name, json.dumps(kept), expected=version)

    async def _look(self, document: Document, name: str, bound: _Bound, watched: _Watched) -> None:
        await self._add_new(document, name, bound.baseline, watched)
        others = [v for v in self._allocations.held[name].allocation.variants if v != bound.baseline]
        kinds = {key: metric.type for key, metric in document.metrics.items()}
        rails = [rail_of(rail) for rail in bound.guardrails]
        strata = await self._by_unit(document, name, watched)
        for variant in others:
            if variant in watched.ejected or variant not in watched.matched:
                continue
            seen = sum((f.matched[variant] for f in watched.fresh.values()), watched.matched[variant])
            if strata is not None:
                pairs = ((s.get(bound.baseline, _NOTHING), s.get(variant, _NOTHING)) for s in strata)
                seen = seen + stratified([_NO_UNITS, *pairs])
            pair = seen.evidence(kinds, self._clock() - watched.since, capped_ranges(document))
            judgement = await asyncio.to_thread(
                judge_all, rails, *pair, bound.alpha / len(others), edges=edges, forecast=False
            )
            if bound.competing is not None:
                await self._tell(name, bound.competing, watched, judgement)
            failed = [v for v in judgement.verdicts if v.verdict == "fail"]
            # A baseline that is itself ill is no measure: nothing is ejected by it.
            if failed and not judgement.sick and not await distrust(self._store, name, watched.since):
                await self._eject(name, variant, watched, failed[0])

    async def _tell(self, name: str, competing: float, watched: _Watched, judgement: Judgement) -> None:
        """Keeps what a canary's guardrails say, for its rollout and for every replica."""
        if judgement == watched.judgement:
            return
        watched.judgement = judgement
        found = await self._store.load(KIND, name)
        if await self._keep(name, watched, found[0] if found is not None else 0):
            self._allocations.judged[name] = competing, judgement

    async def _add_new(self, document: Document, name: str, baseline: str, watched: _Watched) -> None:
        """Counts go in once, as soon as they are settled; rewards when their window is over, and before that as
        far as they have come, unless the missing ones count as well."""
        now, declared = self._clock() - SETTLED, reported(document, name)
        until = now // BUCKET * BUCKET
        if until > watched.until:
            buckets = await self._store.series(name, since=watched.until, until=until, step=BUCKET)
            watched.until = until
            read = of_buckets(buckets, {}, now=now)
            if document.routes[name].unit is not None:  # latencies are by unit
                read = [replace(bucket, counts=replace(bucket.counts, latency={})) for bucket in read]
            _add(watched.matched, baseline, read, ())
        for metric, m in declared.items():
            step = _stretch(m.window) if m.missing == "ignore" else BUCKET
            edge, since = ended_before(now, m.window, step), watched.rewarded.get(metric, watched.since)
            moved = edge > since
            if moved:
                await self._rewards(name, baseline, watched.matched, {metric: m}, since, edge, step)
                watched.rewarded[metric] = since = edge
            old = watched.fresh.get(metric)
            if m.missing == "ignore" and (moved or old is None or now >= old.due):
                watched.fresh[metric] = fresh = _Fresh(now + step)
                await self._rewards(name, baseline, fresh.matched, {metric: m}, since, until, step)

    async def _rewards(
        self,
        name: str,
        baseline: str,
        into: dict[str, StratifiedComparison],
        metrics: Mapping[str, Metric],
        since: float,
        until: float,
        step: float,
    ) -> None:
        """Adds what was earned by decisions within the limits, in strata of ``step`` seconds."""
        buckets = await self._store.series(name, since=since, until=until, step=step)
        read = of_buckets(buckets, metrics, now=self._clock() - SETTLED)
        _add(into, baseline, [replace(bucket, counts=Counts()) for bucket in read], metrics)

    async def _by_unit(
        self, document: Document, name: str, watched: _Watched
    ) -> list[Mapping[str, Stratum]] | None:
        """Errors and latencies by unit, in strata; None where requests are their own units."""
        if document.routes[name].unit is None:
            return None
        outcomes = await self._units.read(name, watched.since)
        return [] if outcomes is None else await asyncio.to_thread(outcomes.strata)

    async def _eject(self, name: str, variant: str, watched: _Watched, verdict: Verdict) -> None:
        reason = verdict.breach()
        watched.ejected[variant] = reason
        found = await self._store.load(KIND, name)
        if not await self._keep(name, watched, found[0] if found is not None else 0):
            del watched.ejected[variant]  # another leader was faster; its word is read next time
            return
        log.warning("%s: variant %s gets no more traffic: %s", name, variant, reason)
        self._allocations.caps[name] = dict.fromkeys(watched.ejected, 0.0)
        await self._emit(
            "guardrail", name, {"variant": variant, "reason": reason, "evidence": verdict.as_dict()}
        )
        await self._allocations.reconsider(name, f"guardrail: {variant}")


def _fingerprint(section: BanditConfig | CanaryConfig, more: str = "") -> str:
    return hashlib.sha256((section.model_dump_json() + more).encode()).hexdigest()[:16]


def _stretch(window: float) -> float:
    """Seconds of one stratum, so that a window has at most `STRETCHES` of them."""
    return max(1.0, -(-window // (STRETCHES * BUCKET))) * BUCKET


def _add(
    matched: dict[str, StratifiedComparison],
    baseline: str,
    buckets: list[RewardedBucket],
    metrics: Collection[str],
) -> None:
    """Adds each bucket of time to the comparison of every variant that was seen in it."""
    by_time: dict[float, dict[str, list[RewardedBucket]]] = defaultdict(lambda: defaultdict(list))
    for bucket in buckets:
        by_time[bucket.start][bucket.variant].append(bucket)
    for found in by_time.values():
        for variant, own in found.items():
            if variant != baseline:
                matched[variant].add(_side(found.get(baseline, []), metrics), _side(own, metrics))


def _side(buckets: list[RewardedBucket], metrics: Collection[str]) -> Stratum:
    """All epochs of one bucket of time together: ten seconds are short against what else changes."""
    side = Stratum()
    latency: dict[int, float] = defaultdict(float)
    rewards: dict[str, RewardSums] = {}
    for bucket in buckets:
        side.requests += bucket.counts.assigned
        side.errors += bucket.counts.errors
        for place, count in bucket.counts.latency.items():
            latency[place] += count
        for metric in bucket.rewards.keys() & metrics:
            rewards[metric] = rewards.get(metric, RewardSums()) + bucket.rewards[metric].observations
    side.latency, side.rewards = latency, rewards
    return side
