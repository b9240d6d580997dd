"""Fleets of other proxies and their nodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.control.schemas.base import ApiModel


class NodeModel(ApiModel):
    node: str
    state: Annotated[
        Literal["accepted", "behind", "refused", "silent"],
        Field(description="behind: it has not taken the newest routes yet."),
    ]
    seen: Annotated[float, Field(description="Its last poll, in seconds since the epoch.")]
    epochs: Annotated[dict[str, int], Field(description="By route: the epoch that it has accepted.")]
    behind: Annotated[list[str], Field(description="Routes that it serves by an older epoch.")]
    refused: Annotated[
        str, Field(description="Why it refused the newest configuration; empty if it did not.")
    ]
    rows: Annotated[int, Field(description="Outcomes that this process received from it.")]
    delivered: Annotated[int, Field(description="Rows that it delivered since its start, as it counts them.")]
    lost: Annotated[int, Field(description="Rows that it lost since its start, as it counts them.")]
    clock_skew: Annotated[
        float | None,
        Field(
            description="Seconds by which its clock is ahead (negative: behind), if rows were refused for that in the "
            "last five minutes."
        ),
    ]


class EngineModel(ApiModel):
    engine: str
    type: str
    ids: str
    routes: list[str]
    copies: Annotated[
        dict[str, str],
        Field(
            description="By route with `mirror`: the route of this gateway whose conditions are the same, which copies "
            "reach if they are sent to it."
        ),
    ]
    epochs: Annotated[dict[str, int], Field(description="By route: the newest epoch.")]
    lost_share: Annotated[
        float | None,
        Field(description="Part of the rows of the last five minutes that nodes lost; null without rows."),
    ]
    nodes: list[NodeModel]


class EnginesResponse(ApiModel):
    engines: list[EngineModel]


class CountersResponse(ApiModel):
    delivered: Annotated[int, Field(description="Rows that the node delivered since its start, as received.")]
    lost: Annotated[int, Field(description="Rows that it lost since its start, as received.")]


class RowsResponse(ApiModel):
    accepted: int
    rejected: Annotated[
        int,
        Field(description="Rows with a forged decision id, of another engine's route, or of a wrong time."),
    ]
