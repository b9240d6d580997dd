"""Keeps the weights of HTTPRoutes where the published allocations want them, and knows which were in effect when.

Every replica reads the HTTPRoutes; the leader alone writes. Nothing is kept that the object itself does not say: an
annotation has the allocation that was written last, so that any leader goes on where another stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.config.kubernetes import KubernetesConfig
from gateway.engines.kubernetes.api_server import ApiServer, ApiServerError
from gateway.engines.kubernetes.http_route import (
    APPLIED,
    Applied,
    HttpRoute,
    UnusableError,
    Weights,
    patch,
    read,
    weights_for,
)
from gateway.engines.nodes import SILENT_S, NodeState
from gateway.engines.offers import InEffect

NODE: Final = "api-server"
"""Name under which an engine's API server is listed among the nodes."""
READ_S: Final = 5.0
"""Seconds between two looks at an HTTPRoute that needs no change, if there are few."""
MAX_READS_PER_S: Final = 20.0
"""Such looks at all HTTPRoutes, if there are many."""
MIN_READ_S: Final = 1.0
"""Seconds between two looks for rows."""
CONCURRENT: Final = 8
"""HTTPRoutes that are followed at the same time."""
MIN_MOVE: Final = 0.005
"""Least change of a share for which what a bandit learned is written."""
FORCE_S: Final = 60.0
"""Least time between two writes over those of another field manager."""
TRIES: Final = 3
"""Attempts at a write that another one, mostly of the object's status, came before."""
LEARNED: Final = "posterior"
"""Reason of an allocation that a bandit published since it learned something."""
MAX_CHANGES: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """The weights of an HTTPRoute from a time on."""

    since: float
    """From here on they may have been in effect, in seconds since the epoch."""
    settled: float
    """From here on every proxy has them."""
    weights: Weights
    epoch: int
    """The published allocation that they are; 0 if another field manager wrote them."""


