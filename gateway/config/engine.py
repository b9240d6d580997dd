"""The `engines` section, and what a data plane that is not the gateway itself cannot do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator

from gateway.config.backend import BackendConfig, is_ip
from gateway.config.faults import KeyPath
from gateway.config.model import ConfigModel, OneOrMore
from gateway.config.route import RouteConfig
from gateway.config.units import PositiveDuration, Share

MIN_TOKEN_CHARACTERS: Final = 16
ROWS_BUFFER_BYTES: Final = 1024 * 1024
"""Rows that a node collects for one export: about 2,400, since the gateway handles each export as a request."""
MIN_CONTROL_BODY_BYTES: Final = 2 * ROWS_BUFFER_BYTES
"""An export ends with the row that fills the buffer."""


def _token(value: str) -> str:
    if len(value) < MIN_TOKEN_CHARACTERS or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(
            f"a token has at least {MIN_TOKEN_CHARACTERS} printable ASCII characters and no space; "
            "write ${ENV} with the secret of 'turnout keys new'"
        )
    return value


EngineToken = Annotated[str, AfterValidator(_token)]


class EngineConfig(ConfigModel):
    """A fleet of other proxies that serve routes on Turnout's allocations."""

    type: Literal["envoy", "haproxy"]
    token: EngineToken
    """Secret with which the nodes fetch their routes and send their outcomes; each engine has its own."""
    nodes: Annotated[tuple[str, ...], OneOrMore] = ("*",)
    """Names that nodes may have; ``*`` stands for any characters."""
    ids: Literal["stamped", "joined", "sealed"] = "stamped"
    """How decision ids are made; ``stamped``: from a part that is signed when an allocation is published.
    ``joined``: as stamped, and a reward counts only with the row of its request. ``sealed``: signed by the node,
    request by request."""
    max_lost_rows: Share = 0.01
    """Greatest part of the rows of five minutes that nodes may lose; above it, comparisons are not trusted."""
    forget: PositiveDuration = 3600.0
    """A node that has been silent for this long is gone: no longer listed, and no rollout waits for it."""


class Range(NamedTuple):
    """What a proxy's own configuration can hold."""

    proxy: str
    seconds: float
    longest: str
    """A time below ``seconds``."""
    number: int


RANGES: Final = {
    "envoy": Range("Envoy", 9_223_372_035.0, "106751d", 2**32 - 1),
    "haproxy": Range("HAProxy", (2**31 - 1) / 1000, "24d", 2**31 - 1),
}
"""By type of engine; as Envoy 1.40 and HAProxy 2.6 say. HAProxy takes some larger counts, but wraps them."""


def admits(nodes: Iterable[str], name: str) -> bool:
    """Whether a node may have this name. ``nodes``: as the engine declares them."""
    return any(fnmatchcase(name, pattern) for pattern in nodes)


Refusal = tuple[KeyPath, str]
"""Key path inside the route, and what is wrong with it."""


def refusals(route: RouteConfig, backends: Mapping[str, BackendConfig], kind: str) -> Iterator[Refusal]:
    """What an engine of type ``kind`` cannot do of ``route``, with what to write instead."""
    if route.httproute is not None:
        yield ("httproute",), "only an engine of the type kubernetes has HTTPRoutes; remove it"
    yield from _of_requests(route)
    yield from of_policy(route, ", and send it copies by 'mirror'" if kind == "envoy" else "")
    yield from _of_failures(route)
    yield from _of_variants(route, backends)
    yield from (_of_haproxy if kind == "haproxy" else _of_envoy)(route, backends)
    yield from _out_of_range(route, backends, RANGES[kind])


def _out_of_range(
    route: RouteConfig, backends: Mapping[str, BackendConfig], limits: Range
) -> Iterator[Refusal]:
    """Times and counts that the proxy refuses, or takes for others."""
    for section in ("timeouts", "retry"):
        for key, most in _too_large(getattr(route, section), limits):
            yield (section, *key), f"{limits.proxy} holds no more than {most}; write that or less"
    for at, backend in _backends(route, backends):
        for key, most in _too_large(backend, limits):
            option = ".".join(key)
            yield at, f"{limits.proxy} holds no more than {most}; use a backend with a smaller '{option}'"


