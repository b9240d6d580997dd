"""The health of the process."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.control.schemas.base import ApiModel


class HealthResponse(ApiModel):
    status: Literal["ok"]


class StoreOutage(ApiModel):
    since: Annotated[
        float, Field(description="When the store became unavailable, in seconds since the epoch.")
    ]
    state_time: Annotated[
        float | None,
        Field(
            description="When the last state was written that the gateway started from, in seconds since the epoch; "
            "null if it has read the store since its start."
        ),
    ]
    message: str


class ReadyResponse(ApiModel):
    status: Literal["ready"]
    store_outage: Annotated[StoreOutage | None, Field(description="Null while the store is available.")]
