"""Models, in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.control.schemas.base import ApiModel


class ListedModel(ApiModel):
    id: str
    object: Literal["model"]
    created: Annotated[
        int, Field(description="When the configuration was stored, in seconds since the epoch.")
    ]
    owned_by: Annotated[str, Field(description="The route.")]


class ModelsResponse(ApiModel):
    object: Literal["list"]
    data: list[ListedModel]
