"""The sections about the gateway itself: limits, the record and telemetry."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from gateway.config.backend import BackendTlsConfig
from gateway.config.model import (
    ArchiveAddress,
    ConfigModel,
    HeaderValue,
    Name,
    OneOrMore,
    SetHeaderName,
    WebUrl,
    is_web_address,
)
from gateway.config.units import (
    ByteRate,
    Duration,
    FiniteFloat,
    PositiveDuration,
    PositiveInt,
    Share,
    Size,
)
from policies.types import MetricType


def _webhook_url(value: str) -> str:
    if not is_web_address(value):
        raise ValueError(
            "this is not the URL of a webhook; write one such as https://hooks.example.com/turnout"
        )
    return value


def webhook_key(secret: str) -> bytes:
    """The bytes of a webhook's signing key. Raises ValueError."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    encoded = secret.removeprefix("whsec_").rstrip("=")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _webhook_secret(value: str) -> str:
    try:
        sufficient = len(webhook_key(value)) >= 16
    except ValueError:
        sufficient = False
    if not sufficient:
        raise ValueError("write 'whsec_' and the base64 of at least 16 bytes, or at least 16 characters")
    return value


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a network; write one such as 10.0.0.0/8 or 127.0.0.1") from None


def _host_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", value.lower()):
        raise ValueError(
            f"{value!r} is not a host name; write one such as gateway.example.com, without a port"
        )
    return value.lower()


def _origin(value: str) -> str:
    if not re.fullmatch(r"https?://[a-z0-9._-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?", value):
        raise ValueError(f"{value!r} is not an origin; write one such as https://app.example.com")
    return value


class BrowserAccessConfig(ConfigModel):
    """Which web pages may call a gateway without ``auth``."""

    hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = ()
    """Additional host names of this gateway; localhost, IP addresses and non-public names need no entry."""
    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Origins of other sites whose pages may send requests."""


class FeedbackAccessConfig(ConfigModel):
    """Rewards that web pages report."""

    allow_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Origins of the pages that may call `POST /-/feedback` from a browser (CORS)."""


class ConfigAccessConfig(ConfigModel):
    """How the configuration may be changed while the gateway runs."""

    api: Literal["on", "off"] = "on"
    """``off``: only the file changes the configuration; PUT /-/config and restore return 403."""


class TlsConfig(ConfigModel):
    """TLS for client connections, on every port of the gateway."""

    cert: str
    key: str
    hsts: PositiveDuration | None = None
    """Duration for which browsers require TLS for this host name, on every port; if absent, not sent."""
    client_ca: str | None = None
    client_auth: Literal["none", "optional", "required"] = "none"

    @model_validator(mode="after")
    def _authority(self) -> Self:
        if (self.client_auth != "none") != (self.client_ca is not None):
            raise ValueError(
                "'client_ca' and 'client_auth: optional|required' need each other; write both or neither"
            )
        return self


PAST: Final = "past"
"""What a metric is adjusted by that is not a covariate."""


