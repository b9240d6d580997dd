"""The server as an ASGI callable: which path is what, and how an error becomes an answer."""

from __future__ import annotations

import logging
from typing import Final

from backends.errors import ClientLeft, MethodNotAllowed, NotFound, ServerError
from backends.http import Headers, Receive, Response, Scope, Send, error_response, read_body, send_response
from backends.inference import Inference
from backends.metrics import CONTENT_TYPE, Metrics
from backends.pages import Pages
from backends.registry import Registry

log = logging.getLogger("turnout.backend")

MAX_BODY: Final = 64 * 1024 * 1024
_CLOSE: Final = (b"connection", b"close")


class App:
    """Every call of the server. ``control`` allows loading and unloading through the API."""

    def __init__(self, registry: Registry, *, control: bool = False, max_body: int = MAX_BODY) -> None:
        self.registry = registry
        self.draining = False
        """Whether the server is about to end: it is not ready any more, but still answers."""
        self._max_body = max_body
        self._inference = Inference(registry, max_body)
        self._pages = Pages(registry, control)
        self._metrics = Metrics(registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            response = await self._answer(scope, receive)
        except ClientLeft:
            return
        except ServerError as error:
            response = error_response(error)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            response = error_response(ServerError())
        await send_response(response, send, [_CLOSE] if self.draining else [])

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        method: str = scope["method"]
        parts = scope["path"].split("/")[1:]
        if parts[:2] == ["v2", "models"] and parts[-1] == "infer" and len(parts) in (4, 6):
            _allow(method, "POST")
            if len(parts) == 6 and parts[3] != "versions":
                raise _unknown(scope)
            return await self._inference.answer(
                parts[2], parts[4] if len(parts) == 6 else "", scope["headers"], receive
            )
        return await self._page(method, parts, scope, receive)

    async def _page(self, method: str, parts: list[str], scope: Scope, receive: Receive) -> Response:
        match parts:
            case ["v2"] | ["v2", ""]:
                _allow(method, "GET")
                return self._pages.server()
            case ["v2", "health", "live"]:
                _allow(method, "GET")
                return self._pages.live()
            case ["v2", "health", "ready"]:
                _allow(method, "GET")
                return self._pages.ready(self.draining)
            case ["metrics"]:
                _allow(method, "GET")
                return Response(self._metrics.render(), headers=((b"content-type", CONTENT_TYPE.encode()),))
            case ["v2", "models", "stats"]:
                _allow(method, "GET")
                return self._pages.stats("", "")
            case ["v2", "repository", "index"]:
                _allow(method, "POST")
                return self._pages.index(await self._body(scope, receive))
            case ["v2", "repository", "models", name, ("load" | "unload") as action]:
                _allow(method, "POST")
                return await self._pages.change(name, action, await self._body(scope, receive))
            case ["v2", "models", name, "versions", version, *rest] if version:
                _allow(method, "GET")
                return self._model_page(name, version, rest, scope)
            case ["v2", "models", name, *rest]:
                _allow(method, "GET")
                return self._model_page(name, "", rest, scope)
        raise _unknown(scope)

    def _model_page(self, name: str, version: str, rest: list[str], scope: Scope) -> Response:
        match rest:
            case []:
                return self._pages.metadata(name, version)
            case ["ready"]:
                return self._pages.model_ready(name, version)
            case ["config"]:
                return self._pages.config(name, version)
            case ["stats"]:
                return self._pages.stats(name, version)
        raise _unknown(scope)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        headers: Headers = scope["headers"]
        return await read_body(headers, receive, min(self._max_body, 1 << 20))


def _allow(method: str, allowed: str) -> None:
    if method != allowed and not (allowed == "GET" and method == "HEAD"):
        raise MethodNotAllowed(f"{method} is not served here; send {allowed}", allowed)


def _unknown(scope: Scope) -> ServerError:
    return NotFound(f"there is nothing at {scope['path']!r}; GET /v2 says what is served")
