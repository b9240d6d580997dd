"""The report of a route, as JSON: a pure function of the record's sums and of the route's status.

Nothing here reads a clock or a store; `gateway.control.services` gathers the evidence and runs this in a
thread, since comparing posteriors may take milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.compile.plans import adjustments, in_force, plan, reported
from gateway.config.document import Document
from gateway.config.policy import CanaryConfig, PolicyConfig, bandit_of
from gateway.config.route import RouteConfig
from gateway.config.service import MetricConfig
from gateway.control.gateway_api import RouteStatus
from gateway.control.reports.estimates import LEVEL, Standings, reward_estimate, standings
from gateway.control.reports.example import example
from gateway.control.reports.lift import HEALTH, Comparisons
from gateway.control.reports.observed import Observed, comparable, of_newest
from gateway.control.reports.segments import segmented
from gateway.control.reports.served import GATEWAY, LATENCIES, error_rate, latencies, served
from gateway.ingest.evidence import Rewarded, RewardedBucket, observations
from gateway.state.base import Counts
from policies.allocate import Plan
from policies.allocation.model import Allocation
from policies.contextual.bandit import Contextual
from policies.contextual.regression import LinearSums
from policies.sequential.metric_comparison import latency_quantile
from policies.sequential.two_sample import RateMartingale, mean_interval
from policies.sequential.unit_outcomes import UnitOutcomes
from policies.types import CLIENT_ERROR_RATE, Discounted, PairSums

Json = dict[str, Any]

RECENT_S: Final = 300.0
"""Seconds that the `recent` figures cover."""

TREND_STEP_S: Final = 120.0
TREND_STEPS: Final = 30

_NO_COUNTS: Final = Counts()
_NOTHING: Final = Rewarded()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the store holds on a route, over some period."""

    counts: Mapping[str, Counts] = field(default_factory=dict)
    """By variant."""
    rewards: Mapping[tuple[str, str], Rewarded] = field(default_factory=dict)
    """By (variant, metric)."""
    discounted: Mapping[tuple[str, str], Discounted] = field(default_factory=dict)
    """By (variant, metric); only for a bandit with a discount."""
    agreement: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """By shadow: responses, compared, agreeing."""
    recent: Counts = field(default_factory=Counts)
    """Of all variants together, over the last `RECENT_S` seconds."""
    alarms: Sequence[Mapping[str, Any]] = ()
    guardrails: Sequence[Mapping[str, Any]] = ()
    """What those of a bandit said last of each variant."""
    stop: Mapping[str, Any] | None = None
    """The state of the stop rule."""
    held: str = ""
    """Why a bandit does not act on its comparisons."""
    buckets: Sequence[RewardedBucket] = ()
    """Counts and rewards over time and epochs, for comparisons of variants whose shares moved."""
    units: UnitOutcomes | None = None
    """Errors and latencies by sticky unit; None where there are none, or while the record is being read."""
    earned: Mapping[tuple[str, str], PairSums] = field(default_factory=dict)
    """By (variant, metric), the sums by unit over all time; only where the period is a part of it."""
    rows: Mapping[str, LinearSums] = field(default_factory=dict)
    """By variant, what the rewards say of the features; only for a bandit with features."""
    part: bool = False
    """Whether decisions of some time or epoch only."""

    @property
    def first_decision(self) -> float | None:
        """Start of the first bucket with a decision."""
        return min((bucket.start for bucket in self.buckets if bucket.counts.assigned), default=None)


def summary(
    name: str, document: Document, status: RouteStatus, rollout: Mapping[str, Any] | None, now: float
) -> Json:
    """Return the part that needs no evidence: how the route runs now."""
    route = document.routes[name]
    shadows = dict(status.allocation.shadows)
    return {
        "route": name,
        "policy": route.policy.type,
        "unit": "requests" if route.unit is None else "units",
        "epoch": status.epoch,
        "revision": status.revision,
        "allocation": shares(status.allocation),
        "shadows": shadows or None,
        "rollout": dict(rollout) if rollout is not None else None,
        "health": {variant: [dict(one) for one in found] for variant, found in status.health.items()},
        "as_of": now,
    }


