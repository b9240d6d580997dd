"""The evidence for guardrails that bind a bandit, or the bandit that a canary has gone on as.

Each variant is compared with the concurrent baseline, always validly: matched in time
(`policies.sequential.stratified`), or by the units of `gateway.loops.unit_evidence`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Final

from gateway.clock import Clock
from gateway.compile.plans import rail_of, reported
from gateway.compile.steering import Guarded
from gateway.config.document import Document
from gateway.config.service import MetricConfig
from gateway.ingest.by_unit import OutcomesByUnit
from gateway.ingest.comparable import units_of_all_time
from gateway.ingest.evidence import RewardedBucket, ended_before, of_buckets, over_time
from gateway.ingest.remembered import Remembered, pieces, spans
from gateway.loops.periodic import MAX_READ_SHARE
from gateway.loops.rollout_evidence import capped_ranges
from gateway.loops.unit_evidence import UnitEvidence
from gateway.record.histogram import edges
from gateway.state.base import BUCKET_S, Bucket, Counts
from gateway.state.store import EvidenceStore
from policies.rollout.ejections import Ejections
from policies.rollout.guardrails import Judgement, judge_all
from policies.sequential.metric_comparison import Evidence, Interval
from policies.sequential.stratified import StratifiedComparison, Stratum
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.types import CLIENT_ERROR_RATE, MetricType, PairSums

SETTLED_S: Final = 10.0
"""Seconds after which a bucket of the aggregates is taken: its outcomes are there."""
MAX_STRETCHES: Final = 360
"""How many stretches of a metric's window are read repeatedly, at most, while their rewards still come in."""
_NOTHING: Final = Stratum()

_Matched = dict[str, StratifiedComparison]
"""By variant, its comparison with the baseline."""
Pair = tuple[Evidence, Evidence]
"""The baseline's, and a variant's."""


@dataclass(slots=True)
class _Fresh:
    """Rewards of decisions whose window is open. They are read again now and then, where they changed."""

    parts: Remembered[_Matched]
    due: float = 0.0
    matched: _Matched = field(default_factory=lambda: defaultdict(StratifiedComparison))


@dataclass(slots=True)
class _Watched:
    """One route's comparisons so far."""

    fingerprint: str
    since: float
    until: float
    rewarded: dict[str, float] = field(default_factory=dict)
    """Of each metric, the end of what is in ``matched``: what was decided later may still be rewarded."""
    matched: _Matched = field(default_factory=lambda: defaultdict(StratifiedComparison))
    fresh: dict[str, _Fresh] = field(default_factory=dict)
    """By metric: what has come so far for the decisions behind that end."""


@dataclass(frozen=True, slots=True)
class _SeenOfUnits:
    """What the sticky units of one route did since a time, and when that was read and is read again."""

    since: float
    read: float
    due: float
    found: UnitEvidence


