"""The stop rules of bandits: what they name, what a person says to it, and what holds them.

The reducer is `policies.rollout.stop_rule`; `gateway.loops.controller` calls this for each route.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gateway.clock import Clock
from gateway.compile.steering import Steering, controlled, has_stop_rule, stop_fingerprint
from gateway.config.policy import BanditConfig
from gateway.config.route import RouteConfig
from gateway.errors import TurnoutError
from gateway.loops.alarms import distrust, doubt
from gateway.loops.allocation import Allocations
from gateway.loops.route_states import RouteStates, require_unchanged
from gateway.loops.route_views import stop_view
from gateway.state.base import unconfirmed
from gateway.state.events import Told
from gateway.state.store import DocumentStore
from policies.rollout import stop_rule
from policies.rollout.events import Command, Refused
from policies.rollout.route import RouteState
from policies.rollout.stop_rule import StopEvidence, StopState

log = logging.getLogger("turnout.rollout")


class StopRules:
    """The stop rules of all routes, in one process."""

    def __init__(
        self,
        store: DocumentStore,
        routes: RouteStates,
        allocations: Allocations,
        *,
        clock: Clock,
        steer: Callable[[str], Steering],
    ) -> None:
        """``steer(route)`` takes what the state of a route asks of its allocation to it."""
        self._store = store
        self._routes = routes
        self._allocations = allocations
        self._clock = clock
        self._steer = steer

    async def look(self, name: str, route: RouteConfig) -> None:
        """Take what the rule says now to the allocation; call it in the leader."""
        known, now = self._routes[name], self._clock()
        if known.acknowledged > now:  # the clock was set back: alarms raised since would count as known
            known, _ = await self._routes.update(
                name, lambda s: (replace(s, acknowledged=min(s.acknowledged, now)), None)
            )
        state = known.stop
        if state.fingerprint != stop_fingerprint(route):  # edited: alarms raised before do not count any more
            await self._change(name, route, lambda begun: begun)
            return
        standing = self._allocations.standings.get(name)
        named = standing.stopped if standing is not None else None
        lead = standing.lead.as_dict() if standing is not None and standing.lead is not None else None
        if state.handed_over is None:
            if standing is None or (named == state.winner and not stop_rule.known_better(state, lead)):
                return
            if named is not None and await doubt(self._store, name, known.acknowledged):
                return
        assert isinstance(route.policy, BanditConfig)
        assert route.policy.stop is not None
        seen = StopEvidence(
            named,
            lead,
            single=route.policy.stop.then == "single",
            ejected=self._steer(name).ejected,
        )
        await self._change(name, route, lambda stop: stop_rule.look(stop, seen, self._clock()))

    async def _change(
        self,
        name: str,
        route: RouteConfig,
        change: Callable[[StopState], StopState | Refused],
        word: Command | None = None,
    ) -> None:
        """Raises TurnoutError for a command that is not possible now."""
        fingerprint = stop_fingerprint(route)

        def reducer(state: RouteState) -> tuple[RouteState, tuple[StopState, StopState]]:
            now = self._clock()
            before = state.stop.under(fingerprint, now)
            after = change(before)
            if isinstance(after, Refused):
                raise TurnoutError("conflict", after.message)
            if after == state.stop:
                return state, (before, after)
            known = state.acknowledged if state.stop.fingerprint == fingerprint else now
            return replace(state, stop=after, acknowledged=known), (before, after)

        def told(states: tuple[StopState, StopState]) -> list[Told]:
            return [*self._told(name, *states), *_asked(word)]

        _, (before, after) = await self._routes.update(name, reducer, told)
        if _is_step(before, after):
            log.info("%s: %s → %s (%s, by %s)", name, before.state, after.state, after.winner, after.by)
        self._steer(name)
        if before.state != after.state and "handed_over" in (before.state, after.state):
            reason = f"winner: {after.winner}" if after.winner else "winner taken back"
            await self._allocations.reconsider(name, reason)

    def _told(self, name: str, before: StopState, after: StopState) -> list[Told]:
        if not _is_step(before, after):
            return []
        view = stop_view(name, after, self._allocations.standings.get(name))
        return [("winner", view | {"before": before.state})]

    async def command(self, name: str, route: RouteConfig, word: Command) -> Mapping[str, Any]:
        """Steers the stop rule of a bandit, or resumes a bandit that is held; the state that follows.

        Raises TurnoutError (not_found, conflict), StoreUnavailable.
        """
        if word.action == "resume":
            return await self._resume(name, route, word)
        if not has_stop_rule(route):
            raise TurnoutError(
                "not_found",
                f"The bandit of {name!r} has no stop rule, so it names no winner; write 'stop'.",
            )
        await self._routes.read(name)
        who = f"{word.actor}: {word.reason}" if word.reason else word.actor

        def change(state: StopState) -> StopState | Refused:
            require_unchanged(word.seen, state.state, self._allocations.held[name].epoch)
            return stop_rule.command(state, name, word.action, who, self._clock())

        with unconfirmed():
            await self._change(name, route, change, word)
        return self.describe(name, route) or {}

    async def _resume(self, name: str, route: RouteConfig, word: Command) -> Mapping[str, Any]:
        await self._routes.read(name)
        if not await self.held(name, route):
            raise TurnoutError(
                "conflict", f"No alarm holds the bandit of {name!r}, so there is nothing to resume."
            )

        def reducer(state: RouteState) -> tuple[RouteState, None]:
            require_unchanged(word.seen, state.stop.state, self._allocations.held[name].epoch)
            return state.resumed(self._clock()), None

        with unconfirmed():
            await self._routes.update(name, reducer, lambda _: _asked(word))
        return self.describe(name, route) or {"state": "learning", "winner": None}

    async def held(self, name: str, route: RouteConfig) -> str:
        """ "" or why a bandit ejects nothing or names no winner until it is resumed. Raises StoreUnavailable."""
        if not isinstance(route.policy, BanditConfig) or not controlled(route):
            return ""
        state = self._routes[name]
        if has_stop_rule(route):
            return await doubt(self._store, name, state.acknowledged)
        return await distrust(self._store, name, state.ejections.since)

    def describe(self, name: str, route: RouteConfig) -> Mapping[str, Any] | None:
        """Where the stop rule stands, as the API shows it; None for a route without one."""
        if not has_stop_rule(route):
            return None
        state = self._routes[name].stop.under(stop_fingerprint(route))
        return stop_view(name, state, self._allocations.standings.get(name))


def _is_step(before: StopState, after: StopState) -> bool:
    """Whether it is one that people want to know of: not that a lead is known better."""
    return replace(after, lead=before.lead) != before


def _asked(word: Command | None) -> list[Told]:
    return [] if word is None else [("steered", word.trail())]
