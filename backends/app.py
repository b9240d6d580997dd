"""The server's calls: which path is what, and how long a body it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backends.errors import Forbidden, InvalidInput, MethodNotAllowed, NotFound, ServerError
from backends.http.message import Request, Response
from backends.inference import MAX_PAGE_BODY, BodyLimits, InferenceApi
from backends.metrics import CONTENT_TYPE, Metrics
from backends.pages import NO_SETTINGS, NO_SHARED_MEMORY, Pages
from backends.registry import Registry
from backends.text.api import TextApi
from backends.text.shapes import openai_error
from backends.wire.compression import unpack

MAX_BODY: Final = 64 * 1024 * 1024


class App(BodyLimits):
    """Every call of the server. ``control`` allows loading and unloading through the API."""

    def __init__(self, registry: Registry, *, control: bool = False, max_body: int = MAX_BODY) -> None:
        super().__init__(max_body)
        self.registry = registry
        self.draining = False
        """Whether the server is about to end: it is not ready any more, but still responds."""
        self.pages = Pages(registry, control)
        self._metrics = Metrics(registry)
        self._texts = TextApi(registry)
        self._inferences = InferenceApi(registry.find, max_body)

    def handle(self, request: Request) -> None:
        """See `backends.http.host.Application`."""
        head = request.head
        if head.model is not None:
            if head.method != b"POST":
                _allow(request, "POST")
            self._inferences.handle(request)
            return
        response = self._page(request, head.path.split("/")[1:])
        if response is not None:
            request.respond(response)

    def _page(self, request: Request, parts: list[str]) -> Response | None:
        match parts:
            case ["v2"] | ["v2", ""]:
                _allow(request, "GET")
                return self.pages.server()
            case ["v2", "health", "live"]:
                _allow(request, "GET")
                return self.pages.live()
            case ["v2", "health", "ready"]:
                _allow(request, "GET")
                return self.pages.ready(self.draining)
            case ["metrics"]:
                _allow(request, "GET")
                return Response(self._metrics.render(), fields=((b"content-type", CONTENT_TYPE.encode()),))
            case ["v2", "models", "stats"]:
                _allow(request, "GET")
                return self.pages.stats("", "")
            case ["v2", "repository", "index"]:
                _allow(request, "POST")
                return self.pages.index(_plain(request))
            case ["v2", "repository", "models", name, ("load" | "unload") as action]:
                _allow(request, "POST")
                if request.head.of_page:
                    raise Forbidden("web pages can't load or unload models; send it with a program")
                request.spawn(self._change(request, name, action, _plain(request)))
                return None
            case ["v1", *rest]:
                return self._openai(request, rest)
            case ["v2", "models", name, ("generate" | "generate_stream") as kind]:
                self._generate(request, name, "", kind)
                return None
            case ["v2", "models", name, "versions", version, ("generate" | "generate_stream") as kind]:
                self._generate(request, name, version, kind)
                return None
            case ["v2", "models", name, "versions", version, *rest] if version:
                return self._model_page(request, name, version, rest)
            case ["v2", "models", name, *rest]:
                return self._model_page(request, name, "", rest)
        raise _unknown(request)

    def _generate(self, request: Request, name: str, version: str, kind: str) -> None:
        _allow(request, "POST")
        self._texts.generate(request, _plain(request), name, version, stream=kind == "generate_stream")

    def _openai(self, request: Request, rest: list[str]) -> Response | None:
        try:
            match rest:
                case ["models"]:
                    _allow(request, "GET")
                    self._texts.models(request)
                case ["models", name]:
                    _allow(request, "GET")
                    self._texts.model(request, name)
                case ["chat", "completions"]:
                    _allow(request, "POST")
                    self._texts.complete(request, _plain(request), chat=True)
                case ["completions"]:
                    _allow(request, "POST")
                    self._texts.complete(request, _plain(request), chat=False)
                case _:
                    raise _unknown(request)
        except ServerError as error:
            return openai_error(error)
        return None

    def _model_page(self, request: Request, name: str, version: str, rest: list[str]) -> Response:
        pages: dict[tuple[str, ...], Callable[[str, str], Response]] = {
            (): self.pages.metadata,
            ("ready",): self.pages.model_ready,
            ("config",): self.pages.config,
            ("stats",): self.pages.stats,
        }
        page = pages.get(tuple(rest))
        if page is None:
            raise _unknown(request)
        _allow(request, "GET")
        return page(name, version)

    async def _change(self, request: Request, name: str, action: str, body: bytes) -> None:
        request.respond(await self.pages.change(name, action, body))


def _plain(request: Request) -> bytes:
    encoding = request.head.content_encoding
    return (
        request.body if encoding is None else unpack(request.body, encoding.decode("latin-1"), MAX_PAGE_BODY)
    )


def _allow(request: Request, allowed: str) -> None:
    method = request.head.method.decode("latin-1")
    if method != allowed and not (allowed == "GET" and method == "HEAD"):
        raise MethodNotAllowed(f"{method} is not served here; send {allowed}", allowed)


def _unknown(request: Request) -> ServerError:
    match request.head.path.split("/")[1:]:
        case ["v2", "systemsharedmemory" | "cudasharedmemory", *_]:
            return InvalidInput(NO_SHARED_MEMORY)
        case ["v2", "trace" | "logging", *_] | ["v2", "models", _, "trace", *_]:
            return InvalidInput(NO_SETTINGS)
    return NotFound(f"there is nothing at {request.head.path!r}; GET /v2 says what is served")
