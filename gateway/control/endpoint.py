"""What an endpoint of the control API is: one row, from which come its route, its checks and its documentation."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypedDict, Unpack

from pydantic import BaseModel
from starlette.responses import Response

from gateway.control.api_request import ApiRequest

Handler = Callable[[ApiRequest], Awaitable[Response]]

OPEN: Final = "open"
"""In place of a scope: no credential is needed."""
ENGINE: Final = "engine"
"""In place of a scope: the token of an engine is needed."""
MAX_OPEN_BODY_BYTES: Final = 4096
"""A body without a credential is parsed on the event loop, and a login needs no more."""
YAML: Final = "application/yaml"
HTML: Final = "text/html"
CSV: Final = "text/csv"
STORE: Final = ("store_unavailable",)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    scope: str
    handler: Handler
    response: type[BaseModel] | str
    """The model of the JSON response, or the media type of another one ("" for an empty one)."""
    query: type[BaseModel] | None = None
    body: type[BaseModel] | str | None = None
    """The model of the JSON body, or the media type of another one."""
    status: int = 200
    request_headers: tuple[str, ...] = ()
    """Request headers that matter, beyond the credential."""
    response_headers: tuple[str, ...] = ()
    """Response headers that matter."""
    errors: tuple[str, ...] = ()
    """The codes that this endpoint may respond with, beyond those of every endpoint."""
    open_to_loopback: bool = False
    """Whether callers on the loopback interface need no credential."""
    documented: bool = True

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return self._text[0].rstrip(".")

    @property
    def description(self) -> str:
        """What follows the first line of the handler's docstring, in one line."""
        return " ".join(line.strip() for line in self._text[1:] if line.strip())

    @property
    def media_type(self) -> str:
        """The media type of the body; "" if the endpoint takes none."""
        return self.body if isinstance(self.body, str) else "application/json" if self.body else ""

    @property
    def body_limit(self) -> int:
        """The maximum size of a body in bytes; `limits.control_body` applies too."""
        return MAX_OPEN_BODY_BYTES if self.scope == OPEN else sys.maxsize

    @property
    def _text(self) -> list[str]:
        return (inspect.getdoc(self.handler) or self.path).splitlines()


class Fields(TypedDict, total=False):
    """What may be left out of an `Endpoint`."""

    query: type[BaseModel]
    body: type[BaseModel] | str
    status: int
    request_headers: tuple[str, ...]
    response_headers: tuple[str, ...]
    errors: tuple[str, ...]
    open_to_loopback: bool
    documented: bool


class Endpoints:
    """The endpoints of one module, in order: each decorates its handler."""

    def __init__(self) -> None:
        self._rows: list[Endpoint] = []

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._rows)

    def __call__(
        self, method: str, path: str, scope: str, response: type[BaseModel] | str, **fields: Unpack[Fields]
    ) -> Callable[[Handler], Handler]:
        """Add the decorated handler; its docstring is the endpoint's documentation."""

        def add(handler: Handler) -> Handler:
            self._rows.append(Endpoint(method, path, scope, handler, response, **fields))
            return handler

        return add


PATH_PARAMETERS: Final = {
    "route": "A route's name, as in the configuration.",
    "hook": "The type of a Flagger webhook, such as confirm-promotion.",
    "decision_id": "The value of x-decision-id, or the 32 hexadecimal digits of a decision.",
}
"""Name of a part of a path → its description."""
