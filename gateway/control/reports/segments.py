"""What a bandit with features predicts for each variant, by segment of the requests, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.contextual.bandit import Contextual
from policies.contextual.regression import LinearSums, fit, total
from policies.contextual.segments import Predicted, segments

Json = dict[str, Any]


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
