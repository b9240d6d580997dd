"""The agent of a node: keeps what the node fetches in files, so that it starts while no gateway can be reached.

It polls as the node itself would, replaces the files by atomic rename, and asks the node's admin interface whether it
has taken them. A version that the node refuses is replaced by the last good one: the next start needs it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.engines.envoy.bootstrap import FILES
from gateway.engines.following import LOOK_S, POLL_TIMEOUT_S, TAKEN_S, Follower, write
from gateway.engines.offers import Json, Kind

_COUNTERS: Final[dict[Kind, str]] = {"clusters": "cluster_manager.cds", "routes": "http.{0}.rds.{0}"}
"""Prefix of a node's counters by kind; {0} is the engine."""


@dataclass(frozen=True, slots=True)
class Served:
    """The node that an agent serves, as its bootstrap says."""

    node: Json
    files: Path
    control: str
    headers: dict[str, str]
    ca: str | None
    admin: str

    @classmethod
    def read(cls, bootstrap: Json) -> Served:
        """Raises ValueError if the bootstrap was made without ``--files``."""
        try:
            files = Path(bootstrap["dynamic_resources"]["cds_config"]["path_config_source"]["path"]).parent
            (control,) = [c for c in bootstrap["static_resources"]["clusters"] if c["name"] == "turnout"]
            endpoint = control["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            filters = control["typed_extension_protocol_options"].values()
            mutations = next(iter(filters))["http_filters"][0]["typed_config"]["mutations"][
                "request_mutations"
            ]
            fields = [mutation["append"]["header"] for mutation in mutations]
            tls = control.get("transport_socket", {}).get("typed_config", {}).get("common_tls_context")
            return cls(
                bootstrap["node"],
                files,
                f"{'http' if tls is None else 'https'}://{_address(endpoint['address'])}",
                {field["key"]: field["value"] for field in fields},
                None if tls is None else tls["validation_context"]["trusted_ca"]["filename"],
                f"http://{_address(bootstrap['admin']['address'])}",
            )
        except (KeyError, IndexError, TypeError, StopIteration) as error:
            raise ValueError(
                "this is not a bootstrap for an agent; make it with 'turnout engine bootstrap --files DIR --admin ADDR'"
            ) from error


def _address(address: Mapping[str, Any]) -> str:
    host, port = address["socket_address"]["address"], address["socket_address"]["port_value"]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def run(served: Served) -> None:
    """Follow clusters and routes until cancelled."""
    verify = ssl.create_default_context(cafile=served.ca) if served.ca is not None else False
    async with (
        httpx.AsyncClient(
            base_url=served.control, headers=served.headers, verify=verify, timeout=POLL_TIMEOUT_S
        ) as control,
        httpx.AsyncClient(base_url=served.admin, timeout=TAKEN_S) as admin,
        asyncio.TaskGroup() as group,
    ):
        for kind in FILES:
            group.create_task(EnvoyFollower(served, kind, control, admin).run())


class EnvoyFollower(Follower):
    """Follows one kind of resource."""

    def __init__(
        self, served: Served, kind: Kind, control: httpx.AsyncClient, admin: httpx.AsyncClient
    ) -> None:
        super().__init__(kind, served.node, control)
        self._path = served.files / FILES[kind]
        self._admin = admin
        self._counters = _COUNTERS[kind].format(served.node["cluster"])

    async def take(self, version: str, body: bytes) -> str:
        """Why the node refuses ``version``, with its last good file restored; empty once it has it."""
        good = self._path.read_bytes() if self._path.exists() else None
        refusals = (await self._stats()).get("update_rejected")
        write({self._path: body})
        refused = await self._taken(version, refusals)
        if refused and good is not None:
            write({self._path: good})
        return refused

    async def _taken(self, version: str, refusals: str | None) -> str:
        """Why the node has refused ``version``; empty once it has it. A node that does not run is waited for."""
        looks = 0
        while looks < TAKEN_S / LOOK_S:
            known = await self._stats()
            if known.get("version_text") == f'"{version}"':
                return ""
            if known and refusals not in (None, known.get("update_rejected")):
                return "the node refuses the file; its log says why"
            looks += bool(known)
            await asyncio.sleep(LOOK_S)
        return f"the node did not take the file within {TAKEN_S:g} s; its log says why"

    async def _stats(self) -> dict[str, str]:
        """The node's counters for this kind; empty while it does not run."""
        try:
            response = await self._admin.get("/stats", params={"filter": f"^{self._counters}\\."})
        except httpx.HTTPError:
            return {}
        lines = (line.partition(": ") for line in response.text.splitlines())
        return {name.rpartition(".")[2]: value for name, _, value in lines}
