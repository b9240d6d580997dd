"""Decisions without the proxy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from gateway.control.schemas.base import ApiBody, ApiModel, Probability

MAX_FEATURES = 1000
"""More than a policy can declare; a client's object of 100,000 held up other requests."""


class DecideRequest(ApiBody):
    route: str
    unit: Annotated[
        str | int | None,
        Field(
            description="The value that a proxied request would carry where the route's `unit` says; "
            "absent or empty: the request has no unit."
        ),
    ] = None
    features: Annotated[
        dict[str, str | int | float | bool | None],
        Field(
            max_length=MAX_FEATURES,
            description="By name, the features of a bandit, or `segments` and `covariates`; names that are not "
            "declared are ignored.",
        ),
    ] = Field(default_factory=dict)


class DecideResponse(ApiModel):
    decision_id: Annotated[str, Field(description="Report rewards with it.")]
    variant: str
    payload: Annotated[JsonValue, Field(description="The variant's `payload`; null if it has none.")]
    propensity: Annotated[
        Probability,
        Field(description="The probability with which the variant was drawn; 1 if it was forced."),
    ]
    epoch: int
