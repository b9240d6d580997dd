"""The control API as one ASGI application: routes made from the endpoints, every request checked alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Final

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth.principal import ANYONE
from gateway.control import openapi
from gateway.control.api_request import ApiRequest
from gateway.control.auth import (
    FEEDBACK,
    SAFE,
    identify,
    identify_node,
    is_local,
    require,
    require_media_type,
)
from gateway.control.endpoint import ENGINE, OPEN, Endpoint, Endpoints
from gateway.control.gateway_api import GatewayApi
from gateway.control.middleware import ErrorMiddleware
from gateway.control.routes import ENDPOINTS
from gateway.control.services import ControlServices
from gateway.errors import TurnoutError
from gateway.json_text import compact

SPECIFICATION: Final = "/-/openapi.json"
REFUSED_POLL_S: Final = 1.0
"""How long a poll of a node is held before it is refused."""
_POLLS: Final = "/v3/discovery:"


class ControlApp:
    """The ASGI application. Call `close` when the gateway begins to shut down: event streams end."""

    def __init__(self, gateway: GatewayApi) -> None:
        self._services = ControlServices(gateway)
        self._guarded = ErrorMiddleware(_router(self._services), self._hsts, self._outage)
        self._cors: tuple[tuple[str, ...], ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        application: ASGIApp = self._guarded
        if scope["type"] == "http" and scope["path"] == FEEDBACK:
            with suppress(Exception):  # the middleware meets the same fault, and responds
                application = self._with_cors(self._services.gateway.document().feedback.allow_origins)
        await application(scope, receive, send)

    def _with_cors(self, origins: tuple[str, ...]) -> ASGIApp:
        """Allow pages of ``origins``; outside the error middleware, so that a page can read refusals too."""
        if not origins:
            return self._guarded
        if self._cors is None or self._cors[0] != origins:
            allowed = ("authorization", "content-type", "x-api-key", "x-request-id")
            cors = CORSMiddleware(
                self._guarded, allow_origins=origins, allow_methods=["POST"], allow_headers=allowed
            )
            self._cors = (origins, cors)
        return self._cors[1]

    def _hsts(self) -> float | None:
        tls = self._services.gateway.document().tls
        return tls.hsts if tls is not None else None

    def _outage(self) -> str:
        outage = self._services.gateway.store_outage()
        return outage.message if outage is not None else ""

    def close(self) -> None:
        self._services.closing.set()
        self._services.json_reader.close()


_added: Final = Endpoints()


@_added("GET", SPECIFICATION, OPEN, "application/json")
async def read_specification(request: ApiRequest) -> Response:
    """Get the OpenAPI document of this API."""
    return Response(await asyncio.to_thread(_specification), media_type="application/json")


@cache
def _specification() -> bytes:
    # When it is first read, not at the start: it takes 45 ms of CPU time (2026-11-29).
    return compact(openapi.document((*_added, *ENDPOINTS)))


def _router(services: ControlServices) -> ASGIApp:
    """An application that finds the endpoint of a request."""
    router = Router(list(_routes(services, (*_added, *ENDPOINTS))), redirect_slashes=False)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = router  # with an app in the scope the router raises what it does not find
        await router(scope, receive, send)

    return application


def _routes(services: ControlServices, endpoints: Iterable[Endpoint]) -> Iterable[BaseRoute]:
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    for path, methods in by_path.items():
        yield Route(path, _Path(services, methods))


class _Path:
    """One path: its methods, and the checks before a handler is called."""

    def __init__(self, services: ControlServices, methods: dict[str, Endpoint]) -> None:
        self._services = services
        self._methods = methods | ({"HEAD": methods["GET"]} if "GET" in methods else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        endpoint = self._methods.get(request.method)
        if endpoint is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self._methods))})
        try:
            response = await self._respond(endpoint, request)
        except TurnoutError as error:
            if endpoint.path.startswith(_POLLS) and error.code in ("unauthenticated", "forbidden"):
                # An Envoy polls again 50 ms after a refusal; with a new token, so does a whole fleet.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._services.closing.wait(), REFUSED_POLL_S)
            raise
        await response(scope, receive, send)

    async def _respond(self, endpoint: Endpoint, http: Request) -> Response:
        services, principal = self._services, ANYONE
        local = endpoint.open_to_loopback and is_local(http, services.gateway.authenticator())
        if endpoint.scope == ENGINE:
            principal = identify_node(http, services.gateway)
        elif endpoint.scope != OPEN and not local:
            principal = await identify(http, services)
            logged_in = getattr(http.state, "session", None) is not None
            require(principal, endpoint.scope, logged_in=logged_in)
            if logged_in and http.method not in SAFE and endpoint.media_type:
                require_media_type(http, endpoint.media_type)
        request = ApiRequest(http, principal, services, endpoint.body_limit)
        response = await endpoint.handler(request)
        # A call that needs only `read` changes nothing, whatever its method: it must not turn a session that only
        # reads into one that steers.
        if request.session is not None and http.method not in SAFE and endpoint.scope != "read":
            await services.sessions.prolong(request.session, http, response)
        return response
