"""The variants by segment of the requests, as JSON: compared by it, and predicted by a bandit with features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.compile.plans import segment_features
from gateway.config.route import RouteConfig
from gateway.config.service import MetricConfig
from gateway.control.reports.estimates import reward_estimate
from gateway.control.reports.lift import Comparisons
from gateway.control.reports.observed import Observed, of_newest
from gateway.control.reports.served import served
from gateway.ingest.evidence import Rewarded
from gateway.ingest.segments import Segment
from gateway.state.base import Counts
from policies.contextual.bandit import Contextual
from policies.contextual.regression import LinearSums, fit, total
from policies.contextual.segments import Predicted, segments
from policies.types import RewardSums

Json = dict[str, Any]


_NO_REWARDS = Rewarded()
_NO_REQUESTS = Counts(), RewardSums()


def segment_ids(route: RouteConfig) -> list[bytes]:
    """Return the ids of the route's segments."""
    return [one for feature in segment_features(route) for one in feature.segments.values()]


def compared_by_segment(
    route: RouteConfig,
    declared: Mapping[str, MetricConfig],
    found: Sequence[Segment],
    latest: Sequence[Mapping[str, tuple[Counts, RewardSums]]],
    baseline: str,
    *,
    by_epoch: bool,
) -> list[Json]:
    """Return what was ``found`` in each of `segment_ids`; all intervals of a metric hold together.

    ``latest``: by segment and variant, the newest requests.
    ``by_epoch``: whether units count once in each epoch, and the newest is compared.
    """
    metrics = {name: metric for name, metric in declared.items() if metric.missing == "ignore"}
    variants = tuple(route.variants)
    names = [(f.name, value) for f in segment_features(route) for value in f.segments]
    made = []
    for (feature, value), segment, counts in zip(names, found, latest, strict=True):
        sticky = route.unit is not None
        observed = Observed(rewards=segment.rewards, buckets=segment.buckets, sticky=sticky)
        if sticky and by_epoch:
            observed = of_newest(segment.buckets)
        compared = Comparisons(variants, metrics, observed, parts=len(names))
        of_variant = {
            v: _of_variant(v, metrics, segment, compared, baseline)
            | {"latest": served(*counts.get(v, _NO_REQUESTS))}
            for v in variants
        }
        made.append({"feature": feature, "value": value, "variants": of_variant})
    return made


def _of_variant(
    variant: str, metrics: Mapping[str, MetricConfig], segment: Segment, compared: Comparisons, baseline: str
) -> Json:
    lifts = {name: compared.of_metric(name, variant, baseline) for name in metrics}
    return {
        "rewards": {
            name: reward_estimate(m, segment.rewards.get((variant, name), _NO_REWARDS))
            for name, m in metrics.items()
        },
        "lift": {name: one for name, one in lifts.items() if one is not None},
    }


def segmented(plan: Contextual, rows: Mapping[str, LinearSums], baseline: str) -> list[Json]:
    """Return the segments with the predicted mean of each variant and its difference from ``baseline``'s."""
    empty = LinearSums.empty(plan.width)
    sums = [rows.get(variant, empty) for variant in plan.variants]
    fitted = dict(zip(plan.variants, fit(sums, plan.strength), strict=True))
    return [
        {
            "feature": segment.feature,
            "value": segment.value,
            "rewards": segment.rewards,
            "means": {variant: _shown("mean", segment.predict(one)) for variant, one in fitted.items()},
            "differences": {
                variant: _shown("absolute", segment.difference(one, fitted[baseline]))
                for variant, one in fitted.items()
                if variant != baseline and baseline in fitted
            },
        }
        for segment in segments(plan.features, total(sums, plan.width).xx)
    ]


def _shown(name: str, predicted: Predicted) -> Json:
    value, interval = predicted
    return {name: value, "interval": list(interval)}
