"""The shapes of the control API's JSON answers: what /-/openapi.json says and the tests hold it to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from gateway.control.schemas.shared import (
    Count,
    Estimate,
    Failing,
    GatewayQuantiles,
    Interval,
    Lift,
    MetricShape,
    MetricStanding,
    Probability,
    QuantileIntervals,
    Quantiles,
    RewardEstimate,
    Shape,
    Step,
)


class FaultShape(Shape):
    line: int
    column: int
    path: str
    message: str
    hint: str


class ErrorDetail(Shape):
    code: Annotated[str, Field(description="Stable; what programs match on.", pattern=r"^[a-z][a-z0-9_]*$")]
    message: Annotated[str, Field(description="What happened, and what to do.")]
    request_id: str = ""
    faults: list[FaultShape] | None = Field(
        None, description="Of a refused configuration, each fault by itself."
    )


class ErrorAnswer(Shape):
    error: ErrorDetail


class Health(Shape):
    status: Literal["ok", "ready"]


class Rejected(Shape):
    index: Count
    code: str
    message: str


class FeedbackAnswer(Shape):
    """Given once everything that is accepted is durable."""

    accepted: Count
    duplicates: Count
    updated: Count
    rejected: list[Rejected]


class VariantReport(Shape):
    assigned: Count
    served: Count
    errors: Count
    fallbacks: Annotated[Count, Field(description="Assigned to this variant and answered by another.")]
    expected: Annotated[float, Field(ge=0, description="How many assignments the allocation called for.")]
    error_rate: Estimate
    latency_ms: Quantiles | None
    latency_interval_ms: QuantileIntervals | None
    gateway_ms: GatewayQuantiles | None
    rewards: dict[str, RewardEstimate]
    probability_best: Probability | None
    expected_loss: Annotated[float, Field(ge=0)] | None
    lift: Annotated[
        dict[str, Lift],
        Field(description="Against `compared_with`, by metric; error_rate, latency_p50 and latency_p99 too."),
    ]


class Verdict(BaseModel):
    metric: str
    verdict: Literal["pass", "fail", "inconclusive", "error"]


class StepTaken(BaseModel):
    """A step of a rollout, as it was taken."""

    time: float
    source: str = ""
    target: str = ""
    reason: str = ""
    actor: Annotated[str, Field(description="Whose command it was; empty: the rollout's own step.")] = ""
    evidence: Annotated[list[dict[str, Any]], Field(description="The verdicts as they stood.")] = []


class Rollout(BaseModel):
    state: Literal["running", "waiting", "paused", "halted", "promoted", "rolled_back"]
    phase: Annotated[
        Literal["shadow", "canary", "bandit"],
        Field(description="The gate, the stages, or what follows them."),
    ]
    stage: int | None = None
    weight: float | None = None
    verdicts: list[Verdict] = []
    decided: Annotated[StepTaken | None, Field(description="The last step.")] = None


class FeedbackTokenAnswer(Shape):
    token: Annotated[str, Field(description="Send it as 'authorization: Bearer …' to POST /-/feedback.")]
    expires: Annotated[int, Field(description="Seconds since the epoch.")]


class Needs(Shape):
    requests: Annotated[int | None, Field(description="About how many more requests a decision takes.")]
    minutes: Annotated[float | None, Field(description="The same in time, at the present rate.")]


class VerdictAnswer(Shape):
    verdict: Literal["pass", "fail", "inconclusive", "error"]
    reasons: list[str]
    needs: Needs


class Agreement(Shape):
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
        Field(description="failing: the last five attempts, or more, failed, though it may still be used."),
    ]
    failing: Failing | None = None


class Recent(Shape):
    """All variants together, over the last minutes."""

    seconds: float
    assigned: Count
    served: Count
    errors: Count
    fallbacks: Count
    error_rate: Estimate
    latency_ms: Quantiles | None
    gateway_ms: GatewayQuantiles | None


class RouteHead(Shape):
    route: str
    policy: Literal["single", "split", "shadow", "canary", "bandit"]
    epoch: Count
    revision: Count
    allocation: dict[str, Probability]
    shadows: dict[str, Probability] | None
    rollout: Rollout | None
    health: dict[str, list[AddressHealth]]
    as_of: Annotated[float, Field(description="Seconds since the epoch.")]


class RouteSummary(RouteHead):
    recent: Recent
    alarms: list[Alarm]
    metrics: dict[str, MetricShape]
    standings: dict[str, MetricStanding]
    agreement: dict[str, Agreement] | None
    stop: StopShape | None
    last_step: Annotated[Step | None, Field(description="What changed last, and why.")]


class StageShape(Shape):
    """Of a canary, as configured."""

    weight: Probability
    for_: Annotated[float, Field(alias="for", description="Seconds.")]
    min_samples: Count


class Coefficient(Shape):
    """What a column of the features adds to the metric's mean, from its middle to its end."""

    mean: float
    interval: Interval


