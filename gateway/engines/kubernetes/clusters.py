"""The clusters that engines of the type kubernetes name, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.config.kubernetes import KubernetesConfig
from gateway.engines.kubernetes.rows import WeightsReader, places
from gateway.engines.kubernetes.writer import NODE, HttpRoutes
from gateway.engines.nodes import Nodes
from gateway.engines.offers import InEffect
from gateway.engines.otlp import bodies
from gateway.engines.rows import Rows


class Clusters:
    """Writes weights, and reads rows with the weights that were in effect at their time."""

    def __init__(self, document: Callable[[], Document], revision: Callable[[], int], clock: Clock) -> None:
        self._document = document
        self._revision = revision
        self._clock = clock
        self._clusters: dict[str, HttpRoutes] = {}

    async def step(self, published: Mapping[str, InEffect], nodes: Nodes) -> None:
        """As the leader: give every HTTPRoute the weights of what is published."""
        document = self._document()
        for name, engine in document.engines.items():
            if isinstance(engine, KubernetesConfig):
                routes = document.engine_routes(name)
                served = {route: published[route] for route in routes if route in published}
                await (await self._cluster(name, engine)).step(served, nodes.own(name, NODE))
        await self.close(but=document.engines.keys())

    async def rows(
        self,
        name: str,
        engine: KubernetesConfig,
        body: bytes,
        published: Callable[[], Mapping[str, InEffect]],
    ) -> Rows:
        """The outcomes of an OTLP export of logs. Raises ValueError if ``body`` is none."""
        node, texts = await asyncio.to_thread(bodies, body)
        newest = await asyncio.to_thread(places, texts)
        document, cluster = self._document(), await self._cluster(name, engine)
        routes = {cluster.place(route): route for route in document.engine_routes(name)}
        # The leader may have written weights that were published a moment ago, and that this replica learns of now.
        lag = 2 * document.loops.allocation
        age = self._clock() - max(newest.values(), default=0.0)
        await asyncio.sleep(min(lag, max(0.0, lag - age)))
        for place in newest.keys() & routes.keys():
            await cluster.look(routes[place], newest[place], published().get(routes[place]))
        reader = WeightsReader(
            document, routes, self._revision(), lambda route, time: cluster.observed(route).at(time)
        )
        return await asyncio.to_thread(reader.read, node, texts, self._clock())

    async def _cluster(self, name: str, engine: KubernetesConfig) -> HttpRoutes:
        known = self._clusters.get(name)
        if known is not None and known.config == engine:
            return known
        made = self._clusters[name] = HttpRoutes(engine, self._document, self._clock)
        if known is not None:
            await known.close()
        return made  # which an edit may have removed meanwhile

    async def close(self, *, but: Collection[str] = ()) -> None:
        """Close the connections to all clusters but these."""
        for name in self._clusters.keys() - set(but):
            await self._clusters.pop(name).close()
