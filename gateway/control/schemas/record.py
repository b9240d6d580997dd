"""The record: outcomes and decisions."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from gateway.control.schemas.base import ApiModel, Count, Cursor, DecisionHex, Probability
from gateway.control.timestamps import Timestamp

MAX_OUTCOMES: Final = 1000
"""Maximum number of outcomes in a page."""
MAX_FILE_OUTCOMES: Final = 100_000
"""Maximum number of outcomes in a CSV file; ``turnout export`` has no limit."""


class OutcomeFilters(ApiModel):
    route: str | None = None
    variant: Annotated[str | None, Field(description="The variant that was assigned, or that served.")] = None
    status: Annotated[int | None, Field(ge=100, le=599)] = None
    errors: Annotated[bool, Field(description="Only those where the assigned variant failed.")] = False
    error: Annotated[str | None, Field(description="The error of the assigned variant.")] = None
    fallback: Annotated[bool | None, Field(description="Whether a fallback served.")] = None
    forced: Annotated[
        bool | None,
        Field(description="Whether the client selected the variant, or its propensity is unknown."),
    ] = None
    min_ms: Annotated[float | None, Field(ge=0, description="The least `total_ms`.")] = None
    unit: Annotated[str | None, Field(pattern="^[0-9a-f]{16}$", description="As in an outcome.")] = None
    request_id: str | None = None
    principal: Annotated[str | None, Field(description="The id of the key.")] = None
    since: Timestamp | None = None
    until: Timestamp | None = None


class OutcomeQuery(OutcomeFilters):
    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_OUTCOMES)] = 100


class OutcomeFileQuery(OutcomeFilters):
    limit: Annotated[int, Field(ge=1, le=MAX_FILE_OUTCOMES)] = 10_000


class OutcomeModel(ApiModel):
    decision: DecisionHex
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
    backend_request_id: str


class OutcomesResponse(ApiModel):
    outcomes: Annotated[list[OutcomeModel], Field(description="Newest first.")]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last.")]


class RewardModel(ApiModel):
    metric: str
    type: Annotated[str | None, Field(description="That of the metric; null if it is no longer declared.")]
    value: Annotated[float | None, Field(description="null: retracted.")]
    time: float
    tags: Any


class ShadowResultModel(ApiModel):
    time: float
    shadow: str
    primary: str
    status: Count
    error: str
    latency_ms: float
    primary_ms: float
    agrees: bool | None
    difference: float | None
    detail: Annotated[
        Any,
        Field(description="The first differences; why the responses were not compared, as text; or null."),
    ]


class DrawModel(ApiModel):
    shares: Annotated[dict[str, Probability], Field(description="Of the variants, in the decision's epoch.")]
    since: Annotated[float, Field(description="When the epoch began.")]
    reason: Annotated[str, Field(description="Why the shares changed then.")]
    phase: Annotated[str | None, Field(description="Of a rollout, as in the report of the route.")]
    stage: Annotated[int | None, Field(description="Of a rollout, from 0; -1 in the gate.")]
    state: Annotated[str | None, Field(description="Of a rollout when the epoch began, as in the report.")]
    point: Annotated[
        float | None,
        Field(ge=0, lt=1, description="Where the unit lies in [0, 1); null if that is not known."),
    ]
    range: Annotated[
        list[float] | None, Field(description="The part of [0, 1) around it that the variant has.")
    ]


class DecisionResponse(ApiModel):
    decision: str
    time: float
    route: str
    sealed: Annotated[dict[str, Any] | None, Field(description="The content of the decision id.")]
    outcome: OutcomeModel | None
    rewards: list[RewardModel]
    open_until: Annotated[
        dict[str, float],
        Field(
            description="By metric of the route: until when a reward is accepted, in seconds since the epoch."
        ),
    ]
    shadows: list[ShadowResultModel]
    draw: Annotated[
        DrawModel | None,
        Field(
            description="How the variant was drawn. null if the client chose it, if the allocation is no longer "
            "kept, or if the shares depend on the request."
        ),
    ]
