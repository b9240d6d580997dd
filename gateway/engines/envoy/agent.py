"""The agent of a node: keeps what the node fetches in files, so that it starts while no gateway can be reached.

It polls as the node itself would, replaces the files by atomic rename, and asks the node's admin interface whether it
has taken them. A version that the node refuses is replaced by the last good one: the next start needs it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.engines.envoy.bootstrap import FILES, POLL_TIMEOUT_S

log = logging.getLogger("turnout.agent")

Json = dict[str, Any]

RETRY_S: Final = 1.0
LOOK_S: Final = 0.05
"""Between two looks at what the node has taken."""
TAKEN_S: Final = 10.0
"""How long a node that responds may need to take a new file."""
_COUNTERS: Final = {"clusters": "cluster_manager.cds", "routes": "http.{0}.rds.{0}"}
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
            group.create_task(Follower(served, kind, control, admin).run())


class Follower:
    """Follows one kind of resource."""

    def __init__(
        self, served: Served, kind: str, control: httpx.AsyncClient, admin: httpx.AsyncClient
    ) -> None:
        self._served = served
        self._kind = kind
        self._path = served.files / FILES[kind]
        self._control = control
        self._admin = admin
        self._counters = _COUNTERS[kind].format(served.node["cluster"])
        self._version = ""
        self.refused = ""
        """Why the node refused the last version; empty if it did not."""
        self._reached = True

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                response = await self._control.post(f"/v3/discovery:{self._kind}", json=self._poll())
                response.raise_for_status()
                offered = response.json()["version_info"]
            except (httpx.HTTPError, ValueError, KeyError) as error:
                if self._reached:
                    log.warning("%s: no gateway can be reached, the files stay: %s", self._kind, error)
                self._reached = False
                await asyncio.sleep(RETRY_S)
                continue
            self._reached = True
            if offered != self._version or self.refused:
                await self.offer(offered, response.content)

    def _poll(self) -> Json:
        poll: Json = {"node": self._served.node, "version_info": self._version}
        return poll | ({"error_detail": {"message": self.refused}} if self.refused else {})

    async def offer(self, version: str, body: bytes) -> None:
        """Write a version, and wait until the node has taken or refused it."""
        good = self._path.read_bytes() if self._path.exists() else None
        refusals = (await self._node()).get("update_rejected")
        self._write(body)
        self.refused = await self._taken(version, refusals)
        if not self.refused:
            self._version = version
            log.info("%s: the node has taken version %s", self._kind, version)
            return
        log.warning("%s: %s", self._kind, self.refused)
        if good is not None:
            self._write(good)

    def _write(self, body: bytes) -> None:
        new = self._path.with_suffix(".new")
        new.write_bytes(body)
        new.chmod(0o600)  # as secret as the bootstrap
        new.replace(self._path)

    async def _taken(self, version: str, refusals: str | None) -> str:
        """Why the node has refused ``version``; empty once it has it. A node that does not run is waited for."""
        looks = 0
        while looks < TAKEN_S / LOOK_S:
            known = await self._node()
            if known.get("version_text") == f'"{version}"':
                return ""
            if known and refusals not in (None, known.get("update_rejected")):
                return "the node refuses the file; its log says why"
            looks += bool(known)
            await asyncio.sleep(LOOK_S)
        return f"the node did not take the file within {TAKEN_S:g} s; its log says why"

    async def _node(self) -> dict[str, str]:
        """The node's counters for this kind; empty while it does not run."""
        try:
            response = await self._admin.get("/stats", params={"filter": f"^{self._counters}\\."})
        except httpx.HTTPError:
            return {}
        lines = (line.partition(": ") for line in response.text.splitlines())
        return {name.rpartition(".")[2]: value for name, _, value in lines}
