"""Adds headers to every response of the control API, and turns every exception into the one error shape."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.config.faults import ConfigError, Fault
from gateway.control.auth import FEEDBACK, SAFE
from gateway.errors import TurnoutError, render
from gateway.json_text import compact
from gateway.state.base import StoreUnavailable, Unconfirmed
from gateway.telemetry.repeats import Repeats

log = logging.getLogger("turnout.control")

STORE_RETRY_AFTER_S: Final = 1.0
"""Seconds, if the store is unavailable."""
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_HEADERS: Final = (
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
)


class ErrorMiddleware:
    """An ASGI application that wraps another one."""

    def __init__(
        self,
        inner: ASGIApp,
        hsts: Callable[[], float | None] = lambda: None,
        outage: Callable[[], str] = lambda: "",
    ) -> None:
        """Wrap ``inner``.

        Args:
            inner: The application.
            hsts: Returns the seconds for which browsers require TLS; None: not set.
            outage: Describes an outage of the store; "" if none is known.
        """
        self._inner = inner
        self._hsts = hsts
        self._outage = outage
        self._repeats = Repeats()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers.setdefault("x-request-id", request_id)
                for name, value in _HEADERS:
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https" and (insist := self._hsts()) is not None:
                    headers["strict-transport-security"] = f"max-age={round(insist)}"
            try:
                await send(message)
            except OSError:
                raise ClientDisconnect from None  # so that it does not count as an internal error

        try:
            await self._inner(scope, receive, with_headers)
        except Exception as error:
            if isinstance(error, ClientDisconnect):
                return  # no client is left to receive a response
            failure = self._refusal(error, request_id, scope)
            if started:
                # Too late for another response: a truncated one must not look complete.
                raise
            await failure(scope, receive, with_headers)

    def _refusal(self, error: Exception, request_id: str, scope: Scope) -> Response:
        """Return the error response for an exception."""
        match error:
            case TurnoutError():
                return _error_response(error, request_id)
            case ConfigError():
                return _config_response(error, request_id)
            case StoreUnavailable():
                more = self._repeats.suffix(("store", str(error)))
                if more is not None:
                    log.warning(
                        "the store is unavailable: %s (request %s)%s",
                        error,
                        request_id,
                        more,
                        extra={"request_id": request_id},
                    )
                told = _told(error, scope, self._outage())
                return _error_response(
                    TurnoutError("store_unavailable", told, retry_after=STORE_RETRY_AFTER_S), request_id
                )
            case HTTPException(status_code=404):
                message = f"There is nothing at {scope['path']}; /-/openapi.json lists the endpoints."
                return _error_response(TurnoutError("not_found", message), request_id)
            case HTTPException(status_code=405, headers=headers):
                allow = (headers or {}).get("Allow", "")
                message = f"{scope['method']} is not supported at {scope['path']}; use {allow}."
                return _error_response(
                    TurnoutError("method_not_allowed", message), request_id, {"allow": allow}
                )
        log.error(
            "%s %s failed (request %s)",
            scope["method"],
            scope["path"],
            request_id,
            exc_info=error,
            extra={"request_id": request_id},
        )
        return _error_response(TurnoutError("internal"), request_id)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(12).hex()


def _told(error: StoreUnavailable, scope: Scope, outage: str) -> str:
    """The message of the response; to a change it says whether it was made."""
    if isinstance(error, Unconfirmed):
        return (
            "The store became unavailable: whether the change was made is not known. "
            "Look again before you repeat it."
        )
    if scope["path"] == FEEDBACK:
        return "The gateway can't accept these rewards now; report them again after the time in Retry-After."
    if scope["method"] in SAFE:
        return outage
    return f"Nothing was changed. {outage or 'The store is unavailable.'}"


def _error_response(
    error: TurnoutError, request_id: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Response:
    extra = dict(headers or {})
    if error.retry_after is not None:
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        extra["www-authenticate"] = "Bearer"
    body = body or render(error.code, error.message, request_id=request_id)
    return Response(body, error.status, extra, media_type="application/json")


def _config_response(error: ConfigError, request_id: str) -> Response:
    """Lists the faults one by one too, for programs."""
    message = "The configuration was refused and nothing changed:\n" + str(error)
    row = TurnoutError("invalid", message)
    document: dict[str, Any] = json.loads(render(row.code, row.message, request_id=request_id))
    document["error"]["faults"] = [fault_json(fault) for fault in error.faults]
    return _error_response(row, request_id, body=compact(document))


def fault_json(fault: Fault) -> dict[str, Any]:
    """Return a fault of a configuration as JSON."""
    return {
        "line": fault.line,
        "column": fault.column,
        "path": fault.path,
        "message": fault.message,
        "hint": fault.hint,
    }
