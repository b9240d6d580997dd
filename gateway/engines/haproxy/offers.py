"""What HAProxies are offered: one document with the configuration, the ranges, and the files that it names."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.compile.plans import salt
from gateway.config.document import Document
from gateway.config.policy import bandit_of
from gateway.config.route import RouteConfig
from gateway.engines.haproxy.config import Config, config, ranges
from gateway.engines.offers import InEffect, Kind, Offer, assigned, version_of
from gateway.json_text import compact
from gateway.record.decision_id import Sealer

Text = tuple[tuple[int, int], str]
"""The ranges of a route, and the revision and epoch that they were made from."""


class HaproxyOffers:
    """Makes the offers of all HAProxy engines, and remembers what has not changed."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._configs: dict[str, tuple[tuple[int, int], Config]] = {}
        """By engine: the configuration, and the revision and the number of ranges that it was made for."""
        self._maps: dict[str, dict[str, Text]] = {}
        """By engine and route."""

    def make(
        self, document: Document, revision: int, engine: str, kind: Kind, served: Mapping[str, InEffect]
    ) -> Offer:
        """Configuration, ranges and files; nothing for clusters. Raises OSError if a CA cannot be read."""
        if kind == "clusters":
            return Offer("", b"{}", {})
        entries = self._ranges(document, revision, engine, served)
        counts = [text.count("~") + 1 for text in entries.values()]
        # A power of two, and room for ranges that come apart: each change of the configuration is a reload.
        counts += [_room(document.routes[name]) for name in served]
        most = 1 << (max(counts, default=1) - 1).bit_length()
        known = self._configs.get(engine)
        if known is None or known[0] != (revision, most):
            known = self._configs[engine] = (revision, most), config(document, engine, most)
        made = known[1]
        resource = {
            "config": made.text,
            "config_version": made.version,
            "ranges": entries,
            "files": made.files,
        }
        body = compact(resource)
        epochs = {name: effect.epoch for name, effect in served.items()}
        version = version_of(revision, epochs, body)
        return Offer(version, b'{"version_info":"%b","resources":[%b]}' % (version.encode(), body), epochs)

    def _ranges(
        self, document: Document, revision: int, engine: str, served: Mapping[str, InEffect]
    ) -> dict[str, str]:
        before, maps = self._maps.get(engine, {}), dict[str, Text]()
        sealed = document.engines[engine].ids == "sealed"
        for name, effect in served.items():
            made_from = revision, effect.epoch
            known = before.get(name)
            if known is None or known[0] != made_from:
                parts = assigned(self._sealer, name, effect, salt(document, name), sealed)
                known = made_from, ranges(name, parts)
            maps[name] = known
        self._maps[engine] = maps
        return {name: text for name, (_, text) in maps.items()}


def _room(route: RouteConfig) -> int:
    """Ranges that a route of this many variants may have without a reload."""
    variants = len(route.variants)
    # Those of a bandit come apart and together all the time: with room for two each, of three variants every sixth
    # allocation was a reload.
    return (4 if variants > 2 and bandit_of(route.policy) is not None else 2) * variants
