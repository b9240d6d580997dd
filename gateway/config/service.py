"""The sections about the gateway itself: who may use it, what it bears, what it keeps and tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from gateway.config.backend import BackendTls
from gateway.config.part import HeaderName, HeaderValue, Name, OneOrMore, Part, Url
from gateway.config.units import Above, ByteRate, Duration, Positive, Rate, Real, Share, Size
from gateway.dataplane.browsers import is_loopback

Scope = Literal["infer", "feedback", "read", "metrics", "force-variant", "steer", "config", "admin"]


def _digest(value: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise ValueError(
            "this is not the hash of a key; write 'sha256:' and 64 hexadecimal digits ('turnout keys new')"
        )
    return value


def _webhook_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", value):
        raise ValueError(
            "this is not the URL of a webhook; write one such as https://hooks.example.com/turnout"
        )
    return value


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a network; write one such as 10.0.0.0/8 or 127.0.0.1") from None


def _store(value: str) -> str:
    if re.fullmatch(r"sqlite:///.+", value) or re.fullmatch(
        r"rediss?(\+cluster)?://[^/\s]+(/\d*)?(\?\S*)?", value
    ):
        return value
    raise ValueError("this is not a store; write sqlite:///FILE or redis://HOST:6379/0")


def _key_set(value: str) -> str:
    scheme, separator, _ = value.partition("://")
    if not separator:
        return value
    host = urlsplit(value).hostname or ""
    if scheme == "https" or (scheme == "http" and (host == "localhost" or is_loopback(host))):
        return value
    raise ValueError(
        "whoever is in between could put in keys of their own; write an https address, or a file"
    )


class Key(Part):
    """An API key; only its hash is here (``turnout keys new`` makes both)."""

    id: Name
    hash: Annotated[str, AfterValidator(_digest)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    routes: tuple[Name, ...] | None = None
    """None: every route."""
    rate: Rate | None = None
    """Requests a second; None: no limit."""

    @property
    def digest(self) -> bytes:
        """The 32 bytes of the hash."""
        return bytes.fromhex(self.hash.removeprefix("sha256:"))


class Jwt(Part):
    """Tokens of an identity provider, as an alternative to keys."""

    issuer: str
    audience: str
    jwks: Annotated[str, AfterValidator(_key_set)]
    """The https address (http on this machine), or the file, of the provider's public keys."""
    refresh: Positive = 300.0
    """How long fetched keys are used before they are fetched again."""
    algorithms: Annotated[
        tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"], ...],
        Field(min_length=1),
    ] = ("RS256", "ES256")
    scopes_claim: str = "scope"
    """The claim with the scopes: a list, or one text with spaces."""
    routes_claim: str | None = None
    """The claim with the routes, likewise; None: every route."""
    leeway: Duration = 30.0
    """How far the clocks may be apart."""


class DashboardAccess(Part):
    steer: bool = True
    """Whether a login to the dashboard may steer and configure, where its key may and the login asks for it."""


class Auth(Part):
    keys: tuple[Key, ...] = ()
    jwt: Jwt | None = None
    dashboard: DashboardAccess = DashboardAccess()

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if not self.keys and self.jwt is None:
            raise ValueError("nobody could get in; write 'keys', 'jwt' or both, or leave 'auth' out")
        return self


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


