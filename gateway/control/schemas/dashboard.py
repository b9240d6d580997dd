"""The dashboard's login."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.control.schemas.base import ApiBody, ApiModel


class LoginRequest(ApiBody):
    key: str
    steer: Annotated[bool, Field(description="Whether the session may make changes.")] = False


class SessionResponse(ApiModel):
    """The principal of a dashboard session, and its rights."""

    id: str
    auth: Annotated[bool, Field(description="Whether this gateway requires keys.")]
    routes: Annotated[list[str] | None, Field(description="null: every route.")]
    scopes: list[str]
    csrf: Annotated[str, Field(description="The value for x-turnout-csrf; empty without a cookie.")]
    steer_until: Annotated[float | None, Field(description="null: this session only reads.")]
