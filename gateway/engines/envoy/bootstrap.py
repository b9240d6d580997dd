"""What a node starts with: where it listens, where it fetches its clusters and routes, and what it logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.config.backend import is_ip
from gateway.config.engine import ROWS_BUFFER_BYTES
from gateway.engines.counters import COUNTERS_PATH, NODE
from gateway.engines.envoy.clusters import METADATA
from gateway.engines.envoy.routes import DECISION, ID_FILTER, SEAL_FILTER, UNIT
from gateway.engines.following import POLL_TIMEOUT_S
from gateway.engines.offers import SEALS, Json, Kind
from gateway.engines.rows import ROWS_PATH, SEPARATOR

CONTROL: Final = "turnout"
"""Name of the cluster that leads to the gateway."""
COUNTERS: Final = {
    "access_logs.open_telemetry_access_log.turnout.logs_written": "delivered",
    "access_logs.open_telemetry_access_log.turnout.logs_dropped": "lost",
}
"""Envoy's counters of rows → the names under which it reports them."""
ROW: Final = (
    f"%REQ({DECISION})%",
    "%ROUTE_NAME%",
    f"%UPSTREAM_METADATA({METADATA}:variant)%",
    "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%",
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%",
    "%COMMON_DURATION(US_TX_END:US_RX_BEG:us)%",
    "%BYTES_RECEIVED%",
    "%BYTES_SENT%",
    "%UPSTREAM_HOST%",
    "%REQ(x-request-id)%",
    f"%REQ({UNIT})%",
)
"""Envoy's names of the fields of a row, in the order in which `gateway.engines.rows` reads them."""
FILES: Final[dict[Kind, str]] = {"clusters": "clusters.json", "routes": "routes.json"}
"""By kind, the file that an agent keeps."""
_REGEXES: Final = {"name": "turnout", "static_layer": {"re2.max_program_size.error_level": 2**31 - 1}}
"""Else Envoy refuses a whole table for a path of 88 characters, or a few host names."""
_TYPE: Final = "type.googleapis.com/envoy"


@dataclass(frozen=True, slots=True)
class Node:
    """One process of an engine."""

    engine: str
    name: str
    token: str
    control: str
    """URL of the gateway's control API."""
    listen: tuple[str, int]
    admin: tuple[str, int] | None = None
    ca: str = "/etc/ssl/certs/ca-certificates.crt"
    """File on the node with the CAs that it trusts for an https ``control``."""
    files: str | None = None
    """Folder in which an agent keeps what the node fetches; None: the node fetches it itself."""


def bootstrap(node: Node) -> Json:
    """Envoy's bootstrap configuration."""
    made: Json = {
        "node": {"id": node.name, "cluster": node.engine, "metadata": {SEALS: True}},
        "dynamic_resources": {"cds_config": _fetched(node, "clusters")},
        "static_resources": {"clusters": [_control(node)], "listeners": [_listener(node)]},
        "layered_runtime": {"layers": [_REGEXES, {"name": "admin", "admin_layer": {}}]},
        "stats_config": {"stats_tags": []},
        "stats_flush_interval": "5s",
        "stats_sinks": [_counters()],
    }
    if node.admin is not None:
        made["admin"] = {"address": _address(*node.admin)}
    return made


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _fetched(node: Node, kind: Kind) -> Json:
    if node.files is not None:
        return {"resource_api_version": "V3", "path_config_source": {"path": f"{node.files}/{FILES[kind]}"}}
    return {
        "resource_api_version": "V3",
        # No limit, or it would begin to listen without clusters or routes.
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": [CONTROL],
            # The gateway holds a poll until there is news; this is the pause before the next.
            "refresh_delay": "0.05s",
            "request_timeout": f"{POLL_TIMEOUT_S:g}s",
        },
    }


