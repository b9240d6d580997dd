"""The `engines` section, and what a data plane that is not the gateway itself cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator

from gateway.config.backend import BackendConfig
from gateway.config.faults import KeyPath
from gateway.config.model import ConfigModel, OneOrMore
from gateway.config.route import RouteConfig
from gateway.config.units import PositiveDuration, Share

MIN_TOKEN_CHARACTERS: Final = 16


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

    type: Literal["envoy"]
    token: EngineToken
    """Secret with which the nodes fetch their routes and send their outcomes; each engine has its own."""
    nodes: Annotated[tuple[str, ...], OneOrMore] = ("*",)
    """Names that nodes may have; ``*`` stands for any characters."""
    ids: Literal["stamped", "joined"] = "stamped"
    """How decision ids are made; ``stamped``: from a part that is signed when an allocation is published.
    ``joined``: as stamped, and a reward counts only with the row of its request."""
    max_lost_rows: Share = 0.01
    """Greatest part of the rows of five minutes that nodes may lose; above it, comparisons are not trusted."""
    forget: PositiveDuration = 3600.0
    """A node that has been silent for this long is gone: no longer listed, and no rollout waits for it."""


Refusal = tuple[KeyPath, str]
"""Key path inside the route, and what is wrong with it."""


def refusals(route: RouteConfig, backends: Mapping[str, BackendConfig]) -> Iterator[Refusal]:
    """What an engine cannot do of ``route``, with what to write instead."""
    if route.httproute is not None:
        yield ("httproute",), "only an engine of the type kubernetes has HTTPRoutes; remove it"
    yield from _of_requests(route)
    yield from of_policy(route)
    yield from _of_failures(route)
    yield from _of_variants(route, backends)


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


def of_policy(route: RouteConfig) -> Iterator[Refusal]:
    """What no engine can do of a policy."""
    policy = route.policy
    if route.all_shadows:
        at = ("shadows",) if route.shadows else ("policy", "shadows")
        yield at, "an engine throws copies' responses away; run the shadow on a route without 'engine'"
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
    rescuers = [entry for entry in route.fallback if isinstance(entry, str)]
    hosts = {backends[v.backend].host for v in route.variants.values() if v.backend in backends}
    if len(hosts) > 1:
        yield (
            ("variants",),
            "an engine rewrites the host for all variants or for none; give all backends one 'host'",
        )
    for name, variant in route.variants.items():
        here, backend = ("variants", name), backends.get(variant.backend)
        if variant.rewrite.model is not None:
            yield (
                (*here, "rewrite", "model"),
                "an engine does not read bodies; serve the model under an alias",
            )
        if variant.rewrite.version is not None:
            yield (*here, "rewrite", "version"), "an engine replaces prefixes alone; write 'path'"
        if backend is None:
            continue
        if backend.http2:
            message = "an engine speaks HTTP/1.1 with backends; write the address with http:// or https://"
            yield (*here, "backend"), message
        if backend.tls.cert is not None:
            yield (
                (*here, "backend"),
                "an engine has no client certificate for a backend; use one without 'tls.cert'",
            )
        if backend.addresses[0].secure and backend.tls.verify and backend.tls.ca is None:
            message = (
                "an engine does not know the system's CAs; write 'tls: {ca: FILE}' at the backend, for example "
                "/etc/ssl/certs/ca-certificates.crt"
            )
            yield (*here, "backend"), message
        for other in rescuers:
            if other in route.variants and other != name and not _alike(route, name, other, backends):
                message = (
                    f"an engine sends a request to the fallback {other!r} as it would to {name!r}; give both the "
                    "same path, host and headers, or remove the fallback"
                )
                yield here, message
                break


def _alike(route: RouteConfig, name: str, other: str, backends: Mapping[str, BackendConfig]) -> bool:
    """Whether a request to ``name`` can be sent to ``other`` unchanged."""
    one, two = route.variants[name], route.variants[other]
    mine, its = backends[one.backend], backends.get(two.backend)
    return its is None or (
        (one.rewrite, one.headers, mine.headers, mine.host, mine.addresses[0].path)
        == (two.rewrite, two.headers, its.headers, its.host, its.addresses[0].path)
    )
