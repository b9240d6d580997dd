"""A controller with one real Envoy: it translates an HTTPRoute as Envoy Gateway does, and logs as it is told to.

Names of routes and clusters, and the weighted clusters with the header of each backendRef's filter, are those of Envoy
Gateway's translator. Its sink speaks gRPC to an OpenTelemetry Collector, which exports over HTTP; here the Envoy itself
sends OTLP over HTTP.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.children import free_port
from gateway.engines.kubernetes.rows import FORMAT
from gateway.engines.rows import ROWS_PATH
from tests.engines.node import ENVOY
from tests.support.api_server import ApiServer
from tests.support.processes import ServerProcess

Json = dict[str, Any]
_TYPE = "type.googleapis.com/envoy"


class EnvoyGateway(ServerProcess):
    """Follows one HTTPRoute of an API server until it is killed."""

    ready_path = ""

    def __init__(
        self,
        folder: Path,
        server: ApiServer,
        place: tuple[str, str],
        services: Mapping[str, str],
        rows: tuple[str, str],
    ) -> None:
        """``services``: address by Service; ``rows``: host:port that receives them, and the token."""
        self.server, self.place, self.folder = server, place, folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log_path = folder / "envoy.log"
        self.stopped = threading.Event()
        self._generation = 0
        self._follow()
        (folder / "envoy.json").write_text(json.dumps(self._bootstrap(services, *rows)))
        with self.log_path.open("ab") as log:
            command = [str(ENVOY), "-c", str(folder / "envoy.json"), "--concurrency", "1", "-l", "warning"]
            self.process = subprocess.Popen([*command, "--base-id", str(self.port)], stdout=log, stderr=log)
        threading.Thread(target=self._run, daemon=True).start()

    def kill(self) -> None:
        self.stopped.set()
        super().kill()

    def _run(self) -> None:
        while not self.stopped.wait(0.05):
            self._follow()

    def _follow(self) -> None:
        found = self.server.get(self.place)
        if found["metadata"]["generation"] == self._generation:
            return
        self._generation = found["metadata"]["generation"]
        new = self.folder / "routes.new"
        new.write_text(json.dumps({"version_info": str(self._generation), "resources": [self._table(found)]}))
        new.replace(self.folder / "routes.json")
        self.server.controller(*self.place)

    def _table(self, found: Json) -> Json:
        name = "httproute/" + "/".join(self.place)
        routes = [
            {
                "name": f"{name}/rule/{number}/match/0/*",
                "match": {"prefix": rule["matches"][0]["path"]["value"]},
                "route": {
                    "weighted_clusters": {
                        "clusters": [
                            {
                                "name": f"{name}/rule/{number}/backend/{index}",
                                "weight": backend["weight"],
                                "request_headers_to_add": [
                                    {"header": {"key": h["name"], "value": h["value"]},
                                     "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
                                    for entry in backend["filters"] for h in entry["requestHeaderModifier"]["set"]
                                ],
                            }
                            for index, backend in enumerate(rule["backendRefs"])
                        ]
                    }
                },
            }
            for number, rule in enumerate(found["spec"]["rules"])
        ]  # fmt: skip
        return {
            "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
            "name": "prod/gateway/http",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        }

    def _bootstrap(self, services: Mapping[str, str], rows: str, token: str) -> Json:
        refs = self.server.get(self.place)["spec"]["rules"][0]["backendRefs"]
        name = "httproute/" + "/".join(self.place)
        clusters = [
            _cluster(f"{name}/rule/0/backend/{i}", services[ref["name"]]) for i, ref in enumerate(refs)
        ]
        log = {
            "@type": f"{_TYPE}.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
            "http_service": {
                "http_uri": {"uri": f"http://{rows}{ROWS_PATH}", "cluster": "rows", "timeout": "10s"},
                "request_headers_to_add": [{"header": {"key": "authorization", "value": f"Bearer {token}"}}],
            },
            "log_name": "otel",
            "buffer_flush_interval": "0.1s",
            "body": {"string_value": FORMAT},
        }
        routes = {
            "path_config_source": {"path": str(self.folder / "routes.json")},
            "resource_api_version": "V3",
        }
        manager = {
            "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "rds": {"route_config_name": "prod/gateway/http", "config_source": routes},
            "preserve_external_request_id": True,
            "access_log": [{"name": "otel", "typed_config": log}],
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        listener = {
            "name": "http",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }
        return {
            "node": {"id": "envoy-gateway", "cluster": "prod"},
            "static_resources": {"clusters": [*clusters, _cluster("rows", rows)], "listeners": [listener]},
        }


def _cluster(name: str, address: str) -> Json:
    host, _, port = address.removeprefix("http://").rpartition(":")
    endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
