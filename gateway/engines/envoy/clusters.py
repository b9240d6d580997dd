"""One Envoy cluster for each variant of a route: its addresses first, those of the fallback behind them.

Each address carries the variant that it belongs to, so a response says which variant served it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.config.backend import Address, BackendConfig, EjectionConfig, HealthConfig, is_ip
from gateway.config.document import Document
from gateway.config.files import certificates
from gateway.config.route import RouteConfig

Json = dict[str, Any]

METADATA: Final = "turnout"
"""Name of the metadata that addresses carry."""
MIRROR: Final = "-"
"""Takes the place of a variant for addresses that get copies."""
_OVERWRITE: Final = "OVERWRITE_IF_EXISTS_OR_ADD"
_PATH_FILTER: Final = "turnout.path"
_ENVOY: Final = "type.googleapis.com/envoy"
_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_POLICIES: Final = {"least_load": "LEAST_REQUEST", "round_robin": "ROUND_ROBIN", "random": "RANDOM"}
_UNLIMITED: Final = 4_294_967_295


def cluster_name(route: str, variant: str) -> str:
    """Name of the cluster; no name of a route or variant holds a slash."""
    return f"{route}/{variant}"


def mirror_name(route: str) -> str:
    """Name of the cluster that gets copies; no variant has an empty name."""
    return cluster_name(route, "")


def clusters(document: Document, engine: str) -> Iterator[Json]:
    """The clusters of all routes of a fleet. Reads the CAs that backends name; raises OSError."""
    for name, route in document.engine_routes(engine).items():
        for variant in route.variants:
            yield _of_variant(name, route, variant, document.backends)
        if route.mirror is not None:
            backend = document.backends[route.mirror.backend]
            variants = route.variants.values()
            others = {name for v in variants for name in (*document.backends[v.backend].headers, *v.headers)}
            filters = [
                _fields(backend.headers, others),
                *_path(route.match.path, None, backend.addresses[0].path),
            ]
            yield _cluster(mirror_name(name), route, [(MIRROR, backend)], filters)


def _of_variant(name: str, route: RouteConfig, variant: str, backends: Mapping[str, BackendConfig]) -> Json:
    tried = [variant, *(other for other in route.rescuers if other != variant)]
    levels = [(other, backends[route.variants[other].backend]) for other in tried]
    base = levels[0][1].addresses[0].path
    filters = _path(route.match.path, route.variants[variant].rewrite.path, base)
    return _cluster(cluster_name(name, variant), route, levels, filters)


def _cluster(
    name: str, route: RouteConfig, levels: Sequence[tuple[str, BackendConfig]], filters: list[Json]
) -> Json:
    """``levels``: variants and their backends, the first one's own first; ``filters``: what a request passes."""
    backend = levels[0][1]
    made: Json = {
        "@type": f"{_ENVOY}.config.cluster.v3.Cluster",
        "name": name,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": seconds(route.timeouts.connect),
        "lb_policy": _POLICIES[backend.balance],
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"priority": level, "lb_endpoints": [_endpoint(other, its, at, its.health == backend.health)]}
                for level, (other, its) in enumerate(levels)
                for at in its.addresses
            ],
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": _panic(backend)}},
        "circuit_breakers": {"thresholds": [_limits(route, backend)]},
        "typed_extension_protocol_options": {_OPTIONS: _protocol(backend, filters)},
    }
    if any(at.secure for _, its in levels for at in its.addresses):
        made["transport_socket_matches"] = [_socket(other, its) for other, its in levels]
    if backend.health is not None:
        made["health_checks"] = [_health(backend.health, backend.addresses[0])]
    if backend.ejection is not None:
        made["outlier_detection"] = _outliers(backend.ejection)
    return made


def _endpoint(variant: str, backend: BackendConfig, at: Address, probed: bool) -> Json:
    endpoint: Json = {"address": {"socket_address": {"address": at.host, "port_value": at.port}}}
    if backend.host == "backend":
        endpoint["hostname"] = at.authority
    if not probed:
        endpoint["health_check_config"] = {"disable_active_health_check": True}
    metadata = {METADATA: {"variant": variant}, "envoy.transport_socket_match": {"variant": variant}}
    return {"endpoint": endpoint, "metadata": {"filter_metadata": metadata}}


def _panic(backend: BackendConfig) -> float:
    return 100.0 * (backend.ejection.panic if backend.ejection is not None else 0.5)


def _limits(route: RouteConfig, backend: BackendConfig) -> Json:
    made: Json = {
        # 1,024 by default; requests are limited instead.
        "max_connections": _UNLIMITED,
        "max_requests": backend.limit.in_flight,
        "max_pending_requests": max(1, backend.limit.waiting),
    }
    if route.rescuers:  # a fallback is a retry to Envoy, and is never withheld
        return made | {"max_retries": _UNLIMITED}
    share = {"value": 100.0 * route.retry.budget}
    return made | {"retry_budget": {"budget_percent": share, "min_retry_concurrency": route.retry.min}}