class Contextual(Shape):
    """What a bandit with features has learned."""

    features: Annotated[list[str], Field(description="By their declared names.")]
    fingerprint: Annotated[
        str, Field(pattern="^[0-9a-f]{16}$", description="Of the declaration; another one begins anew.")
    ]
    draws: Count
    rewards: Annotated[dict[str, float], Field(description="By variant, those behind the coefficients.")]
    coefficients: Annotated[
        dict[str, dict[str, Coefficient]],
        Field(description="By variant and column; empty before any reward."),
    ]


class WinnersLead(Shape):
    """By how much a winner was better than the next best, in the unit of the metric (or the utility)."""

    over: str
    difference: Annotated[float, Field(description="As observed, which flatters whoever is named for it.")]
    shrunk: Annotated[float, Field(description="Towards 0, by what chance alone would show; expect this.")]
    interval: Annotated[list[float], Field(description="Always valid, at the level of the stop rule.")]


class StopShape(Shape):
    """Where the stop rule of a bandit stands."""

    state: Annotated[
        Literal["learning", "asking", "handed_over"],
        Field(description="asking: the rule names a winner, and a person decides."),
    ]
    winner: str | None
    since: float | None
    by: Annotated[str, Field(description="A person, `rule` or `guardrail`.")]
    probability_best: Annotated[Probability | None, Field(description="Of the winner, now.")]
    lead: Annotated[
        WinnersLead | None, Field(description="Over the next best, as it was when the winner was named.")
    ]
    command: Annotated[str | None, Field(description="What hands over to the winner, or takes that back.")]


class RouteReport(RouteHead):
    stop: StopShape | None
    baseline: str | None
    candidate: str | None
    stages: list[StageShape] | None
    recent: Recent
    since: Annotated[
        float | None, Field(description="From when the figures count; null: from the beginning.")
    ]
    metric: Annotated[str | None, Field(description="The metric of probability_best and expected_loss.")]
    goal: Literal["maximize", "minimize"] | None
    metrics: dict[str, MetricShape]
    uses: Annotated[
        list[str], Field(description="The metrics that the route's policy, guardrails or `feedback` name.")
    ]
    compared_with: Annotated[str, Field(description="The baseline of each `lift`.")]
    standings: Annotated[
        dict[str, MetricStanding], Field(description="By metric that two variants have values of.")
    ]
    variants: dict[str, VariantReport]
    contextual: Annotated[
        Contextual | None,
        Field(
            description="Of a bandit with features. Its `allocation` is the mean of the shares that the last "
            "requests would get, and no variant is best for all."
        ),
    ]
    agreement: dict[str, Agreement] | None
    shadow_counts: dict[str, dict[str, int]] | None
    alarms: list[Alarm]


class RefusedConfig(Shape):
    time: float
    author: str
    place: Annotated[str, Field(description="Source, line and column of the first fault.")]
    path: Annotated[str, Field(description="The key of the first fault.")]
    faults: Count


class ConfigState(Shape):
    revision: Count
    refused: Annotated[
        RefusedConfig | None,
        Field(description="The last configuration that came, if it was refused and another is in force."),
    ]


class RouteList(Shape):
    routes: list[RouteSummary]
    config: ConfigState


class RevisionAnswer(Shape):
    revision: Count
    time: float
    author: str
    origin: str
    etag: str


class HistoryEntry(RevisionAnswer):
    current: bool


class History(Shape):
    revisions: Annotated[list[HistoryEntry], Field(description="Newest first.")]


class OutcomeShape(Shape):
    decision: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    time: float
    route: str
    policy: str
    revision: Count
    epoch: Count
    unit: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    sticky: bool
    assigned: str
    served: str
    propensity: Probability
    forced: bool
    status: Count
    error: str
    fallback: bool
    attempts: Any
    gateway_ms: float
    backend_ms: float
    total_ms: float
    request_bytes: Count
    answer_bytes: Count
    request_id: str
    principal: str
    features: Any


class Outcomes(Shape):
    outcomes: Annotated[list[OutcomeShape], Field(description="Newest first.")]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last.")]


class RewardShape(Shape):
    metric: str
    value: Annotated[float | None, Field(description="null: retracted.")]
    time: float
    tags: Any


class ShadowedShape(Shape):
    time: float
    shadow: str
    primary: str
    status: Count
    error: str
    latency_ms: float
    primary_ms: float
    agrees: bool | None
    difference: float | None
    detail: Any


class DecisionAnswer(Shape):
    decision: str
    time: float
    route: str
    sealed: Annotated[dict[str, Any] | None, Field(description="What the decision id itself says.")]
    outcome: OutcomeShape | None
    rewards: list[RewardShape]
    shadows: list[ShadowedShape]


class EventShape(Shape):
    """The ``data`` of a server-sent event."""

    id: Count
    time: float
    kind: str
    route: str
    data: Any


class EventList(Shape):
    events: Annotated[list[EventShape], Field(description="Oldest first.")]


class Session(Shape):
    """Who is logged in to the dashboard, and what they may do."""

    id: str
    auth: Annotated[bool, Field(description="Whether this gateway asks for keys at all.")]
    routes: Annotated[list[str] | None, Field(description="null: every route.")]
    scopes: list[str]
    csrf: Annotated[str, Field(description="For x-turnout-csrf; empty without a cookie.")]
    steer_until: Annotated[float | None, Field(description="null: this login only looks.")]
