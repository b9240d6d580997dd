"""The options of httpx that clients and requests take, so that type checkers find misspelt ones."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import httpx

Primitive = str | int | float | bool | None
Headers = (
    httpx.Headers
    | Mapping[str, str]
    | Mapping[bytes, bytes]
    | Sequence[tuple[str, str]]
    | Sequence[tuple[bytes, bytes]]
    | None
)
Params = (
    httpx.QueryParams
    | Mapping[str, Primitive | Sequence[Primitive]]
    | list[tuple[str, Primitive]]
    | tuple[tuple[str, Primitive], ...]
    | str
    | bytes
    | None
)


class RequestOptions(TypedDict, total=False):
    """Keyword arguments of a request, as for ``httpx.request``."""

    content: str | bytes | Iterable[bytes] | AsyncIterable[bytes] | None
    data: Mapping[str, Any] | None
    files: Any
    json: Any
    params: Params
    headers: Headers
    cookies: Any
    auth: Any
    follow_redirects: Any
    timeout: Any
    extensions: Any


class ClientOptions(TypedDict, total=False):
    """Keyword arguments of ``httpx.Client`` and ``httpx.AsyncClient``."""

    auth: Any
    params: Params
    headers: Headers
    cookies: Any
    cert: Any
    trust_env: bool
    http1: bool
    http2: bool
    proxy: httpx.Proxy | httpx.URL | str | None
    mounts: Any
    timeout: Any
    follow_redirects: bool
    limits: httpx.Limits
    max_redirects: int
    event_hooks: Mapping[str, list[Any]] | None
    default_encoding: Any
