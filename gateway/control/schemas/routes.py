"""Routes: the list and the report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gateway.control.schemas.base import ApiModel, Count, Interval, Ordinal, Probability
from gateway.control.schemas.config import ConfigState
from gateway.control.schemas.figures import (
    Estimate,
    Failing,
    GatewayQuantiles,
    Lift,
    MetricModel,
    MetricStanding,
    Quantiles,
    RewardEstimate,
    ServedReport,
)
from gateway.control.schemas.history import Step
from gateway.control.schemas.rollout import RolloutResponse, StopRuleModel, VariantVerdict
from gateway.control.timestamps import Timestamp


class RouteQuery(ApiModel):
    since: Annotated[Timestamp | None, Field(description="Count only decisions made after this time.")] = None
    epoch: Annotated[Ordinal | None, Field(description="Count only decisions of this epoch.")] = None
    baseline: Annotated[
        str | None,
        Field(description="The variant to compare the others with; default: the policy's baseline."),
    ] = None


class VariantReport(ServedReport):
    fallbacks: Annotated[Count, Field(description="Assigned to this variant and served by another.")]
    expected: Annotated[
        float, Field(ge=0, description="The number of assignments that the allocation implies.")
    ]
    gateway_ms: GatewayQuantiles | None
    rewards: dict[str, RewardEstimate]
    probability_best: Probability | None
    expected_loss: Annotated[float, Field(ge=0)] | None
    lift: Annotated[
        dict[str, Lift],
        Field(
            description=(
                "Against `compared_with`, by metric; error_rate, client_error_rate, latency_p50 and latency_p99 too."
            )
        ),
    ]


class Agreement(ApiModel):
    answers: Count
    compared: Count
    rate: Probability | None
    interval: Interval | None


class Alarm(BaseModel):
    code: str
    message: str
    since: Annotated[float | None, Field(description="When it was raised.")] = None


class AddressHealth(BaseModel):
    address: str
    state: Annotated[
        Literal["healthy", "unhealthy", "ejected", "failing", "stalled"],
        Field(description="failing: the last five or more attempts failed, though it may still be used."),
    ]
    failing: Failing | None = None
    responded: Annotated[
        bool,
        Field(description="Whether a request has had a response from it, or a probe a good one."),
    ]


class RecentFigures(ApiModel):
    """All variants together, over the last minutes."""

    seconds: Annotated[
        float,
        Field(description="Five minutes; of a route that began later, the time since its first decision."),
    ]
    assigned: Count
    served: Count
    errors: Count
    fallbacks: Count
    error_rate: Estimate
    latency_ms: Quantiles | None
    gateway_ms: GatewayQuantiles | None


class RouteHead(ApiModel):
    route: str
    policy: Literal["single", "split", "shadow", "canary", "bandit"]
    unit: Annotated[
        Literal["requests", "units"],
        Field(description="What is assigned; a unit keeps its variant while the shares stay."),
    ]
    epoch: Count
    revision: Count
    allocation: dict[str, Probability]
    shadows: dict[str, Probability] | None
    rollout: RolloutResponse | None
    health: dict[str, list[AddressHealth]]
    as_of: Annotated[float, Field(description="Seconds since the epoch.")]


class Trend(ApiModel):
    """Requests in equal steps of time, up to the last whole one."""

    since: Annotated[float, Field(description="Start of the first step.")]
    step: Annotated[float, Field(description="Seconds.")]
    expected: Annotated[
        dict[str, list[Annotated[float, Field(ge=0)]]],
        Field(description="By variant, the assignments that the allocation implies, oldest first."),
    ]


Held = Annotated[
    str | None,
    Field(
        description="Of a bandit: the alarm (or early evidence) for which it ejects nothing or names no winner, "
        "until the action `resume`."
    ),
]


FirstDecision = Annotated[
    float | None,
    Field(description="Start of the ten seconds (before the last hours, the hour) of the first that counts."),
]


class RouteSummary(RouteHead):
    recent: RecentFigures
    alarms: list[Alarm]
    metrics: dict[str, MetricModel]
    standings: Annotated[
        dict[str, MetricStanding] | None,
        Field(description="Null until it is computed; `agreement` and `trend` are then without data too."),
    ]
    agreement: dict[str, Agreement] | None
    stop: StopRuleModel | None
    held: Held
    features: Annotated[
        list[str] | None, Field(description="The features that a bandit decides by; null for others.")
    ]
    trend: Annotated[Trend, Field(description="The last hour.")]
    first_decision: FirstDecision
    last_step: Annotated[Step | None, Field(description="The last change, with its reason.")]


class StageModel(ApiModel):
    """A stage of a canary, as configured."""

    weight: Probability
    for_: Annotated[float, Field(alias="for", description="Seconds.")]
    min_samples: Count
    confirm: Annotated[bool, Field(description="Whether a person confirms before it starts.")]


class Coefficient(ApiModel):
    """What a column of the features adds to the metric's mean, from its middle to its end."""

    mean: float
    interval: Interval


