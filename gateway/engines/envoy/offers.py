"""What Envoys are offered: clusters and a route table, as responses of REST discovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.compile.plans import salt
from gateway.config.document import Document
from gateway.engines.envoy.clusters import clusters
from gateway.engines.envoy.routes import entries, route_table
from gateway.engines.offers import InEffect, Json, Kind, Offer, assigned, ordered, version_of
from gateway.json_text import compact
from gateway.record.decision_id import Sealer

Text = tuple[tuple[int, int], bytes]
"""JSON, and the revision and epoch that it was made from."""


class EnvoyOffers:
    """Makes the offers of all Envoy engines, and remembers what has not changed."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._texts: dict[str, dict[str, Text]] = {}
        """By engine and route: the text of the route's part of the table."""
        self._clusters: dict[str, tuple[dict[str, Json], dict[str, Json]]] = {}
        """By engine: clusters by name, and those of the version before."""

    def make(
        self, document: Document, revision: int, engine: str, kind: Kind, served: Mapping[str, InEffect]
    ) -> Offer:
        """The newest resources of ``kind``. Raises OSError if a CA cannot be read."""
        if kind == "clusters":
            return self._offer_clusters(document, revision, engine)
        epochs = {name: effect.epoch for name, effect in served.items()}
        return _offer([self._route_table(document, revision, engine, served)], revision, epochs)

    def _route_table(
        self, document: Document, revision: int, engine: str, served: Mapping[str, InEffect]
    ) -> bytes:
        """`route_table` as JSON. A change of one route makes the text of that route alone: there may be hundreds."""
        before, texts = self._texts.get(engine, {}), dict[str, Text]()
        sealed = document.engines[engine].ids == "sealed"
        for name in ordered(document, served):
            made_from = revision, served[name].epoch
            known = before.get(name)
            if known is None or known[0] != made_from:
                parts = assigned(self._sealer, name, served[name], salt(document, name), sealed)
                known = made_from, compact(entries(document, name, parts))[1:-1]
            texts[name] = known
        self._texts[engine] = texts
        head, routes, rest = compact(route_table(document, engine, {})).partition(b'"routes":[')
        return b"".join([head, routes, *(text + b"," for _, text in texts.values()), rest])

    def _offer_clusters(self, document: Document, revision: int, engine: str) -> Offer:
        """The clusters of the document, and those of the version before: nodes may still route to them."""
        wanted = {cluster["name"]: cluster for cluster in clusters(document, engine)}
        last, before = self._clusters.get(engine, ({}, {}))
        if wanted != last:
            before = {name: cluster for name, cluster in last.items() if name not in wanted}
            self._clusters[engine] = wanted, before
        return _offer([*map(compact, wanted.values())], revision, {}, [*map(compact, before.values())])


def _offer(
    resources: list[bytes], revision: int, epochs: Mapping[str, int], unversioned: Sequence[bytes] = ()
) -> Offer:
    version = version_of(revision, epochs, b",".join(resources))
    body = b'{"version_info":"%b","resources":[%b]}'
    return Offer(version, body % (version.encode(), b",".join([*resources, *unversioned])), epochs)
