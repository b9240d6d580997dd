"""The evidence for guardrails that bind a bandit, or the bandit that a canary has gone on as.

Each variant is compared with the concurrent baseline (`policies.sequential.stratified`), always validly.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.clock import Clock
from gateway.compile.plans import rail_of, reported
from gateway.compile.steering import Guarded
from gateway.config.document import Document
from gateway.ingest.by_unit import OutcomesByUnit
from gateway.ingest.evidence import Metric, RewardedBucket, ended_before, of_buckets
from gateway.loops.rollout_evidence import capped_ranges
from gateway.record.histogram import edges
from gateway.state.base import BUCKET_S, Counts
from gateway.state.store import EvidenceStore
from policies.rollout.ejections import Ejections
from policies.rollout.guardrails import Judgement, judge_all
from policies.sequential.stratified import StratifiedComparison, Stratum, stratified
from policies.types import RewardSums

SETTLED_S: Final = 10.0
"""Seconds after which a bucket of the aggregates is taken: its outcomes are there."""
MAX_STRETCHES: Final = 360
"""How many stretches of a metric's window are read repeatedly, at most, while their rewards still come in."""

_NOTHING: Final = Stratum(units=RewardSums())
_NO_UNITS: Final = (_NOTHING, _NOTHING)


@dataclass(slots=True)
class _Fresh:
    """Rewards of decisions whose window is open. They are read again now and then."""

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
    rewarded: dict[str, float] = field(default_factory=dict)
    """Of each metric, the end of what is in ``matched``: what was decided later may still be rewarded."""
    matched: dict[str, StratifiedComparison] = field(
        default_factory=lambda: defaultdict(StratifiedComparison)
    )
    fresh: dict[str, _Fresh] = field(default_factory=dict)
    """By metric: what has come so far for the decisions behind that end."""


class GuardrailEvidence:
    """The comparisons of all bandits that guardrails bind."""

    def __init__(self, store: EvidenceStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._units = OutcomesByUnit(store, clock)
        self._watched: dict[str, _Watched] = {}

    async def judgements(
        self, document: Document, name: str, bound: Guarded, state: Ejections, variants: Sequence[str]
    ) -> dict[str, Judgement]:
        """The guardrails of each variant other than the baseline that gets traffic, by variant."""
        watched = self._known(name, state)
        await self._add_new(document, name, bound.baseline, watched)
        others = [variant for variant in variants if variant != bound.baseline]
        kinds = {key: metric.type for key, metric in document.metrics.items()}
        rails = [rail_of(rail) for rail in bound.guardrails]
        stretches = await self._by_unit(document, name, watched)
        judgements = {}
        for variant in others:
            if variant in state.ejected or variant not in watched.matched:
                continue
            seen = sum((f.matched[variant] for f in watched.fresh.values()), watched.matched[variant])
            if stretches is not None:
                pairs = ((s.get(bound.baseline, _NOTHING), s.get(variant, _NOTHING)) for s in stretches)
                seen = seen + stratified([_NO_UNITS, *pairs])
            pair = seen.evidence(kinds, self._clock() - watched.since, capped_ranges(document))
            judgements[variant] = await asyncio.to_thread(
                judge_all, rails, *pair, bound.alpha / len(others), edges=edges, forecast=False
            )
        return judgements

    def _known(self, name: str, state: Ejections) -> _Watched:
        """The comparisons since ``state.since``; from the beginning for an edited section."""
        known = self._watched.get(name)
        if known is None or (known.fingerprint, known.since) != (state.fingerprint, state.since):
            known = self._watched[name] = _Watched(state.fingerprint, state.since, state.since)
        return known

    async def _add_new(self, document: Document, name: str, baseline: str, watched: _Watched) -> None:
        """Counts go in once, as soon as they are settled; rewards when their window is over, and before that as
        far as they have come, unless the missing ones count as well."""
        now, declared = self._clock() - SETTLED_S, reported(document, name)
        until = now // BUCKET_S * BUCKET_S
        if until > watched.until:
            buckets = await self._store.series(name, since=watched.until, until=until, step=BUCKET_S)
            watched.until = until
            read = of_buckets(buckets, {}, now=now)
            if document.routes[name].unit is not None:  # latencies are by unit
                read = [replace(bucket, counts=replace(bucket.counts, latency={})) for bucket in read]
            _add(watched.matched, baseline, read, ())
        for metric, m in declared.items():
            step = _stretch(m.window) if m.missing == "ignore" else BUCKET_S
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
        read = of_buckets(buckets, metrics, now=self._clock() - SETTLED_S)
        _add(into, baseline, [replace(bucket, counts=Counts()) for bucket in read], metrics)

    async def _by_unit(
        self, document: Document, name: str, watched: _Watched
    ) -> list[Mapping[str, Stratum]] | None:
        """Errors and latencies by unit, in strata; None where requests are their own units."""
        if document.routes[name].unit is None:
            return None
        outcomes = await self._units.read(name, watched.since)
        return [] if outcomes is None else await asyncio.to_thread(outcomes.strata)


def _stretch(window: float) -> float:
    """Seconds of one stratum, so that a window has at most `MAX_STRETCHES` of them."""
    return max(1.0, -(-window // (MAX_STRETCHES * BUCKET_S))) * BUCKET_S


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
        side.requests += bucket.counts.seen
        side.errors += bucket.counts.errors
        for place, count in bucket.counts.latency.items():
            latency[place] += count
        for metric in bucket.rewards.keys() & metrics:
            rewards[metric] = rewards.get(metric, RewardSums()) + bucket.rewards[metric].observations
    side.latency, side.rewards = latency, rewards
    return side
