"""Rewards and feedback tokens."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, RootModel

from gateway.control.schemas.base import ApiBody, ApiModel, Count

Number = Annotated[float, Field(allow_inf_nan=False)]
Tag = str | int | float | bool


class FeedbackItem(ApiModel):
    decision_id: Annotated[str, Field(description="The value of x-decision-id.")]
    metric: str
    value: Annotated[bool | Number | None, Field(description="null retracts what was reported before.")]
    tags: dict[str, Tag] | None = None


class FeedbackByRequest(ApiModel):
    """For clients that hide response headers; needs ``record: {request_ids: true}``."""

    route: str
    request_id: Annotated[str, Field(description="The x-request-id that the client sent or received.")]
    metric: str
    value: bool | Number | None
    tags: dict[str, Tag] | None = None


class FeedbackItems(ApiModel):
    items: list[FeedbackItem | FeedbackByRequest]


class FeedbackRequest(RootModel[FeedbackItem | FeedbackByRequest | FeedbackItems]):
    """One reward, or many under ``items``."""


class RejectedReward(ApiModel):
    index: Count
    code: str
    message: str


class FeedbackResponse(ApiModel):
    """Sent once everything that is accepted is durable."""

    accepted: Count
    duplicates: Count
    updated: Count
    rejected: list[RejectedReward]


class FeedbackTokenRequest(ApiBody):
    ttl: Annotated[int, Field(ge=1, le=86_400, description="The token is valid for this many seconds.")] = (
        3600
    )
    routes: Annotated[
        list[str] | None, Field(min_length=1, description="Only these routes; absent: those of the key.")
    ] = None


class FeedbackTokenResponse(ApiModel):
    token: Annotated[str, Field(description="Send it as 'authorization: Bearer …' to POST /-/feedback.")]
    expires: Annotated[int, Field(description="Seconds since the epoch.")]
