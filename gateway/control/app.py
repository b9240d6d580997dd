"""The control API as one ASGI application: routes made from the table, every call checked alike."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth.principal import ANYONE
from gateway.control import openapi
from gateway.control.api_request import Ask
from gateway.control.auth import FEEDBACK, SAFE, identify, is_local, require
from gateway.control.context import Context
from gateway.control.endpoint import LOOPBACK, OPEN, Call
from gateway.control.middleware import Edge
from gateway.control.routes import CALLS
from gateway.control.services import Desk

SPECIFICATION: Final = "/-/openapi.json"


class ControlApp:
    """The ASGI application. Call `close` when the gateway begins to shut down: event streams end."""

    def __init__(self, context: Context) -> None:
        self._desk = Desk(context)
        self._edge = Edge(_Calls(self._desk), self._hsts)
        self._pages: tuple[tuple[str, ...], ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        application: ASGIApp = self._edge
        if scope["type"] == "http" and scope["path"] == FEEDBACK:
            with suppress(Exception):  # the edge meets the same fault, and answers it
                application = self._for_pages(self._desk.context.document().feedback.allow_origins)
        await application(scope, receive, send)

    def _for_pages(self, origins: tuple[str, ...]) -> ASGIApp:
        """Rewards from pages of ``origins``: outside the edge, so that a page can read its refusals too."""
        if not origins:
            return self._edge
        if self._pages is None or self._pages[0] != origins:
            allowed = ("authorization", "content-type", "x-api-key", "x-request-id")
            cors = CORSMiddleware(
                self._edge, allow_origins=origins, allow_methods=["POST"], allow_headers=allowed
            )
            self._pages = (origins, cors)
        return self._pages[1]

    def _hsts(self) -> float | None:
        tls = self._desk.context.document().tls
        return tls.hsts if tls is not None else None

    def close(self) -> None:
        self._desk.closing.set()
        self._desk.json_reader.close()


def build(context: Context) -> ControlApp:
    return ControlApp(context)


class _Calls:
    """Finds the call of a request."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        specification = json.dumps(openapi.document([*CALLS, _SPECIFIED]), ensure_ascii=False).encode()

        async def specified(ask: Ask) -> Response:
            return Response(specification, media_type="application/json")

        given = Call("GET", SPECIFICATION, OPEN, specified, _SPECIFIED.summary, "application/json")
        self._router = Router(list(self._routes([given, *CALLS])), redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self  # so that the router raises what it does not find
        await self._router(scope, receive, send)

    def _routes(self, calls: Iterable[Call]) -> Iterable[BaseRoute]:
        by_path: dict[str, dict[str, Call]] = {}
        for call in calls:
            by_path.setdefault(call.path, {})[call.method] = call
        for path, methods in by_path.items():
            yield Route(path, _Path(self._desk, methods))


class _Path:
    """One path: its methods, and what must hold before a handler is called."""

    def __init__(self, desk: Desk, methods: dict[str, Call]) -> None:
        self._desk = desk
        self._methods = methods | ({"HEAD": methods["GET"]} if "GET" in methods else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        call = self._methods.get(request.method)
        if call is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self._methods))})
        answer = await self._answer(call, request)
        await answer(scope, receive, send)

    async def _answer(self, call: Call, request: Request) -> Response:
        desk, principal = self._desk, ANYONE
        if call.scope != OPEN and not (
            call.unless == LOOPBACK and is_local(request, desk.context.authenticator())
        ):
            principal = await identify(request, desk.context, desk.sessions, desk.feedback_tokens)
            require(principal, call.scope)
        answer = await call.handler(Ask(request, principal, desk, call.body_limit))
        session = getattr(request.state, "session", None)
        if session is not None and request.method not in SAFE:
            await desk.sessions.prolong(session, request, answer)
        return answer


async def _nothing(ask: Ask) -> Response:
    raise NotImplementedError


_SPECIFIED: Final = Call("GET", SPECIFICATION, OPEN, _nothing, "This document", "application/json")