def _control(node: Node) -> Json:
    """The cluster of the gateway. Its own filter adds the token, since a poll itself can carry no header."""
    url = urlsplit(node.control)
    secure = url.scheme == "https"
    host, port = url.hostname or "", url.port or (443 if secure else 80)
    fields = {"authorization": f"Bearer {node.token}", NODE: node.name}
    mutations = [{"append": {"header": {"key": key, "value": value}}} for key, value in fields.items()]
    made: Json = {
        "name": CONTROL,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": CONTROL,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": [
                    {
                        "name": "turnout.token",
                        "typed_config": {
                            "@type": f"{_TYPE}.extensions.filters.http.header_mutation.v3.HeaderMutation",
                            "mutations": {"request_mutations": mutations},
                        },
                    },
                    {
                        "name": "envoy.filters.http.upstream_codec",
                        "typed_config": {
                            "@type": f"{_TYPE}.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
                        },
                    },
                ],
            }
        },
    }
    if secure:
        kind = "IP_ADDRESS" if is_ip(host) else "DNS"
        made["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                **({} if is_ip(host) else {"sni": host}),  # no address may stand there (RFC 6066 3)
                "common_tls_context": {
                    "validation_context": {
                        "trusted_ca": {"filename": node.ca},
                        "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}],
                    }
                },
            },
        }
    return made


def _listener(node: Node) -> Json:
    manager: Json = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": node.engine,
        "rds": {"route_config_name": node.engine, "config_source": _fetched(node, "routes")},
        # Rewards may name a request by the id that its client gave it.
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": False,
        # A backend may read %2F as a slash, and dots after it would climb out of the prefix.
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "strip_any_host_port": False,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": [_rows()],
        "http_filters": [
            *_sealing(),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": node.engine, "address": _address(*node.listen), "filter_chains": [chain]}


def _sealing() -> list[Json]:
    """Filters that routes of engines with ``ids: sealed`` turn on; until then they cost nothing."""
    http = f"{_TYPE}.extensions.filters.http"
    script = Path(__file__).with_name("seal.lua").read_text(encoding="utf-8")
    lua = {
        "@type": f"{http}.lua.v3.Lua",
        "default_source_code": {"inline_string": script},
        "clear_route_cache": False,  # the weighted cluster, whose key it is, would be picked again
    }
    return [
        {
            "name": ID_FILTER,
            "disabled": True,
            "typed_config": {"@type": f"{http}.header_mutation.v3.HeaderMutation"},
        },
        {"name": SEAL_FILTER, "disabled": True, "typed_config": lua},
    ]


def _rows() -> Json:
    """One OTLP log record for each request that has a decision, sent over HTTP: Envoy counts those that it drops."""
    return {
        "name": "turnout.rows",
        "filter": {"header_filter": {"header": {"name": DECISION, "present_match": True}}},
        "typed_config": {
            "@type": f"{_TYPE}.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
            "http_service": {
                "http_uri": {"uri": f"http://{CONTROL}{ROWS_PATH}", "cluster": CONTROL, "timeout": "5s"}
            },
            "log_name": CONTROL,
            "stat_prefix": "turnout",
            "buffer_flush_interval": "0.25s",
            "buffer_size_bytes": ROWS_BUFFER_BYTES,
            "body": {"string_value": SEPARATOR.join(ROW)},
        },
    }


def _counters() -> Json:
    """Only the counters of rows, sent over HTTP."""
    sink = f"{_TYPE}.extensions.stat_sinks.open_telemetry.v3.SinkConfig"
    name = {"@type": f"{_TYPE}.extensions.matching.common_inputs.stats.v3.StatFullNameMatchInput"}

    def renamed(counter: str, to: str) -> Json:
        match = {"input": {"name": "name", "typed_config": name}, "value_match": {"exact": counter}}
        action = {"@type": f"{sink}.ConversionAction", "metric_name": to}
        return {
            "predicate": {"single_predicate": match},
            "on_match": {"action": {"name": to, "typed_config": action}},
        }

    return {
        "name": "envoy.stat_sinks.open_telemetry",
        "typed_config": {
            "@type": sink,
            "http_service": {
                "http_uri": {"uri": f"http://{CONTROL}{COUNTERS_PATH}", "cluster": CONTROL, "timeout": "5s"}
            },
            "custom_metric_conversions": {
                "matcher_list": {"matchers": [renamed(*counter) for counter in COUNTERS.items()]},
                "on_no_match": {"action": {"name": "drop", "typed_config": {"@type": f"{sink}.DropAction"}}},
            },
        },
    }
