"""What several answers of the control API are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Interval = Annotated[
    tuple[float, float], Field(description="The 95 % credible interval: lower and upper end.")
]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Quantiles(Shape):
    """Milliseconds, within 1 %."""

    p50: float
    p95: float
    p99: float


class QuantileIntervals(Shape):
    """95 % intervals of the quantiles; the upper end null while there are too few responses to tell."""

    p50: tuple[float, float | None]
    p95: tuple[float, float | None]
    p99: tuple[float, float | None]


class GatewayQuantiles(Shape):
    """Milliseconds inside the gateway, within 1 %."""

    p50: float
    p99: float


class Estimate(Shape):
    """A mean with its uncertainty; both null without data."""

    count: Annotated[float, Field(ge=0)]
    mean: float | None
    interval: Interval | None


class RewardEstimate(Estimate):
    """``count`` is of values; mean and interval are of the independent observations among them."""

    observations: Annotated[
        float, Field(ge=0, description="A sticky unit's values are one observation: their mean.")
    ]
    missing: Annotated[
        float, Field(ge=0, description="How many of `count` were not reported and count as zero.")
    ]
    waiting: Annotated[
        float,
        Field(
            ge=0, description="Reported, but with `missing: zero` no value counts before its window is over."
        ),
    ]


class Difference(Shape):
    """One variant against another, in intervals that hold at all times with probability 0.95: together for all
    pairs of variants of one metric."""

    absolute: Annotated[float, Field(description="The variant's mean less the baseline's.")]
    interval: Annotated[
        tuple[float | None, float | None] | None,
        Field(description="Of `absolute`; null: nothing is excluded yet, on that side or at all."),
    ]
    relative: Annotated[
        float | None, Field(description="0.05: five percent more; null: the baseline's mean is 0.")
    ]
    relative_interval: tuple[float | None, float | None] | None
    always_valid: bool
    better: Annotated[
        bool | None,
        Field(description="Shown to be better, or worse, under the metric's goal; null: undecided."),
    ]


class Lift(Difference):
    baseline: str


class MetricStanding(Shape):
    """Which variant has the best and which the worst mean of a metric, and whether that is shown."""

    leader: str
    leads: Annotated[bool, Field(description="Shown to be better than each other variant.")]
    last: str
    trails: Annotated[bool, Field(description="Shown to be worse than each other variant.")]
    against: Annotated[str, Field(description="The second best.")]
    difference: Annotated[Difference, Field(description="Of the leader against the second best.")]


class Failing(Shape):
    """A run of failed attempts."""

    attempts: Count
    error: Annotated[str, Field(description="The code of the last failed attempt.")]
    since: Annotated[float, Field(description="Seconds since the epoch.")]


class MetricShape(Shape):
    type: Literal["boolean", "fraction", "real", "count"]
    goal: Literal["maximize", "minimize"]
    missing: Literal["ignore", "zero"]
    window: Annotated[float, Field(description="Seconds.")]
    description: str


class Step(Shape):
    """A step of a route: of its rollout, its winner or its guardrails, an alarm or a note."""

    id: Count
    time: float
    kind: Literal["rollout", "steered", "winner", "guardrail", "alarm", "alarm_over", "note"]
    data: Any