class BrowserAccess(Part):
    """Which web pages may use a gateway without ``auth``."""

    hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = ()
    """Further names of this gateway; localhost, IP addresses and names outside public DNS need no entry."""
    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Origins of pages of other sites that may send requests."""


class ConfigAccess(Part):
    """How the configuration may be changed while the gateway runs."""

    api: Literal["on", "off"] = "on"
    """``off``: by the file alone; ``PUT /-/config`` and ``POST /-/config/restore`` are refused."""


class Tls(Part):
    """TLS to clients, on every port of the gateway."""

    cert: str
    key: str
    hsts: Positive | None = None
    """How long browsers shall use nothing but TLS for this host name, on every port; None: as they like."""
    client_ca: str | None = None
    client_auth: Literal["none", "optional", "required"] = "none"

    @model_validator(mode="after")
    def _authority(self) -> Self:
        if (self.client_auth != "none") != (self.client_ca is not None):
            raise ValueError(
                "'client_ca' and 'client_auth: optional|required' need each other; write both or neither"
            )
        return self


class Metric(Part):
    """A reward that clients report."""

    type: Literal["boolean", "fraction", "real", "count"]
    goal: Literal["maximize", "minimize"] = "maximize"
    window: Positive = 3600.0
    """How long after the decision a value is accepted."""
    missing: Literal["ignore", "zero"] = "ignore"
    """What a decision without a value counts as, once the window is over."""
    minimum: Real | None = None
    maximum: Real | None = None
    """Values outside are refused. Always within the type's own range; see `lowest` and `highest`."""
    cap: Real | None = None
    """Greater values count as this one (winsorising), so that guardrails on it are exact at every count."""
    description: str = ""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.lowest < self.highest:
            raise ValueError("'minimum' is not below 'maximum'; write a range")
        if self.type in ("boolean", "fraction") and not 0 <= self.lowest < self.highest <= 1:
            raise ValueError(
                f"a {self.type} lies between 0 and 1; leave 'minimum' and 'maximum' out, or within"
            )
        if self.type == "boolean" and (self.lowest, self.highest) != (0, 1):
            raise ValueError("a boolean is 0 or 1; leave 'minimum' and 'maximum' out")
        if self.missing == "zero" and not self.lowest <= 0 <= self.highest:
            raise ValueError(
                "'missing: zero' needs a range with 0 in it; widen 'minimum' and 'maximum', or leave it out"
            )
        if self.type == "count" and self.lowest < 0:
            raise ValueError("a count is not negative; write a 'minimum' of 0 or more")
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
        """(least, greatest) value that can count; None without a cap."""
        return None if self.cap is None else (self.lowest, self.cap)

    @property
    def lowest(self) -> float:
        """The least value accepted; minus infinity where there is none."""
        return self.minimum if self.minimum is not None else (float("-inf") if self.type == "real" else 0.0)

    @property
    def highest(self) -> float:
        """The largest value accepted; infinity where there is none."""
        bounded = self.type in ("boolean", "fraction")
        return self.maximum if self.maximum is not None else (1.0 if bounded else float("inf"))


class ShadowLimits(Part):
    """What all shadows of a gateway process may use together. Beyond it copies are dropped, and counted."""

    waiting: Above = 256
    bytes: Size = 64 * 1024 * 1024
    """Of the copies that wait or are under way."""
    in_flight: Above = 64
    timeout: Positive = 30.0
    answer: Size = 1024 * 1024
    """The most of an answer that is read for comparison."""
    load: Above = 512
    """With more requests than this under way no copies are made."""


class Limits(Part):
    connections: Above = 10_000
    """Client connections of one gateway process."""
    head: Annotated[Size, Field(ge=1024)] = 64 * 1024
    fields: Above = 128
    target: Annotated[Size, Field(ge=64)] = 16 * 1024
    body: Size = 64 * 1024 * 1024
    """The largest request body, where the route does not say otherwise."""
    control_body: Size = 4 * 1024 * 1024
    """The same for the gateway's own API."""
    pipeline: Above = 16
    """Requests that a client may send ahead of their answers."""
    header_timeout: Positive = 10.0
    """From a request's first byte to the end of its head."""
    body_timeout: Positive = 60.0
    """The longest pause within a request body."""
    body_min_rate: ByteRate = 1024.0
    """The least average rate of a request body, once ``body_grace`` is over; 0: no such rule."""
    body_grace: Duration = 10.0
    idle_timeout: Positive = 75.0
    """How long a connection without a request is kept."""
    write_timeout: Positive = 30.0
    """How long a client may take nothing of its answer."""
    websockets: Above = 1000
    """WebSockets open at once; they hold no place of a backend's ``limit.in_flight``."""
    websocket_life: Positive | None = 86_400.0
    """How long one may stay open; None: no limit. It ends with its key, too."""
    shadow: ShadowLimits = ShadowLimits()


