"""The shapes of the answers that a person looks into: series, steps, disagreements, distributions, differences."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.control.schemas.responses import FaultShape
from gateway.control.schemas.shared import (
    Count,
    Estimate,
    GatewayQuantiles,
    Probability,
    QuantileIntervals,
    Quantiles,
    RewardEstimate,
    Shape,
)


class HistoryStep(Shape):
    id: Annotated[Count, Field(description="Of the event; of `config`, the revision.")]
    time: float
    kind: Literal["rollout", "steered", "winner", "guardrail", "alarm", "alarm_over", "note", "config"]
    data: Any


class Steps(Shape):
    route: str
    steps: Annotated[list[HistoryStep], Field(description="Newest first.")]


class Noted(Shape):
    id: Count
    time: float


class Side(Shape):
    where: str
    primary: Any
    shadow: Any


class Disagreement(Shape):
    decision: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    time: float
    shadow: str
    primary: str
    kind: str
    difference: Annotated[
        float | None, Field(description="The largest distance; null where none was measured.")
    ]
    latency_ms: float
    primary_ms: float
    sides: Annotated[list[Side], Field(description="The first differences.")]


class Disagreements(Shape):
    seen: Annotated[Count, Field(description="At most 2000.")]
    kinds: Annotated[list[tuple[str, Count]], Field(description="The most frequent first.")]
    disagreements: list[Disagreement]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last.")]


class Density(Shape):
    points: list[float]
    variants: Annotated[dict[str, list[float]], Field(description="The density at each point.")]


class Distributions(Shape):
    densities: Annotated[dict[str, Density], Field(description="By metric, of the posterior of the mean.")]
    quantiles: Annotated[
        dict[str, list[tuple[float, float | None]]],
        Field(description="By variant: quantile and milliseconds."),
    ]


class Compared(Shape):
    difference: Annotated[str, Field(description="A unified difference; empty where the texts are the same.")]


class Checked(Shape):
    """What would follow from a configuration; nothing of it is in force."""

    faults: Annotated[list[FaultShape], Field(description="Empty: it would be accepted.")]
    changes: Annotated[list[str], Field(description="Against the text in force, in words.")]
    difference: Annotated[str, Field(description="Against the text in force, as a unified difference.")]


class BucketVariant(Shape):
    assigned: Count
    served: Count
    errors: Count
    fallbacks: Count
    error_rate: Estimate
    share: Annotated[Probability | None, Field(description="Of the bucket's assignments; null without any.")]
    allocated: Annotated[
        Probability | None, Field(description="The mean share that the allocations called for.")
    ]
    latency_ms: Quantiles | None
    latency_interval_ms: QuantileIntervals | None
    gateway_ms: GatewayQuantiles | None
    rewards: dict[str, RewardEstimate]
    rolling: Annotated[
        dict[str, RewardEstimate], Field(description="Rewards over the `window` that ends here.")
    ]
    rolling_error_rate: Annotated[Estimate, Field(description="Errors over the `window` that ends here.")]
    to_date: Annotated[dict[str, RewardEstimate], Field(description="Rewards up to the end of this bucket.")]


class SeriesBucket(Shape):
    start: float
    epoch: Annotated[Count, Field(description="The last epoch that the bucket has decisions of.")]
    variants: dict[str, BucketVariant]


class AllocationStep(Shape):
    time: float
    epoch: Count
    allocation: dict[str, Probability]
    reason: str


class Series(Shape):
    route: str
    since: float
    until: float
    step: float
    window: Annotated[float, Field(description="Seconds that the rolling figures cover.")]
    buckets: list[SeriesBucket]
    allocations: Annotated[
        list[AllocationStep] | None,
        Field(description="Where asked for: the allocation in force at `since`, and each change after it."),
    ]
