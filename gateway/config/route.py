"""The `routes` section: matching, variants, policy, and what to do when a variant fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, JsonValue, Tag, model_validator

from gateway.config.faults import KeyPath
from gateway.config.features import CovariateConfig, SegmentConfig
from gateway.config.model import (
    ConfigModel,
    HeaderName,
    HeaderValue,
    HostName,
    HostPattern,
    Method,
    Name,
    ObjectName,
    OneOrMore,
    Path,
    SetHeaderName,
    Version,
)
from gateway.config.policy import PolicyConfig
from gateway.config.units import (
    Amount,
    Count,
    Duration,
    PositiveDuration,
    PositiveInt,
    Share,
    Size,
    SomeStatuses,
    Statuses,
)
from policies.comparison.bodies import Form

Protocol = Literal["v2", "tfserving", "openai", "anthropic", "gemini", "ollama", "torchserve", "sagemaker"]


class MatchConfig(ConfigModel):
    """Conditions of a route: all must hold; the longest path wins, then the route with more conditions."""

    grpc: Annotated[str | None, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*(/[A-Za-z_][A-Za-z0-9_]*)?$")] = None
    """``package.Service/Method`` or ``package.Service``: as ``path`` with a slash before it, and POST alone."""
    path: Path = "/"
    """Prefix of whole path segments: /v2/models/a matches /v2/models/a/infer, but not /v2/models/ab."""
    host: Annotated[tuple[HostPattern, ...], OneOrMore] = ()
    """Any of these host names, without port; ``*.example.com`` matches every name under it."""
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)
    methods: Annotated[tuple[Method, ...], OneOrMore] = ()
    model: Annotated[tuple[str, ...], OneOrMore] = ()
    """Any of these values of `model` in an OpenAI body."""
    protocol: Annotated[tuple[Protocol, ...], OneOrMore] = ()
    """Protocols of the backends, which tell inferences from other requests; if empty, every request is a decision."""
    infer: Annotated[tuple[Path, ...], OneOrMore] = ()
    """Further paths that infer, by their ends."""

    @model_validator(mode="before")
    @classmethod
    def _path_of_grpc(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("grpc"), str):
            path = "/" + value["grpc"]
            if value.get("path", path) != path:
                raise ValueError("'grpc' and 'path' name different paths; write one of them")
            return {"methods": ["POST"], **value, "path": path}
        return value


UNMATCHED: Final = MatchConfig.model_construct(path="")
"""The ``match`` of a route that proxies nothing."""


class UnitConfig(ConfigModel):
    """Sticky-unit key: requests with the same key stay on one variant; set exactly one source."""

    header: HeaderName | None = None
    cookie: str | None = None
    query: str | None = None
    json_: Annotated[str | None, Field(alias="json", min_length=1)] = None
    """Path in the JSON body, keys joined by dots: ``user`` or ``parameters.user``."""
    principal: Literal[True] | None = None
    """True: the API key, or the subject of the token."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = (self.header, self.cookie, self.query, self.json_, self.principal)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("write exactly one of 'header', 'cookie', 'query', 'json' and 'principal'")
        return self


class RewriteConfig(ConfigModel):
    path: Path | None = None
    """Replaces the matched prefix."""
    version: Version | None = None
    """Replaces the model version in a path of the Open Inference Protocol or TensorFlow Serving."""
    model: Annotated[str | None, Field(min_length=1)] = None
    """Replaces `model` in an OpenAI body."""
    host: HostName | None = None


class PriceConfig(ConfigModel):
    """Prices of a million tokens, in any currency."""

    input: Amount
    output: Amount = 0.0
    cached_input: Amount | None = None
    """Input tokens that the provider read from its cache; if absent, as ``input``."""


class VariantConfig(ConfigModel):
    backend: Name = ""
    """Backend that serves it; absent in a route without ``match`` alone."""
    rewrite: RewriteConfig = RewriteConfig()
    headers: Mapping[SetHeaderName, HeaderValue] = Field(default_factory=dict)
    """Headers set on every request to the variant, replacing those of the client."""
    price: PriceConfig | None = None
    """Prices of tokens, for the cost of responses."""
    payload: JsonValue = None
    """What `POST /-/decide` returns for the variant: any JSON, for example a prompt or a price."""


