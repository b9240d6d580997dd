"""What a call of the control API is: one row, from which come its route, its checks and its documentation."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel
from starlette.responses import Response

from gateway.control.api_request import Ask

Handler = Callable[[Ask], Awaitable[Response]]

OPEN = "open"
"""In place of a scope: no credential is looked at."""
LOOPBACK = "loopback"
OPEN_BODY: Final = 4096
"""Bytes that a stranger may send: it is parsed on the event loop, and a login needs no more."""
MAX_BODY: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class Call:
    """One method of one path."""

    method: str
    path: str
    scope: str
    handler: Handler
    summary: str
    answer: type[BaseModel] | str
    """The model of the JSON answer, or the media type of another one ("" for an empty one)."""
    description: str = ""
    query: type[BaseModel] | None = None
    body: type[BaseModel] | str | None = None
    """Likewise for the request."""
    status: int = 200
    headers: tuple[str, ...] = ()
    """Request headers that matter, beyond the credential."""
    answers: tuple[str, ...] = ()
    """Answer headers that matter."""
    errors: tuple[str, ...] = ()
    """The codes that this call may answer with, beyond those of every call."""
    unless: str = ""
    """`LOOPBACK`: no credential is asked of callers from there."""
    documented: bool = True

    @property
    def body_limit(self) -> int:
        """Bytes of the largest body; `limits.control_body` holds too."""
        return OPEN_BODY if self.scope == OPEN else MAX_BODY


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of a path."""

    name: str
    description: str


PARAMETERS = (
    Parameter("route", "A route's name, as in the configuration."),
    Parameter("hook", "The type of a Flagger webhook, such as confirm-promotion."),
    Parameter(
        "decision_id", "The value of x-decision-id as it came, or the 32 hexadecimal digits of a decision."
    ),
)
