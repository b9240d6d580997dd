"""The configuration, its check and its history."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.control.schemas.base import ApiBody, ApiModel, Count, Ordinal, Probability
from gateway.control.schemas.errors import FaultModel
from gateway.control.schemas.rollout import ONE_LINE

Reason = Annotated[
    str,
    Field(
        max_length=200,
        pattern=ONE_LINE,
        description="One line; kept at the end of the revision's `origin`, after a colon.",
    ),
]


class EditQuery(ApiModel):
    reason: Reason = ""


class ConfigQuery(ApiModel):
    revision: Annotated[Ordinal | None, Field(description="Return the text of this earlier revision.")] = None


class HistoryQuery(ApiModel):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class DifferenceQuery(ApiModel):
    from_: Annotated[Ordinal, Field(alias="from", description="A revision.")]
    to: Annotated[Ordinal, Field(description="Another revision.")]


class RestoreRequest(ApiBody):
    revision: Annotated[int, Field(ge=0, lt=1 << 63)]
    reason: Reason = ""


class ConfigCheckRequest(ApiBody):
    text: Annotated[str, Field(description="The YAML text.")]


class ShareChange(ApiModel):
    before: Annotated[dict[str, Probability], Field(description="By variant, now; empty for a new route.")]
    after: Annotated[dict[str, Probability], Field(description="By variant, once the text is in force.")]


class ConfigCheckResponse(ApiModel):
    """What a configuration would change; nothing of it is in force."""

    faults: Annotated[list[FaultModel], Field(description="Empty: it would be accepted.")]
    changes: Annotated[list[str], Field(description="Changes to the text in force, in words.")]
    shares: Annotated[
        dict[str, ShareChange],
        Field(description="By route whose shares would change. A bandit's follow from its rewards so far."),
    ]
    difference: Annotated[str, Field(description="Changes to the text in force, as a unified difference.")]


class DifferenceResponse(ApiModel):
    difference: Annotated[str, Field(description="A unified difference; empty if the texts are equal.")]


class RevisionResponse(ApiModel):
    revision: Count
    time: float
    author: str
    origin: str
    etag: str


class RevisionEntry(RevisionResponse):
    current: bool
    kept: Annotated[bool, Field(description="Its text is kept: it can be read, compared and restored.")]


class RevisionsResponse(ApiModel):
    revisions: Annotated[list[RevisionEntry], Field(description="Newest first.")]


class RefusedConfig(ApiModel):
    time: float
    author: str
    place: Annotated[str, Field(description="Source, line and column of the first fault.")]
    path: Annotated[str, Field(description="The key of the first fault.")]
    faults: Count


class ConfigState(ApiModel):
    revision: Count
    refused: Annotated[
        RefusedConfig | None,
        Field(description="The latest configuration, if it was refused and another one is in force."),
    ]
