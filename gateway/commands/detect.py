"""What kind of model server listens at a URL, read off its health, metadata and OpenAPI endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

TIMEOUT_S: Final = 3.0
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9/._~:@!&+,;=-]*")
"""No templates such as {id}, and nothing that a configuration would read as a variable."""

_NOWHERE: Final = "/turnout-init/no-such-path"
"""Some servers respond to every path alike, which says nothing of what they are."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a configuration needs to know of a model server."""

    url: str
    kind: str
    """One-line description, for the comment next to the backend."""
    health: str | None = None
    """A path that responds 200 while the server is ready; None if none was found."""
    path: str = "/"
    """The prefix under which it infers."""
    paths: tuple[str, ...] = ()
    """Every such prefix that was found, for a person to choose from."""
    comparison: str = "auto"
    """The type of `comparison` that fits its responses."""
    reachable: bool = True

    def __post_init__(self) -> None:
        # What a server says of itself must not leave its comment.
        object.__setattr__(self, "kind", " ".join(self.kind.split())[:100])


def detect(url: str) -> Server:
    """Probe ``url``. Never raises: an unreachable server is one that says so."""
    url = url.rstrip("/")
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        get = _getter(client)
        try:
            client.get("/")
        except httpx.HTTPError:
            return Server(url, "unreachable when this file was written", reachable=False)
        for kind in (_open_inference, _openai, _openapi, _invocations):
            found = kind(url, get, client)
            if found is not None:
                return found
        return Server(url, "an HTTP server", health=_health(get))


Get = Callable[[str], httpx.Response | None]


def _getter(client: httpx.Client) -> Get:
    def asked(path: str) -> httpx.Response | None:
        try:
            response = client.get(path)
        except httpx.HTTPError:
            return None
        return response if response.status_code == 200 else None

    anywhere = asked(_NOWHERE)

    def get(path: str) -> httpx.Response | None:
        """The response with status 200; None for anything else, and for what any path responds with."""
        response = asked(path)
        if response is None or (anywhere is not None and response.content == anywhere.content):
            return None
        return response

    return get


def _json(response: httpx.Response | None) -> Any:
    try:
        return response.json() if response is not None else None
    except ValueError:
        return None


def _open_inference(url: str, get: Get, client: httpx.Client) -> Server | None:
    """Triton, MLServer, KServe, OpenVINO, the bundled server."""
    if get("/v2/health/ready") is None and get("/v2/health/live") is None:
        return None
    about = _json(get("/v2"))
    name = about.get("name") if isinstance(about, dict) else None
    kind = f"{name}, Open Inference Protocol" if isinstance(name, str) else "Open Inference Protocol"
    paths = tuple(f"/v2/models/{model}" for model in _repository(client))
    place = paths[0] if paths else "/v2/models"
    return Server(url, kind, "/v2/health/ready", place, paths, comparison="v2")


def _repository(client: httpx.Client) -> list[str]:
    """Model names of Triton's repository extension; empty where the server has none."""
    try:
        found = _json(client.post("/v2/repository/index", json={}))
    except httpx.HTTPError:
        return []
    names = [each.get("name") for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return list(dict.fromkeys(n for n in names if isinstance(n, str) and _PLAIN_PATH.fullmatch(f"/{n}")))


def _openai(url: str, get: Get, client: httpx.Client) -> Server | None:
    """vLLM, TGI, SGLang, llama.cpp, Ollama and other servers with OpenAI's endpoints."""
    about = _json(get("/v1/models"))
    if not isinstance(about, dict) or not isinstance(about.get("data"), list):
        return None
    models = [each.get("id") for each in about["data"] if isinstance(each, dict)]
    kind = f"OpenAI endpoints, models: {', '.join(map(str, models)) or 'none'}"
    return Server(url, kind, _health(get) or "/v1/models", "/v1", ("/v1",), comparison="openai")


def _openapi(url: str, get: Get, client: httpx.Client) -> Server | None:
    """FastAPI, BentoML, LitServe, Ray Serve: servers that describe themselves."""
    about = _json(get("/openapi.json")) or _json(get("/docs.json"))
    if not isinstance(about, dict) or not isinstance(about.get("paths"), dict):
        return None
    posts = tuple(
        path
        for path, methods in about["paths"].items()
        if isinstance(methods, dict) and "post" in methods and _PLAIN_PATH.fullmatch(path)
    )
    title = about.get("info", {}).get("title", "FastAPI")
    likely = sorted(
        posts, key=lambda path: not any(word in path for word in ("predict", "infer", "generate"))
    )
    return Server(url, f"{title} (OpenAPI)", _health(get), likely[0] if likely else "/", tuple(likely))


def _invocations(url: str, get: Get, client: httpx.Client) -> Server | None:
    """TorchServe, MLflow and SageMaker-style containers, known by /ping."""
    if get("/ping") is None:
        return None
    place = "/invocations" if get("/version") is not None else "/predictions"
    return Server(url, "a server with /ping", "/ping", place, ("/invocations", "/predictions"))


def _health(get: Get) -> str | None:
    for path in ("/healthz", "/health", "/readyz", "/health/ready", "/livez", "/ping"):
        if get(path) is not None:
            return path
    return None