def shares(allocation: Allocation) -> dict[str, float]:
    """Return the share of each variant to 15 digits: 0.1, where 1 - 0.9 is 0.09999999999999998."""
    return {variant: float(f"{p:.15g}") for variant, p in allocation.as_dict().items()}


def standing(name: str, document: Document, evidence: Evidence, status: RouteStatus, now: float) -> Json:
    """Return which variant leads in which metric, how often shadows agree, and the trend of the traffic."""
    declared = reported(document, name)
    compared = _comparisons(document, name, declared, evidence, status)
    return {
        "metrics": {metric: described(m) for metric, m in declared.items()},
        "standings": {} if status.contextual is not None else _standings(compared, declared),
        "agreement": _agreement(evidence, status),
        "features": None if status.contextual is None else list(status.contextual["features"]),
        "trend": trend(evidence.buckets, tuple(document.routes[name].variants), now),
        "first_decision": evidence.first_decision,
    }


def trend(buckets: Sequence[RewardedBucket], variants: Sequence[str], now: float) -> Json:
    """Return the requests of the last hour by variant, as the allocation shared them, in whole steps.

    Not as they were assigned: the share in a step of a few requests is mostly chance.
    """
    end = now // TREND_STEP_S * TREND_STEP_S
    since = end - TREND_STEPS * TREND_STEP_S
    expected = {variant: [0.0] * TREND_STEPS for variant in variants}
    for bucket in buckets:
        if since <= bucket.start < end and bucket.variant in expected:
            expected[bucket.variant][int((bucket.start - since) // TREND_STEP_S)] += bucket.counts.expected
    rounded = {variant: [round(n, 1) for n in each] for variant, each in expected.items()}
    return {"since": since, "step": TREND_STEP_S, "expected": rounded}


def recent(counts: Counts, first: float | None, now: float) -> Json:
    """Return the figures of the last minutes, all variants together; ``first``: when the route's first bucket began."""
    return {
        "seconds": RECENT_S if first is None else min(RECENT_S, max(now - first, 1.0)),
        "assigned": counts.assigned,
        "served": counts.served,
        "errors": counts.errors,
        "fallbacks": counts.fallbacks,
        "error_rate": error_rate(counts),
        "latency_ms": latencies(counts.latency, LATENCIES),
        "gateway_ms": latencies(counts.gateway, GATEWAY),
    }


def report(
    name: str,
    document: Document,
    evidence: Evidence,
    status: RouteStatus,
    rollout: Mapping[str, Any] | None,
    now: float,
    since: float | None = None,
    baseline: str | None = None,
) -> Json:
    """Return the JSON of ``GET /-/routes/{route}``; a part that does not apply is null."""
    declared = reported(document, name)
    variants = tuple(document.routes[name].variants)
    sums = observations(evidence.rewards)
    standing = standings(plan(document, name), variants, declared, sums, evidence.discounted)
    compared = _comparisons(document, name, declared, evidence, status)
    against = baseline or default_baseline(document.routes[name])
    return {
        **summary(name, document, status, rollout, now),
        "example": example(document, name),
        "since": since,
        "first_decision": evidence.first_decision,
        **_roles(document.routes[name].policy),
        "recent": recent(evidence.recent, None if evidence.part else evidence.first_decision, now),
        "stop": dict(evidence.stop) if evidence.stop is not None else None,
        "held": evidence.held or None,
        "metric": standing.metric,
        "goal": standing.goal,
        "metrics": {metric: described(m) for metric, m in declared.items()},
        "uses": used(document.routes[name]),
        "segments": list(document.routes[name].segments),
        "guardrails": in_force(document.routes[name], evidence.guardrails),
        "compared_with": against,
        "standings": {} if status.contextual is not None else _standings(compared, declared),
        "variants": {
            variant: _variant(variant, declared, evidence, standing)
            | {"lift": compared.lift(variant, against)}
            for variant in variants
        },
        "contextual": _contextual(plan(document, name), evidence, status, against),
        "agreement": _agreement(evidence, status),
        "shadow_counts": {name: dict(found) for name, found in status.shadow_counts.items()} or None,
        "alarms": [dict(alarm) for alarm in evidence.alarms],
    }


def _contextual(found: Plan, evidence: Evidence, status: RouteStatus, baseline: str) -> Json | None:
    if status.contextual is None:
        return None
    by_segment = segmented(found, evidence.rows, baseline) if isinstance(found, Contextual) else []
    return {**status.contextual, "segments": by_segment}


def _comparisons(
    document: Document,
    name: str,
    declared: Mapping[str, MetricConfig],
    evidence: Evidence,
    status: RouteStatus,
) -> Comparisons:
    route, adjusted = document.routes[name], adjustments(document, name)
    by_request = status.contextual is not None
    if not comparable(route, by_request=by_request):
        return Comparisons((), {}, Observed())
    if route.unit is not None and status.by_epoch:
        observed = of_newest(evidence.buckets, evidence.units)
        return Comparisons(tuple(route.variants), declared, observed, adjusted=adjusted)
    observed = Observed(
        evidence.counts,
        evidence.rewards,
        evidence.buckets,
        route.unit is not None,
        evidence.units,
        by_request=by_request,
        earned=evidence.earned,
    )
    return Comparisons(tuple(route.variants), declared, observed, adjusted=adjusted)


def used(route: RouteConfig) -> list[str]:
    """Return the metrics that the route names: in its policy, its guardrails and `feedback`."""
    bandit = bandit_of(route.policy)
    named = [*(route.feedback or ()), *(bandit.metrics if bandit is not None else ())]
    named += [rail.metric for rail in getattr(route.policy, "guardrails", ())]
    return [
        metric for metric in dict.fromkeys(named) if metric not in HEALTH and not latency_quantile(metric)
    ]


def default_baseline(route: RouteConfig) -> str:
    """The default baseline of comparisons."""
    return getattr(route.policy, "baseline", None) or next(iter(route.variants))


def _standings(compared: Comparisons, declared: Mapping[str, MetricConfig]) -> dict[str, Json]:
    found = {metric: compared.standing(metric) for metric in declared}
    return {metric: standing for metric, standing in found.items() if standing is not None}


def _roles(policy: PolicyConfig) -> Json:
    """The roles of the variants in the policy."""
    stages = policy.stages if isinstance(policy, CanaryConfig) else ()
    return {
        "baseline": getattr(policy, "baseline", None),
        "candidate": policy.candidate if isinstance(policy, CanaryConfig) else None,
        "stages": [
            {"weight": s.weight, "for": s.for_, "min_samples": s.min_samples, "confirm": s.confirm}
            for s in stages
        ]
        or None,
    }


def described(metric: MetricConfig) -> Json:
    return {
        "type": metric.type,
        "goal": metric.goal,
        "missing": metric.missing,
        "window": metric.window,
        "description": metric.description,
    }


def _variant(
    variant: str, declared: Mapping[str, MetricConfig], evidence: Evidence, standing: Standings
) -> Json:
    counts = evidence.counts.get(variant, _NO_COUNTS)
    return {
        **served(counts, evidence.rewards.get((variant, CLIENT_ERROR_RATE), _NOTHING).values),
        "fallbacks": counts.fallbacks,
        "expected": round(counts.expected, 6),
        "gateway_ms": latencies(counts.gateway, GATEWAY),
        "rewards": rewards(variant, declared, evidence.rewards),
        "probability_best": standing.probability_best.get(variant),
        "expected_loss": standing.expected_loss.get(variant),
    }


def rewards(
    variant: str, declared: Mapping[str, MetricConfig], found: Mapping[tuple[str, str], Rewarded]
) -> dict[str, Json]:
    return {name: reward_estimate(m, found.get((variant, name), _NOTHING)) for name, m in declared.items()}


def _agreement(evidence: Evidence, status: RouteStatus) -> dict[str, Json] | None:
    shadows = [shadow for shadow, _ in status.allocation.shadows]
    names = dict.fromkeys([*shadows, *evidence.agreement])
    return {name: _agreed(*evidence.agreement.get(name, (0, 0, 0))) for name in names} or None


def _agreed(answers: int, compared: int, agreeing: int) -> Json:
    """The interval is that of the shadow gate's verdict: it holds at all times with probability `LEVEL`."""
    return {
        "answers": answers,
        "compared": compared,
        "rate": agreeing / compared if compared else None,
        "interval": list(mean_interval(RateMartingale(agreeing, compared), 1.0 - LEVEL))
        if compared
        else None,
    }
