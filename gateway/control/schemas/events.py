"""Events."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from gateway.control.schemas.base import ApiModel, Count, Ordinal

Allocations = Annotated[
    bool, Field(description="false: without those of kind `allocation`; a bandit adds one each second.")
]


class EventQuery(ApiModel):
    after: Annotated[
        Ordinal | None, Field(description="Events with a higher id; Last-Event-ID takes precedence.")
    ] = None
    route: str | None = None
    kind: str | None = None
    allocations: Allocations = True
    view: Annotated[
        str | None,
        Field(
            pattern="^(routes|route:.+)$",
            description="`routes` or `route:NAME`: also stream the list or the report, then its changes.",
        ),
    ] = None


class RecentQuery(ApiModel):
    route: str | None = None
    kind: str | None = None
    allocations: Allocations = True
    limit: Annotated[int, Field(ge=1, le=1000)] = 50


class EventModel(ApiModel):
    """The ``data`` of a server-sent event."""

    id: Count
    time: float
    kind: str
    route: str
    data: Any


class EventsResponse(ApiModel):
    events: Annotated[list[EventModel], Field(description="Oldest first.")]
