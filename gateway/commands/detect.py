"""What kind of model server listens at a URL, read off its health, metadata and OpenAPI endpoints."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from gateway.commands.remote import connect_failure, reason_of
from gateway.telemetry.printable import printable

TIMEOUT_S: Final = 3.0
MAX_BODY_BYTES: Final = 1 << 20
OTHER: Final = "an HTTP server"
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How an HTTP/2 client begins, with an empty SETTINGS frame."""
_SETTINGS: Final = b"\x04"
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
    needs: str | None = None
    """An option that the backend needs, with a placeholder."""
    models: tuple[str, ...] = ()
    """What clients call its models in the body, with OpenAI's endpoints."""

    def __post_init__(self) -> None:
        # What a server says of itself must not leave its comment.
        object.__setattr__(self, "kind", printable(" ".join(self.kind.split())[:100]))


def detect(url: str, *, endpoint: bool) -> Server:
    """Probe ``url``, or the server of which it is one path. An unreachable server is returned as such.

    Args:
        url: with or without a path.
        endpoint: whether a path at which no known API begins is one that clients call, not a prefix of them.
    """
    url = url.rstrip("/")
    found = _detect(url)
    parts = urlsplit(url)
    if parts.path and (found.kind == OTHER or not found.reachable):
        server = _detect(f"{parts.scheme}://{parts.netloc}")
        unknown = server.kind == OTHER or not server.reachable
        if parts.path in server.paths or (endpoint and unknown):
            return replace(server, path=parts.path)
        if any(parts.path.startswith(f"{path}/") for path in server.paths):
            return server
    return found


def _detect(url: str) -> Server:
    if url.startswith(("h2c://", "h2://")):
        return _http2(url)
    try:
        hooks, headers = {"response": [_cut]}, {"accept-encoding": "identity"}
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, event_hooks=hooks, headers=headers) as client:
            return _probed(url, client)
    except (httpx.HTTPError, OSError) as error:
        if isinstance(error, httpx.RemoteProtocolError) and url.startswith("http://"):
            server = _http2(f"h2c://{url.removeprefix('http://')}")
            if server.reachable:
                return server
        untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
        reason = "its certificate is not trusted" if untrusted else connect_failure(error)
        return replace(_unreachable(url, reason), needs="tls: {ca: ca.pem}" if untrusted else None)
    except httpx.InvalidURL as error:
        return _unreachable(url, str(error))


class _Start(httpx.SyncByteStream):
    """The start of a body: some servers stream without end, whatever the path."""

    def __init__(self, body: httpx.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        left, deadline = MAX_BODY_BYTES, monotonic() + TIMEOUT_S
        for part in self._body:
            yield part[:left]  # not a byte more: two of such responses are to be the same
            left -= len(part)
            if left <= 0:
                return
            if monotonic() > deadline:
                raise httpx.ReadTimeout(f"its response takes longer than {TIMEOUT_S:g} s")

    def close(self) -> None:
        self._body.close()


def _cut(response: httpx.Response) -> None:
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = _Start(response.stream)
    response.headers.pop(
        "content-encoding", None
    )  # it was not asked for, and may unpack to a thousand times as much


def _unreachable(url: str, reason: str) -> Server:
    return Server(url, f"unreachable: {reason}", reachable=False)


def _http2(url: str) -> Server:
    """A server that speaks HTTP/2 without HTTP/1.1, as gRPC servers do; one with TLS is not called."""
    parts = urlsplit(url)
    if parts.scheme == "h2c":
        try:
            address = (parts.hostname or "", parts.port or 80)
            with socket.create_connection(address, TIMEOUT_S) as connection:
                connection.sendall(_PREFACE)
                if connection.recv(4)[3:] != _SETTINGS:
                    return _unreachable(url, "it does not speak HTTP/2")
        except (OSError, ValueError) as error:
            return _unreachable(url, reason_of(error))
    return Server(url, "a gRPC or other HTTP/2 server", needs='health: {grpc: ""}')


def _probed(url: str, client: httpx.Client) -> Server:
    """Raises httpx.HTTPError."""
    first = client.get("/")
    get = _getter(client)
    for kind in (_open_inference, _openai, _openapi, _invocations):
        found = kind(url, get, client)
        if found is not None:
            return found
    elsewhere = first.next_request.url if first.next_request is not None else client.base_url
    if _origin(elsewhere) != _origin(client.base_url):
        return Server(url, f"redirects to {elsewhere}, which the gateway does not follow: name that address")
    return Server(url, OTHER, health=_health(get))


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


def _status(client: httpx.Client, path: str) -> int:
    """0 without a response."""
    try:
        return client.get(path).status_code
    except httpx.HTTPError:
        return 0


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _json(response: httpx.Response | None) -> Any:
    try:
        return response.json() if response is not None else None
    except (ValueError, RecursionError):
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
    if _status(client, "/v1/models") in (401, 403) and _status(client, _NOWHERE) == 404:
        needs = 'headers: {authorization: "Bearer ${MODELS_KEY}"}'
        return Server(url, "OpenAI endpoints that need a key", None, "/v1", ("/v1",), "openai", needs=needs)
    about = _json(get("/v1/models"))
    if not isinstance(about, dict) or not isinstance(about.get("data"), list):
        return None
    listed = [each.get("id") for each in about["data"] if isinstance(each, dict)]
    kind = f"OpenAI endpoints, models: {', '.join(map(str, listed)) or 'none'}"
    models = tuple(n for n in listed if isinstance(n, str) and _PLAIN_PATH.fullmatch(f"/{n}"))
    return Server(url, kind, _health(get) or "/v1/models", "/v1", ("/v1",), "openai", models=models)


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
    info = about.get("info")
    title = info.get("title", "FastAPI") if isinstance(info, dict) else "FastAPI"
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
