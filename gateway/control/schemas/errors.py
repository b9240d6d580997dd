"""The one error shape."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.control.schemas.base import ApiModel


class FaultModel(ApiModel):
    """One fault of a configuration."""

    line: int
    column: int
    path: str
    message: str
    hint: str


class ErrorDetail(ApiModel):
    code: Annotated[str, Field(description="Stable: match on this.", pattern=r"^[a-z][a-z0-9_]*$")]
    message: Annotated[str, Field(description="What happened, and what to do.")]
    request_id: str = ""
    faults: list[FaultModel] | None = Field(
        None, description="Each fault of a refused configuration; absent for other errors."
    )


class ErrorResponse(ApiModel):
    error: ErrorDetail