class Shutdown(Part):
    grace: Duration = 30.0
    """How long requests in flight may take to finish."""
    idle: Duration = 1.0
    """How long connections without a request are left open, for what is already on its way."""


class Record(Part):
    enabled: bool = True
    capacity: Above = 100_000
    """Outcomes held in memory while the store is slow; beyond it the newest are dropped, and counted."""
    flush: Positive = 0.2
    """How often outcomes are written."""
    retention: Positive | None = 30 * 86400.0
    """How long they are kept; None: for ever."""
    request_ids: bool = False
    """Whether rewards may name a request by its `x-request-id`, for clients that hide response headers."""
    max_size: Size | None = None
    """Bytes of outcomes, shadow responses and rewards in the store, about; beyond it the oldest go before their
    time. None: no such bound."""
    spool: Annotated[str, Field(min_length=1)] | None = None
    """The directory for rewards that arrive while the store is away; None: beside the store's file, or
    ``turnout.spool`` in the working directory. Read at start."""


class Loops(Part):
    allocation: Positive = 1.0
    """How often allocations follow new rewards."""
    watch: Positive = 1.0
    """How often the configuration file and other replicas are looked at."""


class Log(Part):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "text"


class Traces(Part):
    """Spans of those requests that are sampled, sent to a collector by OTLP over HTTP."""

    endpoint: Url
    """Where spans go; without a path, to `/v1/traces` there."""
    sample: Share = 0.01
    """The share of requests traced, where the client's `traceparent` doesn't say."""
    parent: Literal["follow", "link"] = "follow"
    """``follow``: a client's `traceparent` decides, and the trace goes on. ``link``: it only is linked to."""
    propagate: bool = True
    """Whether backends are told of the gateway's span; else what the client said passes as it came."""
    service: Annotated[str, Field(min_length=1)] = "turnout"
    """`service.name` of the spans."""
    resource: Mapping[str, str] = Field(default_factory=dict)
    """Further attributes of the gateway as a resource."""
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Sent along to the endpoint."""
    tls: BackendTls = BackendTls()
    """For an https endpoint."""
    timeout: Positive = 10.0
    """For one delivery."""
    flush: Positive = 1.0
    """How often spans are sent; sooner where many wait."""
    capacity: Above = 20_000
    """Spans that may wait for the collector; beyond it the newest are dropped, and counted."""

    @property
    def address(self) -> str:
        """Where spans are posted to."""
        return (
            self.endpoint
            if urlsplit(self.endpoint).path.strip("/")
            else f"{self.endpoint.rstrip('/')}/v1/traces"
        )


EventKind = Literal[
    "rollout", "winner", "guardrail", "alarm", "alarm_over", "config", "config_refused", "health", "ejection",
    "allocation",
]  # fmt: skip


class Webhook(Part):
    """Where events are posted, at least once each and in order, until they are taken."""

    url: Annotated[str, AfterValidator(_webhook_url)]
    format: Literal["cloudevents", "slack"] = "cloudevents"
    """``cloudevents``: CloudEvents 1.0 as JSON; ``slack``: a message for an incoming webhook."""
    events: Annotated[tuple[EventKind, ...], OneOrMore, Field(min_length=1)] = (
        "rollout", "winner", "guardrail", "alarm", "alarm_over", "config", "config_refused",
    )  # fmt: skip
    """Kinds of events, as in `GET /-/events`."""
    routes: tuple[Name, ...] = ()
    """Only events of these routes; empty: all events, those of no route too."""
    secret: Annotated[str | None, Field(min_length=16)] = None
    """Key of the signature in `webhook-signature` (HMAC-SHA256, Standard Webhooks); null: no signature."""
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Sent with each post."""
    timeout: Positive = 10.0
    """For one post."""


class Telemetry(Part):
    log: Log = Log()
    traces: Traces | None = None


Network = Annotated[str, AfterValidator(_network)]
Store = Annotated[str, AfterValidator(_store)]