def _too_large(section: ConfigModel, limits: Range) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys of times (floats) and counts beyond ``limits``, each with what is allowed."""
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, ConfigModel):
            yield from (((key, *inner), most) for inner, most in _too_large(value, limits))
        elif isinstance(value, float) and value > limits.seconds:
            yield (key,), limits.longest
        elif isinstance(value, int) and value > limits.number:
            yield (key,), str(limits.number)


def _of_requests(route: RouteConfig) -> Iterator[Refusal]:
    for key in ("protocol", "infer"):
        if getattr(route.match, key):
            yield (
                ("match", key),
                "for an engine every request is a decision; remove it, or match 'path' more closely",
            )
    if route.match.model:
        yield ("match", "model"), "an engine does not read bodies; match a path or a header"
    if route.match.grpc is not None:
        yield ("match", "grpc"), "an engine does not serve gRPC; run the route without 'engine'"
    if route.unit is not None and route.unit.header is None:
        yield ("unit",), "an engine takes units from a header alone; write 'header: NAME'"
    if route.body_limit is not None:
        yield ("body_limit",), "an engine does not limit bodies; remove it, and limit them at the node"


def of_policy(route: RouteConfig, hint: str) -> Iterator[Refusal]:
    """What no engine can do of a policy. ``hint``: what else to do about shadows."""
    policy = route.policy
    if route.segments:
        yield ("segments",), "an engine does not read segments; remove them"
    if route.covariates:
        yield ("covariates",), "an engine does not read covariates; remove them"
    if route.all_shadows:
        at = ("shadows",) if route.shadows else ("policy", "shadows")
        yield at, f"an engine throws copies' responses away; run the shadow on a route without 'engine'{hint}"
    if policy.type == "canary" and policy.gate is not None:
        yield ("policy", "gate"), "an engine has no shadows to pass a gate with; remove it"
    if policy.type == "bandit" and policy.features:
        yield ("policy", "features"), "an engine does not decide by features; write 'algorithm: thompson'"


def _of_failures(route: RouteConfig) -> Iterator[Refusal]:
    if route.usage:
        yield ("usage",), "an engine does not read bodies; remove it"
    if route.errors.client:
        yield ("errors", "client"), "an engine does not read bodies; remove it"
    if route.hedge is not None:
        yield ("hedge",), "an engine does not hedge; remove it"
    for index, entry in enumerate(route.fallback):
        if not isinstance(entry, str):
            yield ("fallback", index), "an engine has no fixed responses; write the name of a variant"


def _of_variants(route: RouteConfig, backends: Mapping[str, BackendConfig]) -> Iterator[Refusal]:
    for name, variant in route.variants.items():
        here = ("variants", name)
        if variant.rewrite.model is not None:
            yield (
                (*here, "rewrite", "model"),
                "an engine does not read bodies; serve the model under an alias",
            )
        if variant.rewrite.version is not None:
            yield (*here, "rewrite", "version"), "an engine replaces prefixes alone; write 'path'"
    for at, backend in _backends(route, backends):
        if backend.http2:
            yield at, "an engine speaks HTTP/1.1 with backends; write the address with http:// or https://"
        if backend.tls.cert is not None:
            yield at, "an engine has no client certificate for a backend; use one without 'tls.cert'"


def _backends(
    route: RouteConfig, backends: Mapping[str, BackendConfig]
) -> Iterator[tuple[KeyPath, BackendConfig]]:
    """The backends that a route names and that exist."""
    return ((at, backends[name]) for at, name in route.named_backends if name in backends)


def _of_envoy(route: RouteConfig, backends: Mapping[str, BackendConfig]) -> Iterator[Refusal]:
    rescuers = route.rescuers
    hosts = {backends[v.backend].host for v in route.variants.values() if v.backend in backends}
    if len(hosts) > 1:
        yield (
            ("variants",),
            "Envoy rewrites the host for all variants or for none; give all backends one 'host'",
        )
    for at, backend in _backends(route, backends):
        if backend.addresses[0].secure and backend.tls.verify and backend.tls.ca is None:
            message = (
                "Envoy does not know the system's CAs; write 'tls: {ca: FILE}' at the backend, for example "
                "/etc/ssl/certs/ca-certificates.crt"
            )
            yield at, message
        if backend.health is not None and backend.health.method == "CONNECT":
            yield at, "Envoy does not probe with CONNECT; use a backend with another 'health.method'"
    for at, value in _header_values(route, backends):
        if not value.isascii():
            yield at, "Envoy writes headers in UTF-8, and not in ISO 8859-1; write values in ASCII"
    for name, variant in route.variants.items():
        if variant.backend not in backends:
            continue
        for other in rescuers:
            if other in route.variants and other != name and not _alike(route, name, other, backends):
                message = (
                    f"Envoy sends a request to the fallback {other!r} as it would to {name!r}; give both the "
                    "same path, host and headers, or remove the fallback"
                )
                yield ("variants", name), message
                break


def _header_values(
    route: RouteConfig, backends: Mapping[str, BackendConfig]
) -> Iterator[tuple[KeyPath, str]]:
    """The values of headers that requests must or will have."""
    yield from ((("match", "headers", field), value) for field, value in route.match.headers.items())
    for name, variant in route.variants.items():
        yield from ((("variants", name, "headers", field), value) for field, value in variant.headers.items())
    for at, backend in _backends(route, backends):
        yield from ((at, value) for value in backend.headers.values())


def _alike(route: RouteConfig, name: str, other: str, backends: Mapping[str, BackendConfig]) -> bool:
    """Whether a request to ``name`` can be sent to ``other`` unchanged."""
    one, two = route.variants[name], route.variants[other]
    mine, its = backends[one.backend], backends.get(two.backend)
    return its is None or (
        (one.rewrite, one.headers, mine.headers, mine.host, mine.addresses[0].path)
        == (two.rewrite, two.headers, its.headers, its.host, its.addresses[0].path)
    )


HAPROXY_RETRIED: Final = frozenset((401, 403, 404, 408, 425, 500, 501, 502, 503, 504))
"""Statuses that HAProxy can retry."""
HAPROXY_VARIANTS: Final = 36
"""Whose ranges fit into a command (`gateway.engines.haproxy.config.MAX_RANGES_BYTES`), however long the names are."""
HAPROXY_HEADERS: Final = 50
"""Conditions that fit into a line of HAProxy, of 64 words, with those on the path, the host and the method."""


def _of_haproxy(route: RouteConfig, backends: Mapping[str, BackendConfig]) -> Iterator[Refusal]:
    if len(route.variants) > HAPROXY_VARIANTS:
        yield ("variants",), f"HAProxy holds the ranges of at most {HAPROXY_VARIANTS} variants; write fewer"
    if len(route.match.headers) > HAPROXY_HEADERS:
        yield ("match", "headers"), f"HAProxy matches at most {HAPROXY_HEADERS} headers; write fewer"
    if route.mirror is not None:
        yield ("mirror",), "HAProxy does not copy requests; remove it"
    if route.fallback:
        yield ("fallback",), "HAProxy never sends a request to another variant; remove it"
    for key in route.retry.model_fields_set & {"backoff", "budget", "min"}:
        yield ("retry", key), "HAProxy retries immediately and without a budget; remove it"
    if route.retry.replayable and route.retry.on.status - HAPROXY_RETRIED:
        statuses = ", ".join(map(str, sorted(HAPROXY_RETRIED)))
        yield ("retry", "on", "status"), f"HAProxy retries these statuses alone: {statuses}"
    if route.timeouts.first_byte != route.timeouts.idle:
        yield ("timeouts",), "HAProxy has one timeout for both; give 'first_byte' and 'idle' the same value"
    if route.timeouts.total is not None and "total" in route.timeouts.model_fields_set:
        yield ("timeouts", "total"), "HAProxy does not limit the time of a whole request; write null"
    for at, backend in _backends(route, backends):
        for message in _of_haproxy_backend(backend):
            yield at, message


def _of_haproxy_backend(backend: BackendConfig) -> Iterator[str]:
    at, ejection = backend.addresses[0], backend.ejection
    written = ejection.model_fields_set - {"consecutive", "base"} if ejection is not None else ()
    if written:
        yield (
            f"HAProxy ejects by 'consecutive' and 'base' alone; use a backend without 'ejection.{min(written)}'"
        )
    if at.secure and backend.tls.verify and is_ip(backend.tls.server_name or at.host):
        yield "HAProxy verifies names and not IP addresses; write 'tls: {server_name: NAME}' at the backend"
    if any("%" in a.host for a in backend.addresses):
        yield "HAProxy takes no interface in an address; write one without '%'"
    if (
        len(backend.addresses) > 1
        and backend.host == "backend"
        and any(":" in a.host for a in backend.addresses)
    ):
        yield "HAProxy cannot send an IPv6 address as the host; write 'host: preserve' at the backend, or names"
