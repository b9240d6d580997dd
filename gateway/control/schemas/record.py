"""The record: outcomes and decisions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from gateway.control.schemas.base import ApiModel, Count, Cursor, DecisionHex, Probability
from gateway.control.timestamps import Timestamp


class OutcomeQuery(ApiModel):
    route: str | None = None
    variant: Annotated[str | None, Field(description="The variant that was assigned, or that served.")] = None
    status: Annotated[int | None, Field(ge=100, le=599)] = None
    errors: Annotated[bool, Field(description="Only those where the assigned variant failed.")] = False
    since: Timestamp | None = None
    until: Timestamp | None = None
    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


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


class OutcomesResponse(ApiModel):
    outcomes: Annotated[list[OutcomeModel], Field(description="Newest first.")]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last.")]


class RewardModel(ApiModel):
    metric: str
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
    detail: Any


class DecisionResponse(ApiModel):
    decision: str
    time: float
    route: str
    sealed: Annotated[dict[str, Any] | None, Field(description="The content of the decision id.")]
    outcome: OutcomeModel | None
    rewards: list[RewardModel]
    shadows: list[ShadowResultModel]