@dataclass(slots=True)
class Observed:
    """What this process knows of one HTTPRoute."""

    place: tuple[str, str]
    """Namespace and name."""
    found: HttpRoute | None = None
    read_at: float = 0.0
    """When the last look at it began that succeeded, in seconds since the epoch."""
    tried_at: float = 0.0
    """When the last look ended."""
    changes: list[Change] = field(default_factory=list)
    """Oldest first."""
    trouble: str = ""
    epoch: int = -1
    """The newest published allocation that is in effect."""
    looked_for: int = -1
    """The published allocation for which the last look was, and that needs no other."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def at(self, time: float) -> Change | None:
        """The weights by which a request was assigned; None if that is unknown, or they were just changing."""
        change = next((c for c in reversed(self.changes) if c.since <= time), None)
        return change if change is not None and change.settled <= time else None


class HttpRoutes:
    """The HTTPRoutes of one engine, in one process."""

    def __init__(self, config: KubernetesConfig, document: Callable[[], Document], clock: Clock) -> None:
        self.config = config
        self._document = document
        self._clock = clock
        self._api = ApiServer(config)
        self._observed: dict[str, Observed] = {}
        """By name of the route."""
        self._responded = clock()
        """When the API server last responded, in seconds since the epoch."""
        self._away = ""
        """Why the API server does not respond; empty if it does."""

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    def observed(self, route: str) -> Observed:
        """What is known of the HTTPRoute of ``route``."""
        one, place = self._observed.get(route), self.place(route)
        if one is None or one.place != place:
            one = self._observed[route] = Observed(place)
        return one

    # Reading --------------------------------------------------------------------------------------------
    async def look(self, route: str, until: float, effect: InEffect | None) -> Observed:
        """Know the weights of ``route`` up to the time ``until``. If the API server is away, what was known stays.

        An HTTPRoute that has the published weights is taken to keep them until the next regular look.
        """
        one = self.observed(route)
        async with one.reading:
            now = self._clock()
            regular = effect is not None and one.looked_for == effect.epoch and self._is_recent(one)
            wait = one.tried_at + MIN_READ_S - now
            if one.read_at <= until and not regular and not (wait > 0.0 and one.found is None):
                # At most, since a clock that is set back would hold up writes as well.
                await asyncio.sleep(min(MIN_READ_S, max(0.0, wait)))
                await self._look(route, one)
                if (
                    one.found is not None
                    and effect is not None
                    and self._due(route, one.found, effect) is None
                ):
                    one.looked_for = effect.epoch
        return one

    def _is_recent(self, one: Observed) -> bool:
        """Whether no regular look is due."""
        # From 0 on: a clock that was set back says nothing.
        return 0.0 <= self._clock() - one.read_at < max(READ_S, len(self._observed) / MAX_READS_PER_S)

    async def _look(self, route: str, one: Observed) -> None:
        began = self._clock()
        try:
            self._take(route, one, await self._api.get(*one.place), began)
            self._away, self._responded = "", began
        except (ApiServerError, UnusableError) as error:
            one.found = None
            self._fail(one, error)
        one.tried_at = self._clock()

    def _fail(self, one: Observed, error: ApiServerError | UnusableError) -> None:
        if isinstance(error, ApiServerError) and not error.status:
            self._away = str(error)
        else:
            one.trouble, self._away, self._responded = str(error), "", self._clock()

    def place(self, route: str) -> tuple[str, str]:
        """Namespace and name of the HTTPRoute of ``route``."""
        namespace, name = self._document().httproute(route) or (None, route)
        return namespace or self._api.namespace(), name

    def _take(self, route: str, one: Observed, returned: dict[str, object], began: float) -> HttpRoute:
        """Raises UnusableError."""
        section = self._document().routes.get(route)
        if section is None:
            raise UnusableError(f"the route {route!r} was removed meanwhile")
        found = read(returned, "/".join(one.place), tuple(section.variants))
        own = found.applied is not None and found.applied.route == route and not found.overwritten
        epoch = found.applied.epoch if found.applied is not None and own else 0
        last = one.changes[-1] if one.changes else None
        if last is None:
            written = found.applied.time if found.applied is not None and own else found.changed_at or began
            one.changes.append(Change(written, written + self.config.settle, found.weights, epoch))
        elif last.weights != found.weights:
            one.changes.append(Change(one.read_at, self._clock() + self.config.settle, found.weights, epoch))
        elif last.epoch != epoch:
            one.changes.append(Change(began, max(began, last.settled), found.weights, epoch))
        del one.changes[:-MAX_CHANGES]
        one.found, one.read_at, one.trouble = found, began, ""
        return found

    # Writing --------------------------------------------------------------------------------------------
    async def step(self, published: Mapping[str, InEffect], node: NodeState) -> None:
        """As the leader: give every HTTPRoute the weights of what is published, the changed ones first."""
        if not published:
            self._responded = self._clock()  # an API server that is not called is not silent
        for gone in [route for route in self._observed if self._document().httproute(route) is None]:
            del self._observed[gone]
        waiting = sorted(
            published, key=lambda route: self.observed(route).looked_for == published[route].epoch
        )
        for start in range(0, len(waiting), CONCURRENT):
            some = waiting[start : start + CONCURRENT]
            await asyncio.gather(
                *(self._write(route, self.observed(route), published[route]) for route in some)
            )
            if self._away:
                break  # each further call would wait for its timeout
        self._show(node)

    async def _write(self, route: str, one: Observed, effect: InEffect) -> None:
        if one.looked_for == one.epoch == effect.epoch and self._is_recent(one):
            return
        async with one.reading:
            await self._look(route, one)
            for _ in range(TRIES):
                if one.found is None or not await self._follow(route, one, one.found, effect):
                    break
            one.looked_for = effect.epoch
            if one.found is not None and not one.trouble:
                one.trouble = _trouble(one.found)
                if not one.trouble and one.found.accepted and self._due(route, one.found, effect) is None:
                    one.epoch = effect.epoch

    async def _follow(self, route: str, one: Observed, found: HttpRoute, effect: InEffect) -> bool:
        """Write what is due; return whether another write came before, so that this one is to be tried again."""
        applied = self._due(route, found, effect)
        if applied is None:
            return False
        began = self._clock()
        try:
            self._take(route, one, await self._api.patch(*one.place, patch(found, applied)), began)
        except (ApiServerError, UnusableError) as error:
            if isinstance(error, ApiServerError) and error.status in (409, 422):
                await self._look(route, one)
                if one.found is not None and one.found.version != found.version:
                    return True
            self._fail(one, error)
        return False

    def _due(self, route: str, found: HttpRoute, effect: InEffect) -> Applied | None:
        """What is to be written now; None if nothing."""
        shares = effect.allocation.as_dict()
        wanted = {
            rule.number: weights_for({name: shares.get(name, 0.0) for name in rule.indices}, rule.total)
            for rule in found.rules
        }
        now, last = self._clock(), found.applied
        if last is not None and last.route == route:
            if found.overwritten:
                again = self.config.force_conflicts and now - last.time >= FORCE_S
                if not (
                    again
                    or wanted == found.weights
                    or (last.epoch != effect.epoch and _withdraws(wanted, last))
                ):
                    return None
            elif last.epoch == effect.epoch or (effect.reason == LEARNED and not _moves(wanted, found)):
                return None
        return Applied(route, effect.epoch, now, wanted)

    def _show(self, node: NodeState) -> None:
        """Tell how the HTTPRoutes are, as if the API server were a node that serves them."""
        node.seen = self._responded
        node.epochs = {route: one.epoch for route, one in self._observed.items() if one.epoch >= 0}
        troubles = [one.trouble for one in self._observed.values() if one.trouble]
        silent = self._clock() - self._responded > SILENT_S
        node.refused = self._away if silent else "; ".join(dict.fromkeys(troubles))


def _withdraws(wanted: Weights, last: Applied) -> bool:
    """Whether a variant gets no requests any more, as after a rollback."""
    return any(
        weight == 0 and last.weights.get(rule, {}).get(variant, 0) > 0
        for rule, weights in wanted.items()
        for variant, weight in weights.items()
    )


def _moves(wanted: Weights, found: HttpRoute) -> bool:
    """Whether a share moves far enough, or to or from nothing."""
    return any(
        abs(weight - rule.weights[variant]) >= MIN_MOVE * rule.total
        or (weight == 0) != (rule.weights[variant] == 0)
        for rule in found.rules
        for variant, weight in wanted[rule.number].items()
    )


def _trouble(found: HttpRoute) -> str:
    if found.overwritten:
        when = (
            datetime.fromtimestamp(found.changed_at, UTC).strftime("at %H:%M:%S UTC")
            if found.changed_at
            else ""
        )
        return (
            f"{found.name}: {found.changed_by or 'another field manager'} changed the weights {when}; make it leave "
            f"them alone, and remove the annotation {APPLIED!r}, or write 'force_conflicts: true'"
        )
    return f"{found.name}: {'; '.join(found.troubles)}" if found.troubles else ""
