"""The `backends` section: addresses of model servers, and the load, health and TLS settings for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from gateway.config.model import ConfigModel, HeaderValue, Method, Path, ServerName, SetHeaderName, Url
from gateway.config.units import Count, Duration, PositiveDuration, PositiveInt, Share, SomeStatuses


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a backend; ``path`` is the base path without a trailing slash, "" if there is none."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def secure(self) -> bool:
        return self.scheme in ("https", "h2")

    @property
    def authority(self) -> str:
        """The Host field of requests to it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def is_ip(host: str) -> bool:
    """Whether ``host`` is an address and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def address(url: str) -> Address:
    """Parse ``url``; if it names no port, use the default port of its scheme."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme in ("https", "h2") else 80)
    host = (parts.hostname or "").encode("idna").decode()  # a Host field is ASCII
    return Address(parts.scheme, host, port, parts.path.rstrip("/"))


class HealthConfig(ConfigModel):
    """Active probes: each address is probed separately, over its own connection."""

    path: Path = "/v2/health/ready"
    from_root: bool = False
    """True: use ``path`` as it is; false: append it to the path of the backend's url."""
    method: Method = "GET"
    grpc: str | None = None
    """Call ``grpc.health.v1.Health/Check`` for this service (``""``: the whole server), instead of ``path``."""
    every: PositiveDuration = 5.0
    timeout: PositiveDuration = 1.0
    healthy: PositiveInt = 2
    """Consecutive successful probes after which an address is healthy."""
    unhealthy: PositiveInt = 3
    """Consecutive failed probes after which an address is unhealthy."""
    status: SomeStatuses = frozenset(range(200, 300))
    """Status codes of a successful probe."""

    @property
    def status_runs(self) -> list[tuple[int, int]]:
        """Runs of consecutive statuses, as (first, last)."""
        found: list[tuple[int, int]] = []
        for status in sorted(self.status):
            if found and found[-1][1] == status - 1:
                found[-1] = (found[-1][0], status)
            else:
                found.append((status, status))
        return found


class LimitConfig(ConfigModel):
    """Limits on concurrent requests to the backend, per gateway process and over all addresses."""

    in_flight: PositiveInt = 1024
    waiting: Count = 1024
    """Maximum number of requests that wait for a free place; requests above it get 503."""
    wait: Duration = 1.0
    """Maximum time a request waits for a place before it gets 503."""


class PoolConfig(ConfigModel):
    """Idle connections to each address."""

    idle: Duration = 4.0
    """How long an idle connection is kept; set it below the backend's keep-alive timeout (5 s in uvicorn)."""
    size: Count = 512
    """Maximum number of idle connections per address."""


class EjectionConfig(ConfigModel):
    """Passive health checks: an address with failing responses gets no requests for a time."""

    consecutive: PositiveInt = 5
    """Consecutive failed requests, including error statuses, after which an address is ejected."""
    local_consecutive: PositiveInt = 3
    """Consecutive failures without a response (not reached, reset, timed out) before ejection."""
    rate: Share | None = 0.5
    """Share of failed requests in ``window`` above which an address is ejected; null disables this rule."""
    min_requests: PositiveInt = 20
    """Minimum number of requests in ``window`` for ``rate`` to apply."""
    window: PositiveDuration = 10.0
    base: PositiveDuration = 10.0
    """Duration of the first ejection; each consecutive one lasts twice as long as the one before."""
    max: PositiveDuration = 300.0
    """Maximum duration of an ejection."""
    max_share: Share = 0.5
    """Maximum share of the addresses that are ejected at the same time."""
    panic: Share = 0.5
    """If the share of healthy addresses is below this, health is ignored and all share the load."""
    silence: Duration = 0.3
    """Time without a byte, while requests wait, after which an address counts as hung; 0: never."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.base:
            raise ValueError("'max' is shorter than 'base'; write a longer 'max'")
        return self


class BackendTlsConfig(ConfigModel):
    """TLS settings for https and h2 addresses: verification of the backend, and the gateway's client certificate."""

    ca: str | None = None
    """File with the CAs to trust instead of the system's."""
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: ServerName | None = None
    """Server name to request and verify, if it differs from the host in the address."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError(
                "a client certificate needs both 'cert' and 'key'; write the one that is missing"
            )
        return self


class BackendConfig(ConfigModel):
    url: Url | None = None
    urls: Annotated[tuple[Url, ...], Field(min_length=1)] | None = None
    """Several equivalent addresses; set exactly one of ``url`` and ``urls``."""
    balance: Literal["least_load", "round_robin", "random"] = "least_load"
    host: Literal["backend", "preserve"] = "backend"
    """Host header sent to the backend: that of its address (``backend``), or the client's (``preserve``)."""
    headers: Mapping[SetHeaderName, HeaderValue] = Field(default_factory=dict)
    """Headers set on every request to the backend, replacing those of the client."""
    health: HealthConfig | None = None
    limit: LimitConfig = LimitConfig()
    pool: PoolConfig = PoolConfig()
    ejection: EjectionConfig | None = EjectionConfig()
    slow_start: Duration = 0.0
    """Time over which an address that has become healthy returns to its full share; 0: immediately."""
    tls: BackendTlsConfig = BackendTlsConfig()
    alpn: bool = True
    """Whether to offer HTTP/2 to https addresses; false: HTTP/1.1 only."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.url is None) == (self.urls is None):
            raise ValueError("write either 'url' (one address) or 'urls' (a list of them)")
        if len({str(found) for found in self.addresses}) < len(self.addresses):
            raise ValueError("the same address is listed twice; write each once")
        if len({(found.scheme, found.path) for found in self.addresses}) > 1:
            raise ValueError("the addresses differ in scheme or path; write one backend for each")
        if self.health is not None and self.health.grpc is not None and not self.http2:
            raise ValueError("'health.grpc' needs HTTP/2; write the address with h2c:// or h2://")
        return self

    @property
    def http2(self) -> bool:
        """Whether the addresses must speak HTTP/2."""
        return self.addresses[0].scheme in ("h2c", "h2")

    @cached_property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(address(url) for url in self.urls or ((self.url,) if self.url else ()))
