"""What follows when a bandit's stop rule names a winner: it gets everything, or a person is asked.

The rule is about beliefs, which move on. What was made of its word stays until the policy's section or the variants are
edited, a person takes it back, or a guardrail ejects the winner.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from policies.rollout.events import Refused

MAX_WIDTH: Final = 0.9
"""Of the last lead's interval, the width at which a new one takes its place: each change is stored."""


@dataclass(frozen=True, slots=True)
class StopState:
    """Where the stop rule of one route stands."""

    fingerprint: str = ""
    """Of the section and the variants that this is about."""
    state: Literal["learning", "asking", "handed_over"] = "learning"
    winner: str | None = None
    since: float = 0.0
    """When the state began, in seconds since the epoch."""
    by: str = ""
    """Who handed over or took it back: a person, "rule" or "guardrail"."""
    lead: Mapping[str, Any] | None = None
    """By how much the winner is better (`policies.sequential.winner.Lead`): when it was named and, while a person is
    asked, from the data since then too."""
    asks: bool = False
    """A person took a hand-over back, so that `then: single` asks from now on."""

    @property
    def handed_over(self) -> str | None:
        """The variant that the bandit was handed over to."""
        return self.winner if self.state == "handed_over" else None

    def under(self, fingerprint: str, now: float = 0.0) -> StopState:
        """This state, or a new one that begins ``now`` if the route was edited since."""
        return self if self.fingerprint == fingerprint else StopState(fingerprint, since=now)


@dataclass(frozen=True, slots=True)
class StopEvidence:
    """What a look at the rule shows."""

    winner: str | None
    """The variant that the rule names now."""
    lead: Mapping[str, Any] | None = None
    single: bool = False
    """`then: single`: the winner gets everything without a person."""
    ejected: Collection[str] = ()
    """Variants that a guardrail has ejected."""


def look(state: StopState, seen: StopEvidence, now: float) -> StopState:
    """The state after a look; the same if there is no news."""
    if state.handed_over is not None:
        if state.winner not in seen.ejected:
            return state
        return replace(state, state="learning", winner=None, by="guardrail", since=now)
    if seen.winner == state.winner:
        return replace(state, lead=seen.lead) if known_better(state, seen.lead) else state
    if seen.winner is None:
        return replace(state, state="learning", winner=None, by="rule", since=now)
    to: Literal["handed_over", "asking"] = "handed_over" if seen.single and not state.asks else "asking"
    return replace(state, state=to, winner=seen.winner, lead=seen.lead, by="rule", since=now)


def known_better(state: StopState, lead: Mapping[str, Any] | None) -> bool:
    """Whether the lead of a winner that a person is asked about has an interval narrower by a tenth by now."""
    if state.state != "asking" or state.lead is None or lead is None:
        return False
    width, before = (high - low for low, high in (lead["interval"], state.lead["interval"]))
    return bool(width <= MAX_WIDTH * before)


_COMMANDS: Final = "A bandit knows 'promote' (of its winner) and 'rollback', not"


def command(state: StopState, route: str, action: str, by: str, now: float) -> StopState | Refused:
    """The state after a person's word: ``promote`` hands over to the winner, ``rollback`` takes that back."""
    if action == "promote":
        if state.state == "asking":
            return replace(state, state="handed_over", by=by, since=now)
        problem = "handed over already" if state.winner else "no winner yet"
        return Refused(f"The bandit of {route!r} has {problem}.")
    if action == "rollback":
        if state.state == "handed_over":
            return replace(state, state="learning", winner=None, by=by, asks=True, since=now)
        return Refused(f"The bandit of {route!r} has handed nothing over.")
    return Refused(f"{_COMMANDS} {action!r}.")