def _protocol(backend: BackendConfig, filters: list[Json]) -> Json:
    made: Json = {
        "@type": f"{_ENVOY}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": seconds(backend.pool.idle)},
    }
    if filters:
        codec = {"@type": f"{_ENVOY}.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}
        last = {"name": "envoy.filters.http.upstream_codec", "typed_config": codec}
        made["http_filters"] = [*filters, last]
    return made


def overwriting(name: str, value: str) -> Json:
    """A field in place of those that a client sent under its name."""
    # Else Envoy keeps the client's in place of an empty one.
    kept = {"keep_empty_value": True} if not value else {}
    return {"header": {"key": name, "value": value}, "append_action": _OVERWRITE, **kept}


def _fields(fields: Mapping[str, str], others: set[str]) -> Json:
    """The filter that gives copies the fields of their own backend, and none that is for those of variants."""
    mutations: list[Json] = [{"remove": name} for name in sorted(others)]
    mutations += [{"append": overwriting(key, value.replace("%", "%%"))} for key, value in fields.items()]
    return {
        "name": "turnout.fields",
        "typed_config": {
            "@type": f"{_ENVOY}.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": mutations},
        },
    }


def _path(prefix: str, other: str | None, base: str) -> list[Json]:
    """The filter that replaces ``prefix`` by ``other``, and puts ``base`` before it; none if there is neither."""
    if not base and other is None:
        return []
    lua = {
        "@type": f"{_ENVOY}.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": _path_filter(prefix, other, base)},
    }
    return [{"name": _PATH_FILTER, "typed_config": lua}]


def _path_filter(prefix: str, other: str | None, base: str) -> str:
    """Lua that puts ``base`` before the path, and ``other`` in place of ``prefix``.

    As in the gateway itself, exactly one slash stands between a replacement and what follows it. All attempts of a
    request share its headers and metadata, so the first one replaces the path for all.
    """
    lines = [
        "local known = handle:streamInfo():dynamicMetadata()",
        f'if known:get("{_PATH_FILTER}") then return end',
        f'known:set("{_PATH_FILTER}", "replaced", true)',
        "local headers = handle:headers()",
        'local path = headers:get(":path")',
    ]
    if other is not None:
        slash = '"/" .. ' if prefix.endswith("/") else ""
        lines += [
            f"local rest = string.sub(path, {len(prefix.encode()) + 1})",
            f"path = {_lua(other)} .. rest",
            f'if rest ~= "" and string.sub(rest, 1, 1) ~= "?" then path = {_lua(other.rstrip("/"))} .. {slash}rest end',
        ]
    lines.append(f'headers:replace(":path", {_lua(base)} .. path)')
    return "function envoy_on_request(handle)\n  " + "\n  ".join(lines) + "\nend"


def _lua(text: str) -> str:
    """``text`` as a Lua string of bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


def _socket(variant: str, backend: BackendConfig) -> Json:
    made: Json = {"name": variant, "match": {"variant": variant}}
    if not backend.addresses[0].secure:
        return made | {"transport_socket": {
            "name": "envoy.transport_sockets.raw_buffer",
            "typed_config": {"@type": f"{_ENVOY}.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
        }}  # fmt: skip
    tls = backend.tls
    name = tls.server_name or backend.addresses[0].host
    context: Json = {"@type": f"{_ENVOY}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}
    if not is_ip(name):
        context["sni"] = name
    if tls.verify and tls.ca is not None:
        kind = "IP_ADDRESS" if is_ip(name) else "DNS"
        context["common_tls_context"] = {
            "validation_context": {
                "trusted_ca": {"inline_string": certificates(tls.ca)},
                "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}],
            }
        }
    return made | {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}


def _health(health: HealthConfig, at: Address) -> Json:
    return {
        "timeout": seconds(health.timeout),
        "interval": seconds(health.every),
        "healthy_threshold": health.healthy,
        "unhealthy_threshold": health.unhealthy,
        "http_health_check": {
            "path": ("" if health.from_root else at.path) + health.path,
            "method": health.method,
            # Envoy leaves the end out.
            "expected_statuses": [{"start": low, "end": high + 1} for low, high in health.status_runs],
        },
    }


def _outliers(ejection: EjectionConfig) -> Json:
    made: Json = {
        "consecutive_5xx": ejection.consecutive,
        # 502 to 504 count as 5xx already.
        "consecutive_gateway_failure": _UNLIMITED,
        "enforcing_consecutive_gateway_failure": 0,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": ejection.local_consecutive,
        # On unless told otherwise.
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": seconds(min(1.0, ejection.window)),
        "base_ejection_time": seconds(ejection.base),
        "max_ejection_time": seconds(ejection.max),
        "max_ejection_percent": round(100 * ejection.max_share),
        "enforcing_failure_percentage": 0,
    }
    return made


def seconds(value: float) -> str:
    """A duration in Envoy's JSON; 0, which often means no limit, only for 0."""
    return f"{max(value, 1e-9) if value else 0.0:.9f}".rstrip("0").rstrip(".") + "s"
