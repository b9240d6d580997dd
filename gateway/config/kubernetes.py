"""The `engines` section of a Kubernetes cluster, and what weights of an HTTPRoute cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from gateway.config.engine import MIN_CONTROL_BODY_BYTES, EngineConfig, EngineToken, Refusal, of_policy
from gateway.config.model import ConfigModel, Namespace, WebUrl
from gateway.config.policy import bandit_of
from gateway.config.route import RouteConfig, VariantConfig
from gateway.config.units import Duration


class KubernetesConfig(ConfigModel):
    """A cluster whose HTTPRoutes get Turnout's shares as weights."""

    ids: ClassVar[Literal["none"]] = "none"
    nodes: ClassVar[tuple[str, ...]] = ()
    max_lost_rows: ClassVar[float] = 0.0
    forget: ClassVar[float] = inf

    type: Literal["kubernetes"]
    token: EngineToken
    """Secret with which a collector sends the rows of requests; each engine has its own."""
    namespace: Namespace | None = None
    """Namespace of HTTPRoutes that are named without one; if absent, the pod's."""
    server: WebUrl | None = None
    """URL of the API server; if absent, that of the pod's cluster."""
    server_token: str | None = None
    """Bearer token for the API server; if absent, the pod's, and with ``server`` none is sent."""
    ca: str | None = None
    """File with the CAs that sign the API server's certificate; if absent, the pod's, and with ``server`` the
    system's."""
    force_conflicts: bool = False
    """Whether weights that another field manager has changed are written again."""
    settle: Duration = 5.0
    """How long proxies may take to follow changed weights; requests of that time are recorded, and do not count."""


AnyEngine = Annotated[EngineConfig | KubernetesConfig, Field(discriminator="type")]


def engine_faults(engines: Mapping[str, AnyEngine], control_body: int) -> Iterator[Refusal]:
    """Faults of engines together. ``control_body``: limit of what a node may send, in bytes."""
    seen: dict[str, str] = {}
    for name, engine in engines.items():
        if engine.token in seen:
            yield (
                ("engines", name, "token"),
                f"the engine '{seen[engine.token]}' has the same token; generate another",
            )
        seen.setdefault(engine.token, name)
    if control_body < MIN_CONTROL_BODY_BYTES and any(
        engine.type != "kubernetes" for engine in engines.values()
    ):
        message = "nodes of engines send more than 1 MiB of rows at a time; write at least 2MiB, or remove it"
        yield ("limits", "control_body"), message


_OF_GATEWAY: Final = (
    "fallback", "fallback_on", "retry", "timeouts", "hedge", "body_limit", "buffer_limit", "errors", "usage",
    "forward_credentials", "comparison", "mirror",
)  # fmt: skip
"""What a gateway does with a request, and a weight does not."""


def weight_refusals(route: RouteConfig, *, request_ids: bool) -> Iterator[Refusal]:
    """What the weights of an HTTPRoute cannot do of ``route``. ``request_ids``: whether rewards may name a request."""
    if _written(route, "match"):
        yield ("match",), "the rules of the HTTPRoute say which requests it matches; remove it"
    if route.unit is not None:
        yield (
            ("unit",),
            "weights assign each request on its own; remove it, or run the route without 'engine'",
        )
    for key in _OF_GATEWAY:
        if _written(route, key):
            yield (
                (key,),
                "weights do no more than split requests; remove it, and let the cluster's gateway do it",
            )
    for name, variant in route.variants.items():
        for key in sorted(VariantConfig.model_fields.keys() - {"payload"}):
            if _written(variant, key):
                message = (
                    "the variant's backendRef names its service, and its filters change requests; remove it"
                )
                yield ("variants", name, key), message
    yield from of_policy(route, "")
    if bandit_of(route.policy) is not None and not request_ids:
        message = (
            "responses of an HTTPRoute have no decision id, so rewards name their request; "
            "write 'record: {request_ids: true}'"
        )
        yield ("policy",), message


def _written(section: ConfigModel, key: str) -> bool:
    default = type(section).model_fields[key].get_default(call_default_factory=True)
    return bool(getattr(section, key) != default)
