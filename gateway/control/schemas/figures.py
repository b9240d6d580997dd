"""Estimates, quantiles and comparisons: what the reports of routes consist of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.control.schemas.base import ApiModel, Count, Interval
from policies.types import MetricType


class Quantiles(ApiModel):
    """Milliseconds, within 1 %."""

    p50: float
    p95: float
    p99: float


class QuantileIntervals(ApiModel):
    """95 % intervals of the quantiles; the upper end is null while there are too few responses."""

    p50: tuple[float, float | None]
    p95: tuple[float, float | None]
    p99: tuple[float, float | None]


class GatewayQuantiles(ApiModel):
    """Milliseconds inside the gateway, within 1 %."""

    p50: float
    p99: float


class Estimate(ApiModel):
    """A mean with its uncertainty; both null without data."""

    count: Annotated[float, Field(ge=0)]
    mean: float | None
    interval: Interval | None


class RewardEstimate(Estimate):
    """``count`` counts values; mean and interval use the independent observations among them."""

    observations: Annotated[
        float, Field(ge=0, description="The values of a sticky unit are one observation: their mean.")
    ]
    missing: Annotated[
        float, Field(ge=0, description="The part of `count` that was not reported and counts as zero.")
    ]
    waiting: Annotated[
        float,
        Field(
            ge=0,
            description="Not counted yet: with `missing: zero` a value counts at the end of its window.",
        ),
    ]


AdjustedBy = Annotated[
    Literal["past", "covariate"] | None,
    Field(
        description="By `metrics.NAME.adjust`: past: each unit's values from before; covariate: a number of each "
        "request; null: not adjusted."
    ),
]


class Difference(ApiModel):
    """One variant against another. The intervals hold at all times, together for all pairs of variants of one metric,
    with probability 0.95."""

    absolute: Annotated[
        float | None,
        Field(
            description="The variant's mean minus the baseline's; null: never both drawn at the same time."
        ),
    ]
    interval: Annotated[
        tuple[float | None, float | None] | None,
        Field(description="Of `absolute`; null: no value is excluded yet, on that side or at all."),
    ]
    relative: Annotated[
        float | None,
        Field(description="0.05: five percent more; null if the baseline's mean is 0, or all but that."),
    ]
    relative_interval: tuple[float | None, float | None] | None
    always_valid: bool
    better: Annotated[
        bool | None,
        Field(description="Shown to be better or worse, by the metric's goal; null: undecided."),
    ]
    method: Annotated[
        Literal["pooled", "weighted", "matched"],
        Field(
            description="pooled: both shares were constant; weighted: by the propensities of its moment, for "
            "shares moved; matched: equal numbers of both at the same times, for shares moved."
        ),
    ]
    unit: Annotated[
        Literal["requests", "units"], Field(description="One observation: a request, or a sticky unit.")
    ]
    adjusted_by: AdjustedBy


class Lift(Difference):
    baseline: str


class MetricStanding(ApiModel):
    """The variants with the best and the worst mean of a metric, and whether that is shown."""

    leader: str
    leads: Annotated[bool, Field(description="Shown to be better than each other variant.")]
    last: str
    trails: Annotated[bool, Field(description="Shown to be worse than each other variant.")]
    against: Annotated[str, Field(description="The second best.")]
    difference: Annotated[Difference, Field(description="Of the leader against the second best.")]


class Failing(ApiModel):
    """A run of failed attempts."""

    attempts: Count
    error: Annotated[str, Field(description="The code of the last failed attempt.")]
    since: Annotated[float, Field(description="Seconds since the epoch.")]


class MetricModel(ApiModel):
    type: MetricType
    goal: Literal["maximize", "minimize"]
    missing: Literal["ignore", "zero"]
    window: Annotated[float, Field(description="Seconds.")]
    description: str


class ServedReport(ApiModel):
    """Requests of a variant."""

    assigned: Count
    served: Count
    errors: Count
    error_rate: Estimate
    client_errors: Annotated[
        Count,
        Field(description="Responses of the variant that are charged to the client, such as 404 and 422."),
    ]
    client_error_rate: Estimate
    latency_ms: Quantiles | None
    latency_interval_ms: QuantileIntervals | None
