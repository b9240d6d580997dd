"""The route table of a fleet: exact shares, sticky units, and everything that a decision id and a row need.

Weights, epoch and stamps stand in one document, and a request keeps the one that it took: mixed epochs during
a change bias nothing, since every decision carries its own propensity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.config.document import Document
from gateway.config.route import MatchConfig, RouteConfig
from gateway.engines.envoy.clusters import (
    METADATA,
    cluster_name,
    mirror_name,
    overwriting,
    seconds,
)
from gateway.engines.offers import Assigned, Json, ordered, salt_text
from gateway.errors import render

DECISION: Final = "x-decision-id"
ID_FILTER: Final = "turnout.id"
SEAL_FILTER: Final = "turnout.seal"
"""Filters of the listener that make and seal ids. They are off but for variants whose requests are sealed."""
_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters.http"
UNIT: Final = "x-turnout-unit"
"""Request header that carries the unit to the log; what a client sends under this name is removed."""
_SERVED: Final = f"%UPSTREAM_METADATA({METADATA}:variant)%"


def route_table(document: Document, engine: str, assigned: Mapping[str, Assigned]) -> Json:
    """Envoy's RouteConfiguration for the routes of ``assigned``."""
    table = [
        entry for name in ordered(document, assigned) for entry in entries(document, name, assigned[name])
    ]
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": engine,
        # A table never names a cluster that the node does not have: it keeps its last good one until it does.
        "validate_clusters": True,
        "request_headers_to_remove": ["x-variant"],
        "virtual_hosts": [{"name": engine, "domains": ["*"], "routes": [*table, _unknown_route()]}],
    }


def entries(document: Document, name: str, assigned: Assigned) -> list[Json]:
    """The part of the table that one route makes."""
    return list(_entries(name, document.routes[name], document, assigned))


def _entries(name: str, route: RouteConfig, document: Document, assigned: Assigned) -> Iterator[Json]:
    """The route, and with a unit header once more before it for requests with a unit."""
    action = _action(name, route, document, assigned)
    match = {"prefix": route.match.path, "headers": list(_conditions(route.match))}
    if route.unit is not None and route.unit.header is not None:
        yield _sticky(name, route, route.unit.header, match, action, salt_text(assigned.salt))
    yield _entry(name, match, action, route) | {"request_headers_to_remove": [UNIT]}


def _entry(name: str, match: Json, action: Json, route: RouteConfig) -> Json:
    return {
        "name": name,
        "match": match,
        "response_headers_to_add": _response_fields(),
        "request_body_buffer_limit": route.buffer_limit,  # a longer body is sent once, without retry or fallback
        "route": action,
    }


def _sticky(name: str, route: RouteConfig, header: str, match: Json, action: Json, salt: str) -> Json:
    """An empty header does not name a unit: such requests fall through to the entry without one."""
    # Regular expressions cost Envoy several percent of a request.
    empty = {"name": header, "string_match": {"exact": ""}, "treat_missing_header_as_empty": True}
    rewrite = {"pattern": {"regex": "^"}, "substitution": salt}
    sticky = {
        "weighted_clusters": action["weighted_clusters"] | {"use_hash_policy": True},
        "hash_policy": [{"header": {"header_name": header, "regex_rewrite": rewrite}}],
    }
    present = match | {"headers": [*match["headers"], empty | {"invert_match": True}]}
    unit = {"request_headers_to_add": [overwriting(UNIT, f"%REQ({header})%")]}
    return _entry(name, present, action | sticky, route) | unit


def _conditions(match: MatchConfig) -> Iterator[Json]:
    if not match.path.endswith("/"):
        # The prefix consists of whole segments; ``:`` ends one too (``/v1/models/m:predict``).
        yield _matches(":path", rf"{re.escape(match.path)}([/:?].*)?")
    for name, value in match.headers.items():
        yield {"name": name, "string_match": {"exact": value}}
    if match.methods:
        yield _matches(":method", "|".join(match.methods))
    if match.host:
        hosts = "|".join(_host(host) for host in match.host)
        yield _matches(":authority", f"(?i)({hosts})(:[0-9]+)?")


def _matches(header: str, regex: str) -> Json:
    return {"name": header, "string_match": {"safe_regex": {"regex": regex}}}