class MetricConfig(ConfigModel):
    """A reward that clients report."""

    type: MetricType
    goal: Literal["maximize", "minimize"] = "maximize"
    window: PositiveDuration = 3600.0
    """Rewards are accepted for this long after the decision."""
    missing: Literal["ignore", "zero"] = "ignore"
    """How a decision without a value counts once the window is over."""
    minimum: FiniteFloat | None = None
    """Smaller values are rejected."""
    maximum: FiniteFloat | None = None
    """Larger values are rejected."""
    cap: FiniteFloat | None = None
    """Larger values count as this value, so that guardrails use the exact test for bounded values."""
    adjust: Name | None = None
    """``past``: compare each sticky unit with its own mean from before; the name of a covariate: compare each request
    with what that predicts. Comparisons then need fewer requests."""
    usage: (
        Literal[
            "input_tokens", "output_tokens", "total_tokens", "cost", "first_token_ms", "tokens_per_second"
        ]
        | None
    ) = None
    """The gateway itself reports this of each response, on routes with `usage: true`."""
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _goal_of_usage(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("usage") not in (None, "tokens_per_second"):
            return {"goal": "minimize", **given}
        return given

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.lowest < self.highest:
            raise ValueError("'minimum' is not below 'maximum'; write a range")
        if self.type in ("boolean", "fraction") and not 0 <= self.lowest < self.highest <= 1:
            raise ValueError(f"a {self.type} lies between 0 and 1; write a 'minimum' and 'maximum' within")
        if self.type == "boolean" and (self.lowest, self.highest) != (0, 1):
            raise ValueError("a boolean is 0 or 1; leave 'minimum' and 'maximum' out")
        if self.missing == "zero" and not self.lowest <= 0 <= self.highest:
            raise ValueError(
                "'missing: zero' needs a range with 0 in it; widen 'minimum' and 'maximum', or leave it out"
            )
        if self.type == "count" and self.lowest < 0:
            raise ValueError("a count is not negative; write a 'minimum' of 0 or more")
        if self.usage is not None and self.type not in (
            ("real", "count") if self.usage.endswith("_tokens") else ("real",)
        ):
            raise ValueError(f"{self.usage} is not a {self.type}; write 'type: real'")
        if self.adjust is not None and self.missing == "zero":
            raise ValueError("'adjust' needs the zeros reported; leave 'missing: zero' out")
        if self.covariate is not None and self.type == "boolean":
            raise ValueError(
                "a boolean metric is decided by bets, which use no covariate; leave 'adjust' out"
            )
        return self._capped()

    def _capped(self) -> Self:
        if self.cap is None:
            return self
        if self.type not in ("real", "count"):
            raise ValueError(f"a {self.type} is at most 1 already; leave 'cap' out")
        if self.type == "real" and self.minimum is None:
            raise ValueError("'cap' needs the other end of the range too; write a 'minimum', for example 0")
        if not self.lowest < self.cap <= self.highest:
            raise ValueError("'cap' lies outside the range; write one above 'minimum', at most 'maximum'")
        return self

    @property
    def capped_range(self) -> tuple[float, float] | None:
        """(lowest, highest) value that can count, or None without a cap."""
        return None if self.cap is None else (self.lowest, self.cap)

    @property
    def covariate(self) -> str | None:
        """Name of the covariate by which values are adjusted."""
        return None if self.adjust == PAST else self.adjust

    @property
    def lowest(self) -> float:
        """The smallest accepted value, or minus infinity."""
        return self.minimum if self.minimum is not None else (float("-inf") if self.type == "real" else 0.0)

    @property
    def highest(self) -> float:
        """The largest accepted value, or infinity."""
        bounded = self.type in ("boolean", "fraction")
        return self.maximum if self.maximum is not None else (1.0 if bounded else float("inf"))


class ShadowLimitsConfig(ConfigModel):
    """Limits for all shadows of a gateway process together; copies above them are dropped and counted."""

    waiting: PositiveInt = 256
    bytes: Size = 64 * 1024 * 1024
    """Maximum size of the bodies of copies that wait or are in flight."""
    in_flight: PositiveInt = 64
    timeout: PositiveDuration = 30.0
    answer: Size = 1024 * 1024
    """Maximum size of a response that is read for comparison."""
    load: PositiveInt = 512
    """No copies are made while more than this many requests are in flight."""


class LimitsConfig(ConfigModel):
    connections: PositiveInt = 10_000
    """Maximum number of client connections per gateway process."""
    head: Annotated[Size, Field(ge=1024)] = 64 * 1024
    fields: PositiveInt = 128
    target: Annotated[Size, Field(ge=64)] = 16 * 1024
    body: Size = 64 * 1024 * 1024
    """Maximum size of a request body, unless the route sets its own."""
    control_body: Size = 4 * 1024 * 1024
    """Maximum size of a request body of the gateway's own API."""
    pipeline: PositiveInt = 16
    """Maximum number of pipelined requests that await their response."""
    header_timeout: PositiveDuration = 10.0
    """Time from the first byte of a request to the end of its headers."""
    body_timeout: PositiveDuration = 60.0
    """Maximum pause within a request body."""
    body_min_rate: ByteRate = 1024.0
    """Minimum average rate of a request body after ``body_grace``; 0: no minimum."""
    body_grace: Duration = 10.0
    idle_timeout: PositiveDuration = 75.0
    """Close a client connection after this long without a request."""
    write_timeout: PositiveDuration = 30.0
    """Close a client connection after this long if the client reads nothing of its response."""
    websockets: PositiveInt = 1000
    """Maximum number of open WebSockets; they do not count towards a backend's ``limit.in_flight``."""
    websocket_life: PositiveDuration | None = 86_400.0
    """Maximum lifetime of a WebSocket, which also ends with its key; null: no limit."""
    shadow: ShadowLimitsConfig = ShadowLimitsConfig()


class ShutdownConfig(ConfigModel):
    grace: Duration = 30.0
    """How long requests in flight may take to finish after SIGTERM."""
    idle: Duration = 1.0
    """How long connections without a request stay open for requests already on their way."""


class RecordConfig(ConfigModel):
    enabled: bool = True
    capacity: PositiveInt = 100_000
    """Maximum number of outcomes held in memory; beyond it the newest are dropped and counted."""
    flush: PositiveDuration = 0.2
    """Interval at which outcomes are written."""
    retention: PositiveDuration | None = 30 * 86400.0
    """How long outcomes are kept; null: no limit."""
    request_ids: bool = False
    """Whether rewards may name a request by its `x-request-id`, for clients that hide response headers."""
    archive: ArchiveAddress | None = None
    """Folder or object store that keeps the record for longer, as Parquet files: `s3://BUCKET/PREFIX`, `gs://…` or a
    path. Hours are kept in the store until they are archived."""
    max_size: Size | None = None
    """Approximate maximum size of the record in the store; beyond it the oldest entries are deleted."""
    spool: Annotated[str, Field(min_length=1)] | None = None
    """Directory for rewards that arrive while the store is unavailable; read at start."""


class LoopsConfig(ConfigModel):
    allocation: PositiveDuration = 1.0
    """Interval at which new rewards update the allocations."""
    watch: PositiveDuration = 1.0
    """Interval at which the file and the revisions of other replicas are checked."""


class LogConfig(ConfigModel):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "text"


class TracesConfig(ConfigModel):
    """Spans of sampled requests, sent to a collector by OTLP over HTTP."""

    endpoint: WebUrl
    """Address that receives the spans; if it has no path, `/v1/traces` is used."""
    sample: Share = 0.01
    """Share of requests that are traced, if the client's `traceparent` does not decide it."""
    parent: Literal["follow", "link"] = "follow"
    """``follow``: a client's `traceparent` decides, and the trace continues; ``link``: it is only linked to."""
    propagate: bool = True
    """Whether backends get a `traceparent` of the gateway's span; if not, the client's is forwarded."""
    service: Annotated[str, Field(min_length=1)] = "turnout"
    """`service.name` of the spans."""
    resource: Mapping[str, str] = Field(default_factory=dict)
    """Additional resource attributes of the gateway."""
    headers: Mapping[SetHeaderName, HeaderValue] = Field(default_factory=dict)
    """Headers sent to the endpoint."""
    tls: BackendTlsConfig = BackendTlsConfig()
    """TLS for an https endpoint."""
    timeout: PositiveDuration = 10.0
    """Timeout of one export."""
    flush: PositiveDuration = 1.0
    """Maximum interval between exports; sooner if many spans wait."""
    capacity: PositiveInt = 20_000
    """Maximum number of spans that wait for the collector; beyond it the newest are dropped and counted."""

    @property
    def address(self) -> str:
        """URL that spans are posted to."""
        return (
            self.endpoint
            if urlsplit(self.endpoint).path.strip("/")
            else f"{self.endpoint.rstrip('/')}/v1/traces"
        )


EventKind = Literal[
    "rollout", "winner", "guardrail", "alarm", "alarm_over", "config", "config_refused", "health", "ejection",
    "allocation",
]  # fmt: skip


class WebhookConfig(ConfigModel):
    """A receiver of events, which are posted in order and at least once each, until it accepts them."""

    url: Annotated[str, AfterValidator(_webhook_url)]
    format: Literal["cloudevents", "slack"] = "cloudevents"
    """``cloudevents``: CloudEvents 1.0 as JSON; ``slack``: a message for an incoming webhook."""
    events: Annotated[tuple[EventKind, ...], OneOrMore, Field(min_length=1)] = (
        "rollout", "winner", "guardrail", "alarm", "alarm_over", "config", "config_refused",
    )  # fmt: skip
    """Kinds of events, as in `GET /-/events`."""
    routes: tuple[Name, ...] = ()
    """Only events of these routes; if empty, all events, including those without a route."""
    secret: Annotated[str, Field(min_length=16), AfterValidator(_webhook_secret)] | None = None
    """Signing key of `webhook-signature` (HMAC-SHA256, Standard Webhooks); if absent, no signature."""
    headers: Mapping[SetHeaderName, HeaderValue] = Field(default_factory=dict)
    """Headers sent with each request."""
    timeout: PositiveDuration = 10.0
    """Timeout of one request."""


class TelemetryConfig(ConfigModel):
    log: LogConfig = LogConfig()
    access_log: Annotated[str, Field(min_length=1)] | None = None
    """File with one JSON line per decision; `-` is standard output."""
    traces: TracesConfig | None = None


Network = Annotated[str, AfterValidator(_network)]
