"""What follows when a bandit's stop rule names a winner: it gets everything, or a person is asked.

The rule is about beliefs, which move on; what was made of its word is kept in the store and stays, over restarts and
on every replica, until the policy's section or the variants are edited or a person takes it back.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from gateway.clock import Clock
from gateway.config.document import BanditConfig, Document, RouteConfig
from gateway.errors import TurnoutError
from gateway.loops.alarms import distrust
from gateway.loops.allocation import Allocations
from gateway.state.store import DocumentStore

log = logging.getLogger("turnout.stop")

KIND: Final = "stop"

Emit = Callable[[str, str, Mapping[str, Any]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where the stop rule of one route stands."""

    fingerprint: str
    """Of the section and the variants that this is about."""
    state: Literal["learning", "asking", "handed_over"] = "learning"
    winner: str | None = None
    since: float = 0.0
    by: str = ""
    """Who handed over or took it back: a person, or "rule"."""
    lead: Mapping[str, Any] | None = None
    """By how much the winner was better when it was named (`policies.sequential.winner.Lead`)."""
    asks: bool = False
    """A person took a hand-over back, so that `then: single` asks from now on."""


class Stops:
    """See the module."""

    def __init__(self, store: DocumentStore, allocations: Allocations, *, clock: Clock, emit: Emit) -> None:
        self._store = store
        self._allocations = allocations
        self._clock = clock
        self._emit = emit
        self._versions: dict[str, int] = {}
        self.states: dict[str, Stopped] = {}

    async def start(self, document: Document) -> None:
        """Reads what was handed over; call it before the first step of the allocation loop."""
        for name, route in document.routes.items():
            if _rule(route) is not None:
                await self._read(name, route)

    async def step(self, document: Document) -> None:
        """Everybody reads what was made of the rules; the leader looks at what they say too."""
        for name in self.states.keys() - {n for n, r in document.routes.items() if _rule(r) is not None}:
            del self.states[name]
            self._allocations.winners.pop(name, None)
        for name, route in document.routes.items():
            rule = _rule(route)
            if rule is not None and name in self._allocations.held:
                before = self._allocations.winners.get(name)
                await self._read(name, route)
                if self._allocations.leads:
                    if self._allocations.winners.get(name) != before:  # another process was told
                        await self._allocations.reconsider(name, "winner")
                    await self._look(name, rule.then == "single")

    async def _read(self, name: str, route: RouteConfig) -> None:
        found = await self._store.load(KIND, name)
        fingerprint = _fingerprint(route)
        state = Stopped(fingerprint)
        if found is not None:
            self._versions[name] = found[0]
            kept = Stopped(**json.loads(found[1]))
            state = kept if kept.fingerprint == fingerprint else state
        self._put(name, state)

    def _put(self, name: str, state: Stopped) -> None:
        self.states[name] = state
        if state.state == "handed_over" and state.winner is not None:
            self._allocations.winners[name] = state.winner
        else:
            self._allocations.winners.pop(name, None)

    async def _look(self, name: str, single: bool) -> None:
        """Takes down what the rule says now, where that is news."""
        state, standing = self.states[name], self._allocations.standings.get(name)
        if state.state == "handed_over":
            if self._allocations.caps.get(name, {}).get(state.winner or "", 1.0) <= 0.0:
                await self._move(name, replace(state, state="learning", winner=None, by="guardrail"))
            return
        if standing is None or standing.stopped == state.winner:
            return
        if standing.stopped is not None and await distrust(self._store, name, state.since):
            return
        named = standing.stopped
        if named is None:
            await self._move(name, replace(state, state="learning", winner=None, by="rule"))
        else:
            to: Literal["handed_over", "asking"] = "handed_over" if single and not state.asks else "asking"
            lead = None if standing.lead is None else standing.lead.as_dict()
            await self._move(name, replace(state, state=to, winner=named, lead=lead, by="rule"))

    async def _move(self, name: str, state: Stopped) -> bool:
        """Keeps, tells and carries out; False when somebody else was faster."""
        before, state = self.states[name], replace(state, since=self._clock())
        version = self._versions.get(name, 0)
        if not await self._store.save(KIND, name, json.dumps(asdict(state)), expected=version):
            return False
        self._versions[name] = version + 1
        self._put(name, state)
        log.info("%s: %s → %s (%s, by %s)", name, before.state, state.state, state.winner, state.by)
        await self._emit("winner", name, self._told(name, state) | {"before": before.state})
        if "handed_over" in (before.state, state.state):
            await self._allocations.reconsider(
                name, f"winner: {state.winner}" if state.winner else "winner taken back"
            )
        return True

    # For people -----------------------------------------------------------------------------------------
    async def command(self, name: str, route: RouteConfig, action: str, by: str) -> Mapping[str, Any]:
        """``promote`` hands over to the winner, ``rollback`` takes that back; the state that follows. Raises
        TurnoutError (not_found, conflict)."""
        if _rule(route) is None:
            raise TurnoutError(
                "not_found", f"The bandit of {name!r} has no stop rule, so it names no winner; write 'stop'."
            )
        await self._read(name, route)
        state = self.states[name]
        if action == "promote":
            if state.state != "asking":
                raise TurnoutError(
                    "conflict",
                    f"The bandit of {name!r} has {'handed over already' if state.winner else 'no winner yet'}.",
                )
            moved = replace(state, state="handed_over", by=by)
        elif action == "rollback":
            if state.state != "handed_over":
                raise TurnoutError("conflict", f"The bandit of {name!r} has handed nothing over.")
            moved = replace(state, state="learning", winner=None, by=by, asks=True)
        else:
            raise TurnoutError(
                "conflict", f"A bandit knows 'promote' (of its winner) and 'rollback', not {action!r}."
            )
        if not await self._move(name, moved):
            raise TurnoutError(
                "conflict", f"Somebody else has just steered {name!r}; read its state and try again."
            )
        return self.describe(name) or {}

    def describe(self, name: str) -> Mapping[str, Any] | None:
        """Where the rule stands, as the API tells it; None for a route without one."""
        state = self.states.get(name)
        return self._told(name, state) if state is not None else None

    def _told(self, name: str, state: Stopped) -> dict[str, Any]:
        commands = {
            "asking": f"turnout rollout {name} promote",
            "handed_over": f"turnout rollout {name} rollback",
        }
        standing = self._allocations.standings.get(name)
        best = (
            dict(zip(standing.variants, standing.probability_best, strict=True))
            if standing is not None
            else {}
        )
        return {
            "state": state.state,
            "winner": state.winner,
            "since": state.since or None,
            "by": state.by,
            "probability_best": best.get(state.winner or ""),
            "lead": dict(state.lead) if state.lead is not None and state.winner is not None else None,
            "command": commands.get(state.state),
        }


def _rule(route: RouteConfig) -> Any:
    return route.policy.stop if isinstance(route.policy, BanditConfig) else None


def _fingerprint(route: RouteConfig) -> str:
    """Changes with the policy's section and with who takes part."""
    text = route.policy.model_dump_json() + json.dumps([*route.variants, *route.all_shadows])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
