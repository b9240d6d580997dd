"""Makes the snapshot that the data plane reads, from a document and the allocation of each route. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from sys import maxsize
from typing import Final

from gateway.auth.principal import Authenticator, Bucket, Principal, Verifier
from gateway.compile.arrange import RouteAllocation
from gateway.compile.plans import covariate_features, features_of, placement, segment_features
from gateway.compile.protocols import inferring
from gateway.config.backend import BackendConfig
from gateway.config.document import Document
from gateway.config.features import RequestValueConfig
from gateway.config.route import (
    FallbackOnConfig,
    FixedResponseConfig,
    RespondConfig,
    RetryOnConfig,
    RouteConfig,
    VariantConfig,
)
from gateway.config.service import LimitsConfig
from gateway.dataplane.request.features import FeatureExtractor
from gateway.dataplane.snapshot import (
    Condition,
    Failures,
    HedgePlan,
    Limits,
    Retry,
    RoutePlan,
    ShadowLimits,
    Snapshot,
    Timeouts,
    UnitKind,
    UnitSource,
)
from gateway.dataplane.tables import IdPrefix, Table
from gateway.dataplane.timed import NEVER
from gateway.dataplane.variant import FixedResponse, VariantPlan
from gateway.errors import codes_of
from gateway.http import browsers
from gateway.http.browsers import Browsers
from gateway.http.fields import FORWARDED_PREFIXES, KEEP, KEEP_OF_PROXY, credential_actions
from gateway.telemetry.tracing.sampling import Tracing
from gateway.transport.balancer import Backend
from gateway.transport.health import Health
from gateway.transport.limiter import ConcurrencyLimiter, Limit
from policies.allocation.bucketing import keyed
from policies.allocation.model import Allocation
from policies.comparison.bodies import Comparison
from policies.contextual.bandit import Ensemble
from policies.contextual.features import Feature


def snapshot(
    document: Document,
    routes: Mapping[str, RoutePlan],
    *,
    bucket: Callable[[str, float], Bucket],
    verify: Verifier | None,
    tracing: Tracing | None,
) -> Snapshot:
    """The snapshot of ``document``; its revision is set when it is put in force."""
    made = Snapshot(
        revision=0,
        routes=routes,
        authenticator=_authenticator(document, bucket, verify),
        limits=_limits(document.limits, document.shutdown.idle),
        trusted=_trusted(document),
        tracing=tracing,
        served=[plan for name, plan in routes.items() if _served(document.routes[name])],
    )
    for name in (*_looked_at(document), *(browsers.FIELDS if document.auth is None else ())):
        action = KEEP_OF_PROXY if name.startswith(FORWARDED_PREFIXES) else KEEP
        made.actions.by_name.setdefault(name, action)
    if document.auth is not None:
        made.actions.by_name.update(credential_actions(document.auth.accept))
    return made


def _served(route: RouteConfig) -> bool:
    return route.proxied and route.engine is None


def _looked_at(document: Document) -> set[bytes]:
    """Names of the request fields that routes or tracing read."""
    names: set[str] = set()
    if document.telemetry.traces is not None:
        names.update(("traceparent", "tracestate"))
    for route in document.routes.values():
        names.update(route.match.headers)
        if route.unit is not None and route.unit.header is not None:
            names.add(route.unit.header)
        if route.unit is not None and route.unit.cookie is not None:
            names.add("cookie")
        if route.policy.type == "bandit":
            names.update(f.header for f in route.policy.features.values() if f.header is not None)
        read = (*route.segments.values(), *route.covariates.values())
        names.update(one.header for one in read if one.header is not None)
    return {name.lower().encode() for name in names}


def _limits(limits: LimitsConfig, last_idle: float) -> Limits:
    own = limits.model_dump(exclude={"shadow", "websocket_life"})
    return Limits(
        **own,
        websocket_life=limits.websocket_life or 0.0,
        last_idle=last_idle,
        shadow=ShadowLimits(**limits.shadow.model_dump()),
    )


def _trusted(document: Document) -> Callable[[str], bool]:
    networks = [ip_network(network) for network in document.trusted_proxies]
    if not networks:
        return lambda peer: False

    def trusted(peer: str) -> bool:
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        # A socket for IPv6 names clients of IPv4 by mapped addresses.
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any(address in network or (mapped is not None and mapped in network) for network in networks)

    return trusted


def _authenticator(
    document: Document, bucket: Callable[[str, float], Bucket], verify: Verifier | None
) -> Authenticator:
    if document.auth is None:
        pages = document.browsers
        return Authenticator(None, browsers=Browsers(pages.hosts, pages.origins))
    keys = {}
    for key in document.auth.keys:
        routes = None if key.routes is None else frozenset(key.routes)
        limited = None if key.rate is None else bucket(key.id, key.rate)
        keys[key.digest] = Principal(key.id, frozenset(key.scopes), routes, limited)
    return Authenticator(keys, verify=verify, basic="basic" in document.auth.accept)


def route_plan(
    name: str, document: Document, backends: Mapping[str, Backend], held: RouteAllocation, id_prefix: IdPrefix
) -> RoutePlan:
    """One route with the allocation that it begins with."""
    route = document.routes[name]
    prefix = route.match.path.encode()
    variants = {
        key: _variant(
            key,
            index,
            variant,
            document.backends.get(variant.backend, _NO_ADDRESS),
            backends.get(variant.backend) or _nowhere(),
            bool(route.usage),
        )
        for index, (key, variant) in enumerate(route.variants.items())
    }
    times = route.timeouts
    extractor = _extractor(route)
    must_read = _reads_model(route) or (route.unit is not None and route.unit.json_ is not None)
    return RoutePlan(
        name=name,
        policy=route.policy.type,
        prefix=prefix,
        condition=_condition(route),
        variants=variants,
        table=Table(name, held.epoch, held.allocation, variants, id_prefix, extractor, held.ensemble),
        unit=_unit(route, name.encode(), placement(document, name)),
        fallback=tuple(
            _fixed(e.respond) if isinstance(e, FixedResponseConfig) else variants[e] for e in route.fallback
        ),
        fallback_on=_failures(route.fallback_on, "backend_status"),
        retry=Retry(
            attempts=route.retry.attempts - 1,
            on=_failures(route.retry.on),
            replayable=route.retry.replayable,
            backoff_base=route.retry.backoff.base,
            backoff_max=route.retry.backoff.max,
            share=route.retry.budget,
            least=route.retry.min,
        ),
        client_statuses=route.failing_statuses,
        hedge=HedgePlan(route.hedge.after, route.hedge.max_share) if route.hedge is not None else None,
        timeouts=Timeouts(
            times.connect or NEVER, times.first_byte or NEVER, times.idle or NEVER, times.total or NEVER
        ),
        body_limit=min(document.body_limit(name), route.buffer_limit if must_read else maxsize),
        buffer_limit=route.buffer_limit,
        forward_credentials=route.forward_credentials,
        shadows=tuple((variants[key], share) for key, share in held.allocation.shadows),
        needs_body=must_read or (extractor is not None and extractor.in_body) or route.usage == "request",
        reads_model=_reads_model(route),
        client_errors=_client_errors(route),
        infers=inferring(route.match.protocol, route.match.infer),
        reads_usage=bool(route.usage),
        requests_usage=route.usage == "request",
        comparison=Comparison(
            form=route.comparison.type,
            paths=route.comparison.paths,
            ignore=route.comparison.ignore,
            argmax=route.comparison.argmax or None,
            tolerance=route.comparison.tolerance,
        ),
    )


def _failures(on: FallbackOnConfig | RetryOnConfig, *codes: str) -> Failures:
    """``codes``: besides those of the kinds that ``on`` names."""
    return Failures(
        frozenset(codes).union(
            codes_of("connect") if on.connect else (),
            codes_of("timeout") if on.timeout else (),
            codes_of("reset") if on.reset else (),
        ),
        frozenset(on.status),
    )


def _client_errors(route: RouteConfig) -> dict[int, tuple[bytes, ...]]:
    texts: dict[int, tuple[bytes, ...]] = {}
    for rule in route.errors.client:
        for status in rule.status:
            texts[status] = texts.get(status, ()) + tuple(text.encode() for text in rule.body or ("",))
    return texts


def _reads_model(route: RouteConfig) -> bool:
    return bool(route.match.model) or any(v.rewrite.model is not None for v in route.variants.values())


def _extractor(route: RouteConfig) -> FeatureExtractor | None:
    if route.segments or route.covariates:
        read: dict[str, RequestValueConfig] = {**route.segments, **route.covariates}
        found: list[Feature] = [*segment_features(route), *covariate_features(route)]
        return FeatureExtractor([(f, *_source(read[f.name])) for f in found])
    if route.policy.type != "bandit" or not route.policy.features:
        return None
    features = features_of(route.policy)
    return FeatureExtractor([(f, *_source(route.policy.features[f.name])) for f in features])


def _source(feature: RequestValueConfig) -> tuple[bytes | None, tuple[str, ...]]:
    if feature.header is not None:
        return feature.header.lower().encode(), ()
    assert feature.json_ is not None
    return None, tuple(feature.json_.split("."))


def _condition(route: RouteConfig) -> Condition | None:
    match = route.match
    if not (match.host or match.methods or match.headers or match.model):
        return None
    return Condition(
        hosts=tuple(host.lower().encode() for host in match.host),
        methods=frozenset(method.encode() for method in match.methods),
        headers=tuple(
            (key.lower().encode(), value.encode("latin-1")) for key, value in match.headers.items()
        ),
        models=frozenset(match.model),
    )


def _unit(route: RouteConfig, salt: bytes, placement: tuple[int, int]) -> UnitSource | None:
    unit = route.unit
    if unit is None:
        return None
    kind: UnitKind
    if unit.header is not None:
        kind, name = "header", unit.header.lower()
    elif unit.cookie is not None:
        kind, name = "cookie", unit.cookie
    elif unit.query is not None:
        kind, name = "query", unit.query
    elif unit.json_ is not None:
        kind, name = "json", unit.json_
    else:
        kind, name = "principal", ""
    return UnitSource(kind, name.encode(), keyed(salt), placement)


def _lines(headers: Mapping[str, str]) -> bytes:
    return b"".join(b"%b: %b\r\n" % (k.encode(), v.encode("latin-1")) for k, v in headers.items())


def _variant(
    name: str, index: int, variant: VariantConfig, document: BackendConfig, backend: Backend, plain: bool
) -> VariantPlan:
    """``plain``: whether responses are read here, so that they must not be compressed."""
    headers = {key.lower(): value for key, value in (*document.headers.items(), *variant.headers.items())}
    if plain:
        headers["accept-encoding"] = "identity"
    rewrite = variant.rewrite
    return VariantPlan(
        name=name,
        index=index,
        backend=backend,
        backend_name=variant.backend,
        rewrite=rewrite.path.encode() if rewrite.path is not None else None,
        model=rewrite.model,
        host=rewrite.host.encode() if rewrite.host is not None else None,
        preserve_host=document.host == "preserve",
        lines=_lines(headers),
        drops=tuple(key.replace("_", "-").encode() + b":" for key in headers),
        response_line=b"x-variant: %b\r\n" % name.encode(),
        version=rewrite.version.encode() if rewrite.version is not None else None,
        base_path=document.addresses[0].path.encode() if document.addresses else b"",
    )


_NO_ADDRESS: Final = BackendConfig.model_construct()


def _nowhere() -> Backend:
    """The backend of a variant whose requests are not proxied."""
    unused = ConcurrencyLimiter(Limit(0, 0, 0.0))
    return Backend("", (), unused, lambda: 0.0, health=Health("", lambda kind, data: None))


def _fixed(respond: RespondConfig) -> FixedResponse:
    body = b""
    headers = {key.lower(): value for key, value in respond.headers.items()}
    if "json_" in respond.model_fields_set:
        body = json.dumps(respond.json_, ensure_ascii=False).encode()
        headers.setdefault("content-type", "application/json")
    elif respond.text is not None:
        body = respond.text.encode()
        headers.setdefault("content-type", "text/plain; charset=utf-8")
    return FixedResponse(respond.status, body, _lines(headers))


def swap(
    found: Snapshot,
    name: str,
    epoch: int,
    allocation: Allocation,
    ensemble: Ensemble | None,
    id_prefix: IdPrefix,
) -> bool:
    """Replaces the allocation of a route in a snapshot in force; False if it has no such route."""
    route = found.routes.get(name)
    if route is None:
        return False
    route.table = Table(name, epoch, allocation, route.variants, id_prefix, route.table.extractor, ensemble)
    route.shadows = tuple((route.variants[v], share) for v, share in allocation.shadows)
    return True