class PredictedDifference(ApiModel):
    absolute: float
    interval: Interval


class SegmentModel(ApiModel):
    """What is predicted for requests that have something in common."""

    feature: Annotated[str, Field(description='"": all requests.')]
    value: Annotated[
        str, Field(description="A value of a category, any other, missing, or a point of a number.")
    ]
    rewards: Annotated[float | None, Field(description="Of its requests; null for a point of a number.")]
    means: Annotated[
        dict[str, Coefficient],
        Field(description="By variant, the predicted mean over these requests, with its credible interval."),
    ]
    differences: Annotated[
        dict[str, PredictedDifference],
        Field(description="From `compared_with`, by variant, with its credible interval."),
    ]


class ContextualModel(ApiModel):
    """What a bandit with features has learned."""

    features: Annotated[list[str], Field(description="The names of the declared features.")]
    fingerprint: Annotated[
        str,
        Field(
            pattern="^[0-9a-f]{16}$", description="Of the declaration; a changed one starts learning again."
        ),
    ]
    draws: Count
    rewards: Annotated[dict[str, float], Field(description="By variant, those behind the coefficients.")]
    coefficients: Annotated[
        dict[str, dict[str, Coefficient]],
        Field(description="By variant and column; empty before any reward."),
    ]
    segments: Annotated[
        list[SegmentModel],
        Field(description="All requests first, then by declared feature; empty before any reward."),
    ]


class RouteReport(RouteHead):
    example: Annotated[
        str,
        Field(
            description="A shell command whose request the route matches; ADDRESS: the gateway's, NODE: its engine's."
        ),
    ]
    stop: StopRuleModel | None
    held: Held
    baseline: str | None
    candidate: str | None
    stages: list[StageModel] | None
    recent: RecentFigures
    since: Annotated[
        float | None, Field(description="The figures count from here; null: from the beginning.")
    ]
    first_decision: FirstDecision
    metric: Annotated[str | None, Field(description="The metric of probability_best and expected_loss.")]
    goal: Literal["maximize", "minimize"] | None
    metrics: dict[str, MetricModel]
    uses: Annotated[
        list[str], Field(description="The metrics that the route's policy, guardrails or `feedback` name.")
    ]
    segments: Annotated[
        list[str], Field(description="The features by whose values the variants are compared too.")
    ]
    guardrails: Annotated[
        list[VariantVerdict] | None,
        Field(
            description="Of a bandit with guardrails: what they said last, of ejected variants before they were "
            "ejected. A canary's are in `rollout`."
        ),
    ]
    compared_with: Annotated[str, Field(description="The baseline of each `lift`.")]
    standings: Annotated[
        dict[str, MetricStanding], Field(description="By metric for which two variants have values.")
    ]
    variants: dict[str, VariantReport]
    contextual: Annotated[
        ContextualModel | None,
        Field(
            description="Of a bandit with features. Its `allocation` is the mean of the shares that the last "
            "requests would get; no variant is best for all requests."
        ),
    ]
    agreement: dict[str, Agreement] | None
    shadow_counts: dict[str, dict[str, int]] | None
    alarms: list[Alarm]


class RouteListResponse(ApiModel):
    routes: list[RouteSummary]
    config: ConfigState
    alarms: Annotated[
        list[Alarm],
        Field(
            description="Those that concern no single route; empty for keys that are limited to some routes."
        ),
    ]
