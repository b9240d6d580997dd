"""A route over time."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import ConfigDict, Field

from gateway.control.schemas.base import ApiModel, Count, Probability
from gateway.control.schemas.figures import (
    Estimate,
    GatewayQuantiles,
    QuantileIntervals,
    Quantiles,
    RewardEstimate,
)
from gateway.control.timestamps import Timestamp

MAX_STEP_S: Final = 10 * 366 * 86_400.0


class SeriesQuery(ApiModel):
    since: Annotated[Timestamp | None, Field(description="Default: an hour before `until`.")] = None
    until: Annotated[Timestamp | None, Field(description="Default: now.")] = None
    last: Annotated[
        float | None,
        Field(gt=0, le=MAX_STEP_S, description="In place of `since`: this many seconds before `until`."),
    ] = None
    step: Annotated[
        float | None,
        Field(
            gt=0,
            le=MAX_STEP_S,
            description=(
                "Seconds of a bucket, rounded up to a multiple of 10, and of the length at which buckets as old as "
                "`since` are kept: a minute after two hours, an hour after two days, a day after 90 days. By default "
                "about 120 buckets result."
            ),
        ),
    ] = None
    after: Annotated[
        Timestamp | None, Field(description="Only buckets from this start on, to extend a known series.")
    ] = None
    fields: Annotated[
        str | None,
        Field(
            description=(
                "The figures of each variant, separated by commas, such as `assigned,latency_ms`; the others are left "
                "out, and not computed. Default: all."
            )
        ),
    ] = None
    allocations: Annotated[bool, Field(description="Whether to list each change of the allocation.")] = False


class BucketVariant(ApiModel):
    """With `fields`, only those."""

    model_config = ConfigDict(json_schema_extra={"required": []})

    assigned: Count
    served: Count
    errors: Count
    fallbacks: Count
    error_rate: Estimate
    client_errors: Count
    client_error_rate: Estimate
    share: Annotated[Probability | None, Field(description="Of the bucket's assignments; null without any.")]
    allocated: Annotated[Probability | None, Field(description="The mean share in the allocations.")]
    latency_ms: Quantiles | None
    latency_interval_ms: QuantileIntervals | None
    gateway_ms: GatewayQuantiles | None
    rewards: dict[str, RewardEstimate]
    rolling: Annotated[
        dict[str, RewardEstimate], Field(description="Rewards over the `window` that ends here.")
    ]
    rolling_error_rate: Annotated[Estimate, Field(description="Errors over the `window` that ends here.")]
    rolling_client_error_rate: Annotated[
        Estimate, Field(description="Client errors over the `window` that ends here.")
    ]
    to_date: Annotated[dict[str, RewardEstimate], Field(description="Rewards up to the end of this bucket.")]


class SeriesBucket(ApiModel):
    start: float
    epoch: Annotated[Count, Field(description="The latest epoch with decisions in the bucket.")]
    variants: dict[str, BucketVariant]


class AgreementBucket(ApiModel):
    start: float
    shadows: Annotated[dict[str, Estimate], Field(description="By shadow, over the `window` that ends here.")]


class AllocationStep(ApiModel):
    time: float
    epoch: Count
    allocation: dict[str, Probability]
    reason: str


class SeriesResponse(ApiModel):
    route: str
    since: float
    until: float
    step: float
    window: Annotated[float, Field(description="Seconds that the rolling figures cover.")]
    buckets: list[SeriesBucket]
    agreement: Annotated[
        list[AgreementBucket], Field(description="How often shadows agreed; empty without any.")
    ]
    allocations: Annotated[
        list[AllocationStep] | None,
        Field(description="If requested: the allocation in force at `since`, and each change after it."),
    ]
