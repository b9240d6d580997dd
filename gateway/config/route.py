"""The `routes` section: what is matched, who may answer, and what happens when one fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from gateway.config.part import (
    HeaderName,
    HeaderValue,
    HostName,
    Method,
    Name,
    OneOrMore,
    Part,
    Path,
    Version,
)
from gateway.config.policy import Policy
from gateway.config.units import Above, Amount, Count, Duration, Positive, Share, Size, Statuses
from policies.comparison.bodies import Form


class Match(Part):
    """All that is written must hold. The longest path wins; then the route with more conditions."""

    path: Path = "/"
    """A prefix of whole segments: /v2/models/a matches /v2/models/a/infer, not /v2/models/ab."""
    host: Annotated[tuple[str, ...], OneOrMore] = ()
    """Any of these names, without port; ``*.example.com`` stands for every name below."""
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)
    methods: Annotated[tuple[Method, ...], OneOrMore] = ()
    model: Annotated[tuple[str, ...], OneOrMore] = ()
    """Any of these as the `model` of an OpenAI body."""


class Unit(Part):
    """Whom to keep on one variant. Exactly one source."""

    header: HeaderName | None = None
    cookie: str | None = None
    query: str | None = None
    json_: Annotated[str | None, Field(alias="json", min_length=1)] = None
    """Keys of the JSON body joined by dots: ``user`` or ``parameters.user``."""
    principal: Literal[True] | None = None
    """The API key or the subject of the token."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = (self.header, self.cookie, self.query, self.json_, self.principal)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("write exactly one of 'header', 'cookie', 'query', 'json' and 'principal'")
        return self


class Rewrite(Part):
    path: Path | None = None
    """In place of the matched prefix; what follows the prefix is kept."""
    version: Version | None = None
    """In place of the model's version in a path of the Open Inference Protocol or TensorFlow Serving."""
    model: Annotated[str | None, Field(min_length=1)] = None
    """In place of `model` in an OpenAI body."""
    host: HostName | None = None


class Variant(Part):
    backend: Name
    rewrite: Rewrite = Rewrite()
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Set on every request to it, in place of what the client sent under the same names."""


class Respond(Part):
    """A fixed answer. At most one of ``json`` and ``text``."""

    status: Annotated[Count, Field(ge=200, le=599)] = 200
    json_: Annotated[JsonValue, Field(alias="json")] = None
    text: str | None = None
    headers: Mapping[HeaderName, HeaderValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if "json_" in self.model_fields_set and self.text is not None:
            raise ValueError("write 'json' or 'text', not both")
        if self.status in (204, 205, 304) and ("json_" in self.model_fields_set or self.text is not None):
            raise ValueError(f"an answer with status {self.status} has no body; leave 'json' and 'text' out")
        return self


class FixedAnswer(Part):
    """The last entry of a fallback list may be one of these instead of a variant's name."""

    respond: Respond


def _fallback_kind(value: Any) -> str:
    return "answer" if isinstance(value, Mapping | FixedAnswer) else "variant"


FallbackEntry = Annotated[
    Annotated[Name, Tag("variant")] | Annotated[FixedAnswer, Tag("answer")], Discriminator(_fallback_kind)
]


class FallbackOn(Part):
    """Which failures of the assigned variant send a request on to the next."""

    connect: bool = True
    """It was never sent: not reached, no healthy address, no free place."""
    timeout: bool = True
    """The answer did not begin in time."""
    reset: bool = True
    """The connection broke, or spoke no HTTP, before the answer began."""
    status: Statuses = frozenset({500, 502, 503, 504})


class RetryOn(Part):
    """Which failures are tried again at the same variant."""

    connect: bool = True
    timeout: bool = False
    reset: bool = True
    status: Statuses = frozenset({502, 503, 504})


class Timeouts(Part):
    connect: Positive = 1.0
    first_byte: Positive = 30.0
    """From the request's last byte to the answer's first."""
    idle: Positive = 30.0
    """Between two pieces of the answer."""
    total: Positive | None = 300.0
    """From the request's first byte to the answer's last, over all attempts; null: no limit."""


class Backoff(Part):
    """Before the n-th repetition: a random time up to base · 2^(n-1), at most max."""

    base: Duration = 0.025
    max: Duration = 0.25


class Retry(Part):
    """Repetitions at the same variant. What was never sent is always safe to repeat."""

    attempts: Annotated[Above, Field(le=10)] = 2
    """All tries of one variant together; 1 repeats nothing."""
    on: RetryOn = RetryOn()
    replayable: bool = False
    """Whether a request that was sent may be sent again."""
    backoff: Backoff = Backoff()
    budget: Share = 0.2
    """Repetitions as a share of the requests in flight at the backend ..."""
    min: Count = 3
    """... of which so many are always allowed."""


class Hedge(Part):
    """A second copy to another address when the first takes long; the first answer wins."""

    after: Positive
    max_share: Annotated[Share, Field(gt=0)] = 0.05
    """Of the route's requests."""


class Comparison(Part):
    """How a shadow's answer is compared with the primary's."""

    type: Form = "auto"
    paths: Annotated[tuple[str, ...], OneOrMore] = ()
    """Only these: keys joined by dots (`*` is every key), tensors' names for `v2`; empty: all that counts."""
    ignore: Annotated[tuple[str, ...], OneOrMore] = ()
    """Everything but these (named likewise)."""
    argmax: Annotated[tuple[str, ...], OneOrMore] = ()
    """Of these (named likewise) only the place of the largest number is compared."""
    tolerance: Amount = 1e-4
    """Numbers a and b agree when |a - b| ≤ tolerance · max(1, |a|, |b|)."""


class Route(Part):
    match: Match
    variants: Annotated[Mapping[Name, Variant], Field(min_length=1)]
    policy: Policy
    unit: Unit | None = None
    """None: every request is its own unit."""
    shadows: Mapping[Name, Share] = Field(default_factory=dict)
    """Variants that get copies, whatever the policy; with the policy's own in `all_shadows`."""
    fallback: tuple[FallbackEntry, ...] = ()
    fallback_on: FallbackOn = FallbackOn()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    hedge: Hedge | None = None
    body_limit: Size | None = None
    """None: `limits.body`."""
    buffer_limit: Size = 1024 * 1024
    """The most of a body that is kept for repetition, shadows and rules on the body."""
    feedback: tuple[Name, ...] | None = None
    """The metrics that may be reported; None: all."""
    forward_credentials: bool = False
    """Whether the client's credential for the gateway goes on to the backend."""
    comparison: Comparison = Comparison()

    @property
    def all_shadows(self) -> dict[str, float]:
        """Name → share of the policy's shadows and the route's own (which win)."""
        own = self.policy.shadows if self.policy.type == "shadow" else {}
        return {**own, **self.shadows}
