"""The health of the process."""

from __future__ import annotations

from typing import Literal

from gateway.control.schemas.base import ApiModel


class HealthResponse(ApiModel):
    status: Literal["ok", "ready"]