class GuardrailEvidence:
    """The comparisons of all bandits that guardrails bind."""

    def __init__(self, store: EvidenceStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._units = OutcomesByUnit(store, clock)
        self._watched: dict[str, _Watched] = {}
        self._of_route: dict[str, _SeenOfUnits] = {}

    async def judgements(
        self, document: Document, name: str, bound: Guarded, state: Ejections, variants: Sequence[str]
    ) -> dict[str, Judgement]:
        """The guardrails of each variant other than the baseline that gets traffic, by variant."""
        others = [variant for variant in variants if variant != bound.baseline]
        compared = [variant for variant in others if variant not in state.ejected]
        rails, alpha = [rail_of(rail) for rail in bound.guardrails], bound.alpha / max(len(others), 1)
        by_unit = document.routes[name].unit is not None
        read = self._of_units if by_unit else self._of_requests
        pairs = await read(document, name, bound.baseline, state, compared)
        return {
            variant: await asyncio.to_thread(judge_all, rails, *pair, alpha, edges=edges, forecast=False)
            for variant, pair in pairs.items()
        }

    async def _of_requests(
        self, document: Document, name: str, baseline: str, state: Ejections, variants: Sequence[str]
    ) -> dict[str, Pair]:
        """The evidence of the baseline and each variant, where requests are their own units."""
        watched = self._known(name, state)
        await self._add_new(document, name, baseline, watched)
        found = {}
        for variant in variants:
            if variant in watched.matched:
                seen = sum((f.matched[variant] for f in watched.fresh.values()), watched.matched[variant])
                found[variant] = seen.evidence(*self._terms(document, state))
        return found

    async def _of_units(
        self, document: Document, name: str, baseline: str, state: Ejections, variants: Sequence[str]
    ) -> dict[str, Pair]:
        """The same where units are sticky."""
        seen, terms = await self._seen_of_units(document, name, state.since), self._terms(document, state)
        return await asyncio.to_thread(
            lambda: {variant: seen.pair(baseline, variant, *terms) for variant in variants}
        )

    def _terms(
        self, document: Document, state: Ejections
    ) -> tuple[dict[str, MetricType], float, dict[str, Interval]]:
        """What each metric is, the length of the window, and the ranges of capped metrics."""
        kinds = {key: metric.type for key, metric in document.metrics.items()}
        return kinds, self._clock() - state.since, capped_ranges(document)

    async def _seen_of_units(self, document: Document, name: str, since: float) -> UnitEvidence:
        """What units did since ``since``: all of it, since old cells change with a unit's new values."""
        now, known = self._clock(), self._of_route.get(name)
        if known is None or known.since != since or not known.read <= now < known.due:
            began, until = perf_counter(), (now - SETTLED_S) // BUCKET_S * BUCKET_S
            buckets = await over_time(
                self._store, name, reported(document, name), now=now, since=since, histograms=False
            )
            outcomes = await self._units.read(name, since)
            earned = await units_of_all_time(self._store, name)
            found = await asyncio.to_thread(_of_settled, buckets, until, outcomes, earned)
            due = now + (perf_counter() - began) / MAX_READ_SHARE
            known = self._of_route[name] = _SeenOfUnits(since, now, due, found)
        return known.found

    def _known(self, name: str, state: Ejections) -> _Watched:
        """The comparisons since ``state.since``; from the beginning for an edited section, and after a clock that was
        ahead, or nothing would be added until it is there again."""
        known = self._watched.get(name)
        of = state.fingerprint, state.since
        if known is None or (known.fingerprint, known.since) != of or known.until > self._clock():
            known = self._watched[name] = _Watched(state.fingerprint, state.since, state.since)
        return known

    async def _add_new(self, document: Document, name: str, baseline: str, watched: _Watched) -> None:
        """Counts go in once, as soon as they are settled; rewards when their window is over, and before that as
        far as they have come, unless the missing ones count as well."""
        now, declared = self._clock() - SETTLED_S, reported(document, name)
        until = now // BUCKET_S * BUCKET_S
        for begin, end in pieces(watched.until, until, now):
            counts = partial(_counts, watched.matched, baseline, now)
            watched.matched = await self._store.reduced_series(
                name, counts, since=begin, until=end, step=BUCKET_S, histograms=True
            )
            watched.until = end
        for metric, m in declared.items():
            step = _stretch(m.window) if m.missing == "ignore" else BUCKET_S
            edge, since = ended_before(now, m.window, step), watched.rewarded.get(metric, watched.since)
            moved = edge > since
            make = partial(_rewards, baseline, {metric: m})
            for begin, end in pieces(since, edge, now, step):
                found = await self._store.reduced_series(
                    name, partial(make, step=step, now=now), since=begin, until=end, step=step
                )
                watched.matched = _joined([watched.matched, found])
                # With each piece: a store that goes away in the middle must not make it count twice.
                watched.rewarded[metric] = since = end
            fresh = watched.fresh.get(metric)
            if m.missing != "ignore":
                watched.fresh.pop(metric, None)  # it counted as it came before an edit
            elif moved or fresh is None or now >= fresh.due:
                fresh = watched.fresh.setdefault(metric, _Fresh(Remembered(make)))
                parts = await fresh.parts.read(self._store, name, spans(since, until, step), now=now)
                fresh.matched = await asyncio.to_thread(_joined, parts)
                fresh.due = now + step


def _of_settled(
    buckets: list[RewardedBucket],
    until: float,
    outcomes: UnitOutcomes | None,
    earned: Mapping[tuple[str, str], PairSums],
) -> UnitEvidence:
    """What the units did before ``until``. Empties ``buckets``: to free thousands would hold up the event loop."""
    settled = [bucket for bucket in buckets if bucket.start < until]
    buckets.clear()
    return UnitEvidence.of(settled, outcomes, earned)


def _stretch(window: float) -> float:
    """Seconds of one stratum, so that a window has at most `MAX_STRETCHES` of them."""
    return max(1.0, -(-window // (MAX_STRETCHES * BUCKET_S))) * BUCKET_S


def _counts(matched: _Matched, baseline: str, now: float, buckets: list[Bucket]) -> _Matched:
    """``matched`` with what was counted in ``buckets``."""
    found: _Matched = defaultdict(StratifiedComparison)
    _add(found, baseline, of_buckets(buckets, {}, now=now), (CLIENT_ERROR_RATE,))
    return _joined([matched, found])


def _rewards(
    baseline: str, metrics: Mapping[str, MetricConfig], buckets: list[Bucket], step: float, now: float
) -> _Matched:
    """The comparisons in what was earned, in strata of ``step`` seconds."""
    found: _Matched = defaultdict(StratifiedComparison)
    read = of_buckets(buckets, metrics, now=now, step=step)
    _add(found, baseline, [replace(bucket, counts=Counts()) for bucket in read], metrics)
    return found


def _joined(parts: Iterable[_Matched]) -> _Matched:
    found: _Matched = defaultdict(StratifiedComparison)
    for part in parts:
        for variant, comparison in part.items():
            found[variant] += comparison
    return found


def _add(
    matched: _Matched,
    baseline: str,
    buckets: list[RewardedBucket],
    metrics: Collection[str],
) -> None:
    """Adds each moment, a bucket of time at shares that are alike, to the comparison of every variant seen in it."""
    moments: dict[tuple[float, int], dict[str, Stratum]] = defaultdict(dict)
    for bucket in buckets:
        moments[bucket.start, bucket.epoch][bucket.variant] = _side(bucket, metrics)
    for found in moments.values():
        for variant, own in found.items():
            if variant != baseline:
                matched[variant].add(found.get(baseline, _NOTHING), own)


def _side(bucket: RewardedBucket, metrics: Collection[str]) -> Stratum:
    counts = bucket.counts
    rewards = {metric: bucket.rewards[metric].observations for metric in bucket.rewards.keys() & metrics}
    return Stratum(counts.seen, counts.errors, counts.latency, rewards)
