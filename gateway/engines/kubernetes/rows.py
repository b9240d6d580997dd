"""From the rows that Envoy Gateway logs to outcomes.

They are those of an Envoy node but for the decision, which has no stamp: the row names the HTTPRoute's rule and the
variant, and the propensity is that of the weights which were in effect at its time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.config.document import Document
from gateway.engines.envoy.bootstrap import ROW
from gateway.engines.kubernetes.http_route import VARIANT
from gateway.engines.kubernetes.writer import Change
from gateway.engines.rows import ABSENT, BY_FLAG, SEPARATOR, Keys, Reader, Shared
from gateway.record.stamp import Stamp, StampedRequests, parsed_requests

FORMAT: Final = SEPARATOR.join(
    (f"%START_TIME(%s%3f)%.%UNIQUE_ID%.%REQ({VARIANT})%", ROW[1], f"%REQ({VARIANT})%", *ROW[3:13], ABSENT)
)
"""What Envoy Gateway is to log of each request, in the order of an Envoy node's rows."""
_FLAGS, _ADDRESS = 4, 11
_PLACE: Final = re.compile(r"httproute/([^/]+)/([^/]+)/rule/(\d{1,4})/.*")
"""Envoy Gateway's names of routes."""

Place = tuple[str, str]
"""Namespace and name of an HTTPRoute."""


def places(texts: Iterable[bytes]) -> dict[Place, float]:
    """The HTTPRoutes that the rows name, and the time of the newest decision of each, in seconds."""
    found: dict[Place, float] = {}
    for text in texts:
        decision, _, rest = text.decode("latin-1").partition(SEPARATOR)
        time, place = decision.partition(".")[0], _PLACE.fullmatch(rest.partition(SEPARATOR)[0])
        if place is not None and time.isdecimal() and len(time) < 16:
            key = place[1], place[2]
            found[key] = max(found.get(key, 0.0), int(time) / 1000.0)
    return found


class WeightsReader(Reader):
    """Reads rows of requests that were assigned by weights."""

    def __init__(
        self,
        document: Document,
        routes: Mapping[Place, str],
        revision: int,
        weights_at: Callable[[str, float], Change | None],
    ) -> None:
        """``routes``: by HTTPRoute, the name of the route. ``weights_at`` gives the weights at a time, if known."""
        super().__init__(revision)
        self._document = document
        self._routes = routes
        self._weights_at = weights_at
        self._rules: dict[str, tuple[str, int] | None] = {}
        """By name of Envoy's route."""

    def decisions(self, fields: Sequence[Sequence[str]]) -> tuple[Keys, StampedRequests]:
        """Rule, variant and weights of each, and the requests."""
        requests, rules, changes = parsed_requests(fields[0]), [], []
        columns = fields[1], fields[_FLAGS], fields[_ADDRESS], requests.decided.tolist()
        for route, flags, address, decided in zip(*columns, strict=True):
            if route not in self._rules:
                self._rules[route] = self._rule(route)
            rule = self._rules[route]
            if address == ABSENT and not _sent(flags):
                rule = None  # a filter responded before a backend was chosen: the client may have named the variant
            changes.append(None if rule is None else self._weights_at(rule[0], decided))
            rules.append(rule)
        return (rules, requests.served, changes), requests

    def _rule(self, route: str) -> tuple[str, int] | None:
        """Name of the route, and the number of the HTTPRoute's rule."""
        place = _PLACE.fullmatch(route)
        name = self._routes.get((place[1], place[2])) if place is not None else None
        return None if place is None or name is None else (name, int(place[3]))

    def shared(self, key: Sequence[Any]) -> Shared | None:
        """None for rows of no route of this engine, or of no variant."""
        rule, variant, change = key
        if rule is None or variant not in (section := self._document.routes[rule[0]]).variants:
            return None
        weights = change.weights.get(rule[1], {}) if change is not None else {}
        weight, epoch = weights.get(variant, 0), change.epoch if change is not None else 0
        propensity = weight / sum(weights.values()) if weight else 1.0
        return Shared(
            Stamp(rule[0], variant, epoch, propensity, 0.0), section.policy.type, forced=weight == 0
        )


def _sent(flags: str) -> bool:
    return any(flag in BY_FLAG for flag in flags.split(","))