class RespondConfig(ConfigModel):
    """A fixed response, with at most one of ``json`` and ``text``."""

    status: Annotated[Count, Field(ge=200, le=599)] = 200
    json_: Annotated[JsonValue, Field(alias="json")] = None
    text: str | None = None
    headers: Mapping[SetHeaderName, HeaderValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if "json_" in self.model_fields_set and self.text is not None:
            raise ValueError("write 'json' or 'text', not both")
        if self.status in (204, 205, 304) and ("json_" in self.model_fields_set or self.text is not None):
            raise ValueError(f"a response with status {self.status} has no body; leave 'json' and 'text' out")
        return self


class FixedResponseConfig(ConfigModel):
    """A fixed response as the last entry of a fallback list."""

    respond: RespondConfig


def _fallback_kind(value: Any) -> str:
    return "response" if isinstance(value, Mapping | FixedResponseConfig) else "variant"


FallbackEntry = Annotated[
    Annotated[Name, Tag("variant")] | Annotated[FixedResponseConfig, Tag("response")],
    Discriminator(_fallback_kind),
]


def _of_errors(found: frozenset[int]) -> frozenset[int]:
    if min(found, default=400) < 400:
        raise ValueError(f"a response with {min(found)} is not a failure; write statuses from 400 to 599")
    return found


FailureStatuses = Annotated[Statuses, AfterValidator(_of_errors)]


class FallbackOnConfig(ConfigModel):
    """Failures of the assigned variant that trigger the fallback."""

    connect: bool = True
    """The request was not sent: address not reached, no healthy address, no free place."""
    timeout: bool = True
    """The response did not start in time."""
    reset: bool = True
    """The connection broke, or the backend sent no valid HTTP, before the response started."""
    status: FailureStatuses = frozenset({500, 502, 503, 504})
    """The backend responded with one of these status codes. Those below 500, for example 429, then also count as errors
    of the variant, but not towards the ejection of the address."""


class ClientErrorConfig(ConfigModel):
    """Responses with a server status that faulty requests of clients cause."""

    status: SomeStatuses
    body: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], OneOrMore] = ()
    """Any of these texts in the first 16 KiB of the response; if empty, every response with the status."""

    @model_validator(mode="after")
    def _server_statuses(self) -> Self:
        if min(self.status) < 500:
            raise ValueError(
                "statuses below 500 count as the client's anyway; write statuses from 500 to 599"
            )
        return self


class ErrorsConfig(ConfigModel):
    """Whose fault a response is."""

    client: tuple[ClientErrorConfig, ...] = ()
    """Faults of clients: forwarded as they are, and never counted against the variant or its addresses."""


class RetryOnConfig(ConfigModel):
    """Failures that are retried at the same variant."""

    connect: bool = True
    timeout: bool = False
    reset: bool = True
    status: FailureStatuses = frozenset({502, 503, 504})


class TimeoutsConfig(ConfigModel):
    connect: PositiveDuration = 1.0
    first_byte: PositiveDuration = 30.0
    """Time from the last byte of the request to the first byte of the response."""
    idle: PositiveDuration = 30.0
    """Time between two parts of the response."""
    total: PositiveDuration | None = 300.0
    """Time from the request's first byte to the response's last, over all attempts; null: no limit."""


class BackoffConfig(ConfigModel):
    """Random delay before the n-th retry, at most base · 2^(n-1) and at most max."""

    base: Duration = 0.025
    max: Duration = 0.25


class RetryConfig(ConfigModel):
    """Retries at the same variant; a request that was not sent is always safe to retry."""

    attempts: Annotated[PositiveInt, Field(le=10)] = 2
    """Maximum number of attempts at one variant, including the first; 1: no retries."""
    on: RetryOnConfig = RetryOnConfig()
    replayable: bool = False
    """Whether a request that was sent may be sent again; only for backends without side effects."""
    backoff: BackoffConfig = BackoffConfig()
    budget: Share = 0.2
    """Maximum number of concurrent retries, as a share of the requests in flight at the backend."""
    min: Count = 3
    """Number of concurrent retries that is always allowed, regardless of ``budget``."""


class HedgeConfig(ConfigModel):
    """A second copy of a slow request to another address; the first response is used."""

    after: PositiveDuration
    max_share: Annotated[Share, Field(gt=0)] = 0.05
    """Maximum share of the route's requests that get a second copy."""


