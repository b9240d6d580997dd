"""One request to the control API, as its handler gets it, and the responses that handlers make."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Never, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.auth.principal import Principal
from gateway.compile.revisions import FILE_AUTHOR
from gateway.control.gateway_api import GatewayApi
from gateway.control.login_limit import client_of
from gateway.control.services import ControlServices
from gateway.control.session import Session
from gateway.errors import TurnoutError
from gateway.json_text import compact

Model = TypeVar("Model", bound=BaseModel)

MIN_GZIP_BYTES: Final = 4096
MAX_NAMED_FAULTS: Final = 5
MAX_VALUES: Final = 1024
"""Maximum number of values in a body or a query that a model describes, beyond texts in lists; a decision has up to
1000 features."""
_TYPES: Final = {
    "string_type": ("str", "a string"),
    "int_type": ("int", "an integer"),
    "float_type": ("float", "a number"),
    "bool_type": ("bool", "a boolean"),
}
"""By the type of a fault: pydantic's name for the member of a union, and ours."""


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request whose credential and scope have been checked."""

    http: Request
    principal: Principal
    services: ControlServices
    body_limit: int
    """Bytes; `limits.control_body` applies too."""

    @property
    def gateway(self) -> GatewayApi:
        return self.services.gateway

    @property
    def route(self) -> str:
        """The ``{route}`` of the path. Raises forbidden if the key does not serve it, not_found if it is unknown."""
        return self.must_know(str(self.http.path_params["route"]))

    def must_know(self, name: str) -> str:
        """Return ``name`` if the key serves this route. Raises forbidden, not_found."""
        self.must_serve(name)
        if name not in self.gateway.document().routes:
            raise TurnoutError("not_found", f"There is no route {name!r}; GET /-/routes lists them.")
        return name

    def must_serve(self, route: str) -> None:
        """Raises forbidden, whether or not the route exists: a key learns nothing about other routes."""
        if not self.principal.serves(route):
            raise TurnoutError(
                "forbidden", f"The key may not use the route {route!r}; use one that names it."
            )

    @property
    def author(self) -> str:
        """The name that history records for a change; never that of the file, which may use every variable."""
        name = self.principal.id or "anonymous"
        return name if name != FILE_AUTHOR else f"key {name}"

    @property
    def session(self) -> Session | None:
        """The dashboard session; None if the credential is not a cookie."""
        session: Session | None = getattr(self.http.state, "session", None)
        return session

    @property
    def caller(self) -> dict[str, str]:
        """Who made the request, with which session and from which address, for the audit trail."""
        session = self.session
        address = client_of(self.http, self.gateway.document().trusted_proxies)
        return {"by": self.author, "session": session.id[:8] if session else "", "address": address}

    def query(self, model: type[Model]) -> Model:
        """Return the query string as ``model``. Raises invalid, also for unknown and repeated parameters."""
        given = Counter(key for key, _ in self.http.query_params.multi_items())
        repeated = next((key for key, times in given.items() if times > 1), None)
        if repeated is not None:
            raise TurnoutError(
                "invalid", f"The parameter {repeated!r} is given more than once; give it once."
            )
        return checked(model, dict(self.http.query_params))

    async def bytes(self) -> bytes:
        """Read the whole body. Raises body_too_large."""
        limit = min(self.body_limit, self.gateway.document().limits.control_body)
        declared = self.http.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            _too_large(limit)
        parts, size = [], 0
        try:
            async for part in self.http.stream():
                size += len(part)
                if size > limit:
                    _too_large(limit)
                parts.append(part)
        except ClientDisconnect:
            raise TurnoutError("client_left") from None
        return b"".join(parts)

    async def json(self) -> Any:
        """Read the body as JSON. Raises bad_json, body_too_large."""
        return await self.services.json_reader.read(await self.bytes())

    async def body(self, model: type[Model]) -> Model:
        """Read the body as ``model``. Raises bad_json, body_too_large, invalid."""
        return checked(model, await self.json())


def _too_large(limit: int) -> Never:
    raise TurnoutError(
        "body_too_large", f"The body has more than the {limit} bytes that this call takes; send less."
    )


def checked(model: type[Model], value: Any) -> Model:
    """Return ``value`` as ``model``. Raises invalid, naming each field that is wrong."""
    _refuse_many(value)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        known = [field.alias or name for name, field in model.model_fields.items()]
        texts = _fault_texts(error.errors(), known)
        raise TurnoutError("invalid", "; ".join(texts[:MAX_NAMED_FAULTS]) + ".") from None


def _refuse_many(value: Any) -> None:
    """Raises invalid for more values than any model takes."""
    # pydantic makes a fault of each: 150,000 unknown fields held up the event loop for a second (2026-11-30). A text
    # in a list is as a model wants it, or the list is one fault: a feedback token may name thousands of routes.
    values, containers = 0, [value]
    while containers:
        one = containers.pop()
        if isinstance(one, dict | list):
            values += len(one) if isinstance(one, dict) else sum(type(part) is not str for part in one)
            if values > MAX_VALUES:
                raise TurnoutError(
                    "invalid", f"That is more than {MAX_VALUES} values; send only what is asked for."
                )
            containers += one.values() if isinstance(one, dict) else one


def _fault_texts(faults: Sequence[Mapping[str, Any]], known: Sequence[str]) -> list[str]:
    """A text for each wrong field: a union has a fault for each of its types. ``known``: the fields of the model."""
    texts: list[str] = []
    types: dict[tuple[int | str, ...], list[str]] = {}
    for fault in faults:
        field, last = fault["loc"][:-1], fault["loc"][-1:]
        if field and last == (_TYPES.get(fault["type"], ("", ""))[0],):
            types.setdefault(field, []).append(_TYPES[fault["type"]][1])
        else:
            texts.append(_fault_text(fault, known))
    for field, (*others, final) in types.items():
        expected = f"{', '.join(others)} or {final}" if others else final
        texts.append(f"{'.'.join(map(str, field))!r}: write {expected}")
    return texts


def _fault_text(fault: Mapping[str, Any], known: Sequence[str]) -> str:
    """``known``: the fields of the model."""
    # Tags of unions (function-after[...] and the like) mean nothing to a client.
    where = ".".join(str(part) for part in fault["loc"] if "[" not in str(part))
    kind = str(fault["type"])
    if kind == "extra_forbidden":
        names = ", ".join(known) if len(fault["loc"]) == 1 and "root" not in known else ""
        return f"{where!r} is not known here" + (f"; expected one of {names}" if names else "")
    if kind == "missing":
        return f"{where!r} is missing"
    text = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    text = text[:1].lower() + text[1:]
    return f"{where!r}: {text}" if where else text


def json_response(value: Any, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``value`` as JSON. NaN and infinity raise, since they are a fault of ours."""
    return Response(compact(value), headers=dict(headers or {}), media_type="application/json")


def gzipped_response(request: ApiRequest, value: Any) -> Response:
    """Return ``value`` as JSON, compressed if the client accepts that and the body is long."""
    response = json_response(value)
    accepted = request.http.headers.get("accept-encoding", "")
    if len(response.body) < MIN_GZIP_BYTES or "gzip" not in accepted:
        return response
    headers = {"content-encoding": "gzip", "vary": "accept-encoding"}
    return Response(gzip.compress(response.body, 4), 200, headers, media_type="application/json")
