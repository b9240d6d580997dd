"""An engine whose cluster is the small API server of `tests.support.api_server`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gateway.config.kubernetes import KubernetesConfig
from gateway.config.load import load
from gateway.engines.kubernetes.writer import HttpRoutes, Observed
from gateway.engines.nodes import NodeState
from gateway.engines.offers import InEffect
from policies.allocation.bucketing import allocation
from tests.support.api_server import ApiServer

Json = dict[str, Any]
PLACE = "prod", "digits"

CONFIG = """
engines: {{cluster: {{type: kubernetes, token: a-token-of-the-collector, server: "{url}", namespace: prod{options}}}}}
routes:
  digits:
    engine: cluster
    variants: {{v1: {{}}, v2: {{}}}}
    policy: {{type: split, weights: {{v1: 1, v2: 1}}}}
"""


class World:
    """A cluster and one replica that writes to it; a test moves the clock and what is published."""

    def __init__(self, server: ApiServer, options: str = "") -> None:
        self.server = server
        self.now = 1_800_000_000.0
        self.document = load(CONFIG.format(url=server.url, options=options), source="test", env={})
        self.published: dict[str, InEffect] = {}
        self.node = NodeState()
        self.replicas: list[HttpRoutes] = []
        self.routes = self.replica()

    def replica(self) -> HttpRoutes:
        engine = self.document.engines["cluster"]
        assert isinstance(engine, KubernetesConfig)
        self.replicas.append(HttpRoutes(engine, lambda: self.document, lambda: self.now))
        return self.replicas[-1]

    def publish(self, shares: Mapping[str, float], reason: str = "config") -> None:
        last = self.published.get("digits")
        epoch = 1 if last is None else last.epoch + 1
        self.published = {"digits": InEffect(epoch, allocation(shares), self.now, reason)}

    async def step(self, seconds: float = 1.0) -> Observed:
        """A step of the leader after some time."""
        self.now += seconds
        await self.routes.step(self.published, self.node)
        return self.routes.observed("digits")

    async def accepted(self, seconds: float = 1.0) -> Observed:
        """A step of the leader, one of the controller, and another of the leader."""
        await self.step(seconds)
        self.server.controller(*PLACE)
        return await self.step()

    @property
    def found(self) -> Json:
        """The HTTPRoute."""
        return self.server.get(PLACE)

    @property
    def weights(self) -> dict[str, int]:
        """The weights of the first rule, by Service."""
        return {b["name"]: b["weight"] for b in self.found["spec"]["rules"][0]["backendRefs"]}

    @property
    def state(self) -> str:
        newest = {name: effect.epoch for name, effect in self.published.items()}
        return self.node.state(newest, self.now)


@asynccontextmanager
async def world(found: Json | None = None, options: str = "") -> AsyncIterator[World]:
    """A cluster with one HTTPRoute."""
    server = ApiServer()
    made = World(server, options)
    try:
        server.create(found or http_route())
        yield made
    finally:
        for replica in made.replicas:
            await replica.close()
        server.stop()


def http_route(
    *,
    name: str = "digits",
    namespace: str = "prod",
    weights: dict[str, int] | None = None,
    parent: Json | None = None,
) -> Json:
    """An HTTPRoute with a rule whose backendRefs are marked as variants."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": [parent or {"name": "gateway"}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/digits"}}],
                    "backendRefs": [
                        backend(variant, weight)
                        for variant, weight in (weights or {"v1": 1, "v2": 0}).items()
                    ],
                }
            ],
        },
    }


def backend(variant: str, weight: int) -> Json:
    """A backendRef that is marked as a variant's."""
    header = {"name": "x-turnout-variant", "value": variant}
    return {
        "name": f"digits-{variant}",
        "port": 8080,
        "weight": weight,
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [header]}}],
    }