class ComparisonConfig(ConfigModel):
    """How a shadow's response is compared with the primary's."""

    type: Form = "auto"
    paths: Annotated[tuple[str, ...], OneOrMore] = ()
    """Compare only these: keys joined by dots (`*`: every key), tensor names for `v2`; if empty, everything."""
    ignore: Annotated[tuple[str, ...], OneOrMore] = ()
    """Do not compare these, named as in ``paths``."""
    argmax: Annotated[tuple[str, ...], OneOrMore] = ()
    """For these, named as in ``paths``, compare only the index of the largest number."""
    tolerance: Amount = 1e-4
    """Numbers a and b agree if |a - b| ≤ tolerance · max(1, |a|, |b|)."""

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if "*" in self.ignore:
            raise ValueError("'ignore: *' leaves nothing to compare; name the keys to ignore")
        return self


class MirrorConfig(ConfigModel):
    """Copies of an engine's requests; their responses are discarded."""

    backend: Name
    """Where copies go, for example to a gateway whose route compares versions."""
    share: Annotated[Share, Field(gt=0)]
    """Share of the requests that are copied."""


class RouteConfig(ConfigModel):
    match: MatchConfig = UNMATCHED
    """If absent, the route proxies nothing: its variants are assigned by `POST /-/decide` alone."""
    variants: Annotated[Mapping[Name, VariantConfig], Field(min_length=1)]
    policy: PolicyConfig
    unit: UnitConfig | None = None
    """Sticky-unit key; if absent, each request is assigned independently."""
    segments: Mapping[Name, SegmentConfig] = Field(default_factory=dict)
    """Features of the request by whose values the variants are compared too."""
    covariates: Mapping[Name, CovariateConfig] = Field(default_factory=dict)
    """Numbers of the request by which metrics with ``adjust: NAME`` are compared."""
    engine: Name | None = None
    """Fleet of other proxies that serves the route; if absent, the gateway does."""
    httproute: ObjectName | None = None
    """``NAMESPACE/NAME`` or ``NAME`` of the HTTPRoute that gets the weights; if absent, that of the route's name."""
    shadows: Mapping[Name, Share] = Field(default_factory=dict)
    """Variants that receive copies of requests, in addition to the policy."""
    mirror: MirrorConfig | None = None
    """Copies that an engine of the type ``envoy`` sends."""
    fallback: tuple[FallbackEntry, ...] = ()
    fallback_on: FallbackOnConfig = FallbackOnConfig()
    errors: ErrorsConfig = ErrorsConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    retry: RetryConfig = RetryConfig()
    hedge: HedgeConfig | None = None
    body_limit: Size | None = None
    """Maximum size of a request body; if absent, `limits.body`."""
    buffer_limit: Size = 4 * 1024 * 1024
    """Maximum size of a body that is kept in memory for retries, shadows and rules on the body."""
    feedback: tuple[Name, ...] | None = None
    """Metrics that clients may report; if absent, all."""
    forward_credentials: bool = False
    """Whether the client's gateway credential is forwarded to the backend."""
    comparison: ComparisonConfig = ComparisonConfig()
    usage: Literal["request"] | bool = False
    """Whether token counts are read from the responses of language models; "request": streams are asked for them."""

    @property
    def proxied(self) -> bool:
        """Whether the route serves requests, and not only `POST /-/decide`."""
        return bool(self.match.path)

    @property
    def rescuers(self) -> list[str]:
        """The variants of ``fallback``."""
        return [entry for entry in self.fallback if isinstance(entry, str)]

    @property
    def failing_statuses(self) -> frozenset[int]:
        """Statuses below 500 that count as failures of the variant, because ``fallback_on`` or ``retry`` names them."""
        return frozenset(s for s in self.fallback_on.status | self.retry.on.status if s < 500)

    @property
    def named_backends(self) -> Iterator[tuple[KeyPath, str]]:
        """Where the route names a backend, and its name."""
        for name, variant in self.variants.items():
            yield ("variants", name, "backend"), variant.backend
        if self.mirror is not None:
            yield ("mirror", "backend"), self.mirror.backend

    @property
    def all_shadows(self) -> dict[str, float]:
        """Name → share of the policy's shadows and the route's own, which take precedence."""
        own = self.policy.shadows if self.policy.type == "shadow" else {}
        return {**own, **self.shadows}
