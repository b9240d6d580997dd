"""What the models of all subjects build on."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Ordinal = Annotated[int, Field(ge=0, lt=1 << 63)]
"""An epoch, a revision or the id of an event: stores keep it as a signed integer of 64 bits."""
Probability = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[
    tuple[float, float], Field(description="The 95 % credible interval: lower and upper end.")
]
DecisionHex = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Cursor = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="`next` of the previous page.")]


class ApiModel(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ApiBody(ApiModel):
    """The JSON object of a request. Values have the type that is asked for: ``true`` is not 1, nor is ``"1"``."""

    model_config = ConfigDict(strict=True)
