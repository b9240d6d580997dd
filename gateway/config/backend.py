"""The `backends` section: where requests go, and how each backend is treated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from gateway.config.part import HeaderName, HeaderValue, Method, Part, Path, Url
from gateway.config.units import Above, Count, Duration, Positive, Share, Statuses


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a backend. ``path`` is the base path without a trailing slash, "" for none."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def address(url: str) -> Address:
    """``url`` taken apart, with the scheme's own port where it names none."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Address(parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"))


class Health(Part):
    """Active probes: each address is asked by itself, over a connection of its own."""

    path: Path = "/v2/health/ready"
    from_root: bool = False
    """Whether ``path`` stands alone, instead of below the path of the backend's url."""
    method: Method = "GET"
    every: Positive = 5.0
    timeout: Positive = 1.0
    healthy: Above = 2
    """Good answers in a row that make an address healthy again."""
    unhealthy: Above = 3
    """Bad answers in a row that make it unhealthy."""
    status: Statuses = frozenset(range(200, 300))
    """The statuses of a good answer."""


class Limit(Part):
    """How much one gateway process asks of the backend at once, over all its addresses."""

    in_flight: Above = 1024
    waiting: Count = 1024
    """Requests that may wait for a free place; more are answered with 503 at once."""
    wait: Duration = 1.0
    """The longest a request waits for a place before it is answered with 503."""


class Pool(Part):
    """Connections kept open to each address."""

    idle: Duration = 4.0
    """How long an unused connection is kept; stay below the backend's own limit (uvicorn's is 5 s)."""
    size: Count = 512
    """Unused connections kept per address."""


class Ejection(Part):
    """Passive health: an address whose answers fail is left out for a while."""

    consecutive: Above = 5
    """Failed requests in a row, error statuses counted."""
    local_consecutive: Above = 3
    """The same for failures without an answer: not reached, reset, timed out."""
    rate: Share | None = 0.5
    """Share of failed requests over ``window``; null: this rule is off."""
    min_requests: Above = 20
    """Below so many requests in ``window`` the rate says nothing."""
    window: Positive = 10.0
    base: Positive = 10.0
    """The first ejection lasts this long, each further one in a row twice as long ..."""
    max: Positive = 300.0
    """... but never longer than this."""
    max_share: Share = 0.5
    """Never more of the addresses than this are ejected at once."""
    panic: Share = 0.5
    """With a smaller share of healthy addresses than this, health is ignored: all share the load."""
    silence: Duration = 0.3
    """Silent for so long, and for several times the usual, while requests wait: taken for hung. 0: never."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.base:
            raise ValueError("'max' is shorter than 'base'; write a longer 'max'")
        return self


class BackendTls(Part):
    """How the backend's certificate is checked, and what we show it. Only for https addresses."""

    ca: str | None = None
    """A file with the authorities to trust in place of the system's."""
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: str | None = None
    """The name to ask for and to check, where it is not the address's host."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError(
                "a client certificate needs both 'cert' and 'key'; write the one that is missing"
            )
        return self


class Backend(Part):
    url: Url | None = None
    urls: Annotated[tuple[Url, ...], Field(min_length=1)] | None = None
    """Exactly one of ``url`` and ``urls``; `addresses` reads either."""
    balance: Literal["least_load", "round_robin", "random"] = "least_load"
    host: Literal["backend", "preserve"] = "backend"
    """The Host field that the backend sees: its own address's, or the client's."""
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Set on every request to it, in place of what the client sent under the same names."""
    health: Health | None = None
    limit: Limit = Limit()
    pool: Pool = Pool()
    ejection: Ejection | None = Ejection()
    slow_start: Duration = 0.0
    """How long an address that comes back takes to get its full share; 0: at once."""
    tls: BackendTls = BackendTls()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (self.urls is None):
            raise ValueError("write either 'url' (one address) or 'urls' (a list of them)")
        if len({str(found) for found in self.addresses}) < len(self.addresses):
            raise ValueError("the same address is listed twice; write each once")
        if len({(found.scheme, found.path) for found in self.addresses}) > 1:
            raise ValueError("the addresses differ in scheme or path; write one backend for each")
        return self

    @cached_property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(address(url) for url in self.urls or ((self.url,) if self.url else ()))