def _host(host: str) -> str:
    return r".+\." + re.escape(host[2:]) if host.startswith("*.") else re.escape(host)


def _response_fields() -> list[Json]:
    return [overwriting(DECISION, f"%REQ({DECISION})%.{_SERVED}"), overwriting("x-variant", _SERVED)]


def _action(name: str, route: RouteConfig, document: Document, assigned: Assigned) -> Json:
    weighted = [
        _weighted(name, route, document, variant, parts, assigned)
        for variant, parts in assigned.cells.segments
    ]
    action: Json = {
        "weighted_clusters": {"clusters": weighted},
        "timeout": seconds(route.timeouts.total or 0.0),
        "idle_timeout": seconds(route.timeouts.idle),
        "retry_policy": _retries(route),
        "auto_host_rewrite": all(
            document.backends[v.backend].host == "backend" for v in route.variants.values()
        ),
    }
    if route.mirror is not None:
        share = {"numerator": max(1, round(1e6 * route.mirror.share)), "denominator": "MILLION"}
        action["request_mirror_policies"] = [
            {
                "cluster": mirror_name(name),
                "runtime_fraction": {"default_value": share},
                "disable_shadow_host_suffix_append": True,
            }
        ]
    return action


def _weighted(
    name: str, route: RouteConfig, document: Document, variant: str, parts: int, assigned: Assigned
) -> Json:
    section = route.variants[variant]
    backend = document.backends[section.backend]
    fields = {**backend.headers, **section.headers}
    identity = overwriting(DECISION, f"{assigned.stamps[variant]}.%START_TIME(%s%3f)%.%UNIQUE_ID%")
    key = assigned.keys.get(variant)
    made: Json = {
        "name": cluster_name(name, variant),
        "weight": parts,
        "request_headers_to_add": [
            *([identity] if key is None else []),
            # A single % would begin a format of Envoy.
            *(overwriting(field, value.replace("%", "%%")) for field, value in fields.items()),
        ],
    }
    if key is not None:
        made["typed_per_filter_config"] = _sealed(identity, key)
    if section.rewrite.host is not None:
        made["host_rewrite_literal"] = section.rewrite.host
    return made


def _sealed(identity: Json, key: bytes) -> Json:
    """Filters that seal the id: the router would add it too late for them."""
    return {
        ID_FILTER: {
            "@type": f"{_FILTERS}.header_mutation.v3.HeaderMutationPerRoute",
            "mutations": {"request_mutations": [{"append": identity}]},
        },
        SEAL_FILTER: {
            "@type": f"{_FILTERS}.lua.v3.LuaPerRoute",
            "filter_context": {"key": key.hex()},
        },
    }


def _retries(route: RouteConfig) -> Json:
    """Envoy's retries: to the next variant where there is a fallback, else at the same one."""
    rescuers, backoff = route.rescuers, route.retry.backoff
    on = route.fallback_on if rescuers else route.retry.on
    repeated = rescuers or route.retry.replayable
    statuses = sorted(on.status) if repeated else []
    kinds = ["connect-failure", "refused-stream"] if on.connect else []
    kinds += ["reset"] if on.reset and repeated else []
    if on.timeout and repeated:
        statuses = sorted({*statuses, 504})  # what Envoy makes of an attempt that did not respond in time
    made: Json = {
        "retry_on": ",".join([*kinds, *(["retriable-status-codes"] if statuses else [])]),
        "retriable_status_codes": statuses,
        "num_retries": len(rescuers) if rescuers else route.retry.attempts - 1,
        "retry_back_off": _back_off(0.0, 0.0) if rescuers else _back_off(backoff.base, backoff.max),
        "per_try_timeout": seconds(route.timeouts.first_byte),
    }
    if rescuers:
        made["retry_priority"] = {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3."
                "PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        }
    return made


def _back_off(base: float, most: float) -> Json:
    """Envoy's least interval is a millisecond, and its default one of 25 ms."""
    base = max(0.001, base)
    return {"base_interval": seconds(base), "max_interval": seconds(max(base, most))}


def _unknown_route() -> Json:
    body = {"inline_string": render("unknown_route").decode()}
    fields = [overwriting("content-type", "application/json")]
    return {
        "name": "none",
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": body},
        "response_headers_to_add": fields,
    }
