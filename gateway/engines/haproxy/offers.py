"""What HAProxies are offered: one document with the configuration, the maps, and the files that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from gateway.compile.plans import salt
from gateway.config.document import Document
from gateway.engines.haproxy.config import Config, config, map_name, ranges
from gateway.engines.offers import InEffect, Kind, Offer, assigned, compact
from gateway.record.decision_id import Sealer

Text = tuple[tuple[int, int], str]
"""A map, and the revision and epoch that it was made from."""


class HaproxyOffers:
    """Makes the offers of all HAProxy engines, and remembers what has not changed."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._configs: dict[str, tuple[int, Config]] = {}
        """By engine: the configuration, and the revision that it was made from."""
        self._maps: dict[str, dict[str, Text]] = {}
        """By engine and route."""

    def make(
        self, document: Document, revision: int, engine: str, kind: Kind, served: Mapping[str, InEffect]
    ) -> Offer:
        """Configuration, maps and files; nothing for clusters. Raises OSError if a CA cannot be read."""
        if kind == "clusters":
            return Offer("", b"{}", {})
        known = self._configs.get(engine)
        if known is None or known[0] != revision:
            known = self._configs[engine] = revision, config(document, engine)
        made, maps = known[1], self._ranges(document, revision, engine, served)
        resource = {"config": made.text, "config_version": made.version, "maps": maps, "files": made.files}
        body = compact(resource)
        version = hashlib.sha256(body).hexdigest()[:16]
        epochs = {name: effect.epoch for name, effect in served.items()}
        return Offer(version, b'{"version_info":"%b","resources":[%b]}' % (version.encode(), body), epochs)

    def _ranges(
        self, document: Document, revision: int, engine: str, served: Mapping[str, InEffect]
    ) -> dict[str, str]:
        before, maps = self._maps.get(engine, {}), dict[str, Text]()
        sealed = document.engines[engine].ids == "sealed"
        key = self._sealer.request_key if sealed else None
        for name, effect in served.items():
            made_from = revision, effect.epoch
            known = before.get(name)
            if known is None or known[0] != made_from:
                parts = assigned(self._sealer, name, effect, salt(document, name), sealed)
                known = made_from, ranges(parts, key)
            maps[name] = known
        self._maps[engine] = maps
        return {map_name(name): text for name, (_, text) in maps.items()}
