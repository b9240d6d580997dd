"""Means with intervals, and which variant is best: the statistics that the reports show.

An interval of a boolean or fraction is the 95 % credible interval of the mean under the metric's own model with its
default prior (`policies.bayes.prior`); those of reals and counts are `policies.sequential.mean_interval`,
which are valid for few values too. A bandit decides with its own prior, utility and discount which variant is best; for
other policies the first metric with data does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Any, Final

from gateway.config.service import MetricConfig
from gateway.ingest.evidence import Rewarded
from policies.allocate import Plan
from policies.allocation.bandit import Bandit, Objective, Standing, assess
from policies.allocation.fixed_plans import Canary
from policies.allocation.model import Learned
from policies.bayes.posterior import Posterior, compare, interval
from policies.bayes.prior import posteriors
from policies.contextual.bandit import Contextual
from policies.sequential.mean_interval import count_interval, real_interval
from policies.types import Discounted, Goal, MetricType, RewardSums

LEVEL: Final = 0.95
_EMPTY: Final[dict[str, Any]] = {"count": 0, "mean": None, "interval": None}
_NO_SUMS: Final = RewardSums()


@dataclass(frozen=True, slots=True)
class Standings:
    """Which variant is best; empty if there is nothing to compare."""

    metric: str | None = None
    """The metric, or the weighted sum as it is written ("2·clicks − latency")."""
    goal: Goal | None = None
    probability_best: Mapping[str, float] = field(default_factory=dict)
    expected_loss: Mapping[str, float] = field(default_factory=dict)


def estimate(model: MetricType, sums: RewardSums) -> dict[str, Any]:
    """Return count, plain mean and credible interval; mean and interval are null without data.

    If the plain mean is outside the interval (all values at the edge of the range), the interval is extended to it.
    """
    if sums.count <= 0:
        return dict(_EMPTY)
    ends = _ends(model, sums)
    mean = sums.mean
    drawn = None if ends is None else [min(ends[0], mean), max(ends[1], mean)]
    return {"count": whole(sums.count), "mean": mean, "interval": drawn}


def reward_estimate(metric: MetricConfig, found: Rewarded) -> dict[str, Any]:
    """Return the `estimate` of the independent observations, and how many values there are, how many of them were not
    reported and count as zero, and how many wait for the end of their window."""
    observed = estimate(metric.type, found.observations)
    if observed["interval"] is not None:  # only means that values within the declared range can have
        (low, high), mean = observed["interval"], observed["mean"]
        observed["interval"] = [min(max(low, metric.lowest), mean), max(min(high, metric.highest), mean)]
    return observed | {
        "count": whole(found.values.count),
        "observations": observed["count"],
        "missing": whole(found.missing),
        "waiting": whole(max(0.0, found.waiting)),
    }


def whole(count: float) -> float:
    """Return a whole count as an integer."""
    return int(count) if count == int(count) else count


@lru_cache(maxsize=65_536)
def _ends(model: MetricType, sums: RewardSums) -> tuple[float, float] | None:
    """None if there are too few values for an interval, or values that the model excludes."""
    if model == "real":
        return real_interval(sums, LEVEL)
    if model == "count":
        return count_interval(sums, LEVEL)
    try:
        low, high = interval(posteriors(model, [sums])[0], LEVEL)
    except ValueError:
        # The metric had another type when these values were reported.
        return None
    return (low, high) if isfinite(low) and isfinite(high) else None


def standings(
    plan: Plan,
    variants: Sequence[str],
    declared: Mapping[str, MetricConfig],
    sums: Mapping[tuple[str, str], RewardSums],
    discounted: Mapping[tuple[str, str], Discounted],
) -> Standings:
    """Return P(best) and expected loss of each variant that takes part."""
    if isinstance(plan, Canary) and plan.then is not None:
        plan = plan.then  # the bandit that follows the canary decides in the end
    if isinstance(plan, Contextual):
        # Each variant serves different requests, and which one is best depends on them.
        return Standings(plan.metric, plan.goal)
    try:
        if isinstance(plan, Bandit):
            return _of_bandit(plan, assess(plan, Learned(sums=sums, discounted=discounted)))
        return _by_first_metric(variants, declared, sums)
    except (ValueError, ArithmeticError):
        # Values of another type of metric, or posteriors too extreme to compare.
        return Standings()


def _of_bandit(plan: Bandit, known: Standing) -> Standings:
    several = len(plan.objectives) > 1
    return Standings(
        _written(plan.objectives),
        "maximize" if several else plan.objectives[0].goal,
        dict(zip(known.variants, known.probability_best, strict=True)),
        {name: max(0.0, loss) for name, loss in zip(known.variants, known.expected_loss, strict=True)},
    )


def _written(objectives: Sequence[Objective]) -> str:
    """ "clicks", or the weighted sum as a reader would write it."""
    if len(objectives) == 1:
        return objectives[0].metric
    parts = [
        f"{'−' if o.goal == 'minimize' else '+'} {'' if o.weight == 1 else f'{o.weight:g}·'}{o.metric}"
        for o in objectives
    ]
    return " ".join(parts).removeprefix("+ ")


def _by_first_metric(
    variants: Sequence[str], declared: Mapping[str, MetricConfig], sums: Mapping[tuple[str, str], RewardSums]
) -> Standings:
    for name, metric in declared.items():
        taking_part = [v for v in variants if sums.get((v, name), _NO_SUMS).count > 0]
        if len(taking_part) > 1:
            made = posteriors(metric.type, [sums[v, name] for v in taking_part])
            return _compared(name, metric.goal, taking_part, made)
    return Standings()


def _compared(metric: str, goal: Goal, variants: Sequence[str], made: Sequence[Posterior]) -> Standings:
    found = compare(made, goal)
    best = [float(p) for p in found.probability_best]
    loss = [max(0.0, float(x)) for x in found.expected_loss]
    return Standings(
        metric, goal, dict(zip(variants, best, strict=True)), dict(zip(variants, loss, strict=True))
    )
