"""One call of the control API on its way to a handler: who asks, for what, with what body."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Never, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.auth.principal import Principal
from gateway.control.context import Context
from gateway.control.login_limit import client_of
from gateway.errors import TurnoutError

if TYPE_CHECKING:
    from gateway.control.services import Desk
    from gateway.control.session import Session

Model = TypeVar("Model", bound=BaseModel)

_WORTH_ZIPPING: Final = 4096
"""Bytes of an answer."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a handler gets."""

    request: Request
    principal: Principal
    desk: Desk
    body_limit: int
    """Bytes; `limits.control_body` holds too."""

    @property
    def context(self) -> Context:
        return self.desk.context

    @property
    def route(self) -> str:
        """The ``{route}`` of the path. Raises forbidden for a key without it, not_found for an unknown one."""
        return self.must_know(str(self.request.path_params["route"]))

    def must_know(self, name: str) -> str:
        """``name``, of a route that the key serves. Raises forbidden, not_found."""
        self.must_serve(name)
        if name not in self.context.document().routes:
            raise TurnoutError("not_found", f"There is no route {name!r}; GET /-/routes lists them.")
        return name

    def must_serve(self, route: str) -> None:
        """Raises forbidden, whether or not there is such a route: a key learns nothing of others' routes."""
        if not self.principal.serves(route):
            raise TurnoutError(
                "forbidden", f"The key may not use the route {route!r}; use one that names it."
            )

    @property
    def author(self) -> str:
        """Who is written into the history."""
        return self.principal.id or "anonymous"

    @property
    def caller(self) -> dict[str, str]:
        """Who made the call, with what login, from where: for the trail."""
        session: Session | None = getattr(self.request.state, "session", None)
        address = client_of(self.request, self.context.document().trusted_proxies)
        return {"by": self.author, "session": session.id[:8] if session else "", "address": address}

    def query(self, model: type[Model]) -> Model:
        """The query string as ``model``. Raises invalid (unknown and repeated parameters included)."""
        given = self.request.query_params
        twice = sorted({key for key in given if len(given.getlist(key)) > 1})
        if twice:
            raise TurnoutError(
                "invalid", f"The parameter {twice[0]!r} is given more than once; give it once."
            )
        return checked(model, dict(given))

    async def bytes(self) -> bytes:
        """The whole body. Raises body_too_large."""
        limit = min(self.body_limit, self.context.document().limits.control_body)
        declared = self.request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            _too_large(limit)
        parts, size = [], 0
        try:
            async for part in self.request.stream():
                size += len(part)
                if size > limit:
                    _too_large(limit)
                parts.append(part)
        except ClientDisconnect:
            raise TurnoutError("client_left") from None
        return b"".join(parts)

    async def json(self) -> Any:
        """The body as JSON. Raises bad_json."""
        return await self.desk.json_reader.read(await self.bytes())

    async def body(self, model: type[Model]) -> Model:
        return checked(model, await self.json())


def _too_large(limit: int) -> Never:
    raise TurnoutError(
        "body_too_large", f"The body has more than the {limit} bytes that this call takes; send less."
    )


def checked(model: type[Model], value: Any) -> Model:
    """``value`` as ``model``; raises invalid, naming each field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise TurnoutError("invalid", "; ".join(map(_sentence, error.errors()[:5])) + ".") from None


def _sentence(fault: Mapping[str, Any]) -> str:
    # Tags of unions (function-after[...] and the like) say nothing to a caller.
    where = ".".join(str(part) for part in fault["loc"] if "[" not in str(part))
    kind = str(fault["type"])
    if kind == "extra_forbidden":
        return f"{where!r} is not known here"
    if kind == "missing":
        return f"{where!r} is missing"
    said = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    said = said[:1].lower() + said[1:]
    return f"{where!r}: {said}" if where else said


def answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``value`` as a JSON answer. NaN and infinities would be no JSON: they are a fault of ours."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, dict(headers or {}), media_type="application/json")


def zipped(ask: Ask, value: Any) -> Response:
    """`answer`, compressed where the caller takes that and it is worth it."""
    made = answer(value)
    if len(made.body) < _WORTH_ZIPPING or "gzip" not in ask.request.headers.get("accept-encoding", ""):
        return made
    headers = {"content-encoding": "gzip", "vary": "accept-encoding"}
    return Response(gzip.compress(made.body, 4), 200, headers, media_type="application/json")
