"""The events that move a rollout, and the effects of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.rollout.state import Phase
from policies.rollout.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Tick:
    """A look: the verdicts over the window since `State.window`, and the candidate's samples in it.

    ``sick``: "" or why the baseline is sick (`guardrails.Judgement`). In the gate, samples are compared
    responses and the only verdict is that of `guardrails.judge_agreement`.

    While a bandit decides: ``share`` is what the candidate has of it, ``winner`` the variant that its stop
    rule names, and ``beliefs`` the evidence for it (kept with the audit).
    """

    verdicts: tuple[Verdict, ...] = ()
    samples: float = 0.0
    sick: str = ""
    share: float | None = None
    winner: str | None = None
    beliefs: Mapping[str, Any] | None = None
    carried: Mapping[str, float] | None = None
    """What the next window's bets go on with (`State.carried`)."""
    waits: str = ""
    """Why the weight is not in effect everywhere yet; the clock of the stage stands still meanwhile."""
    first: bool = False
    """Whether this is the process's first look, which may come long after the last one of another."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a person had before them who gives a command; None: it does not matter."""

    state: str | None = None
    """Of the rollout or the stop rule."""
    epoch: int | None = None
    """Of the allocation."""


@dataclass(frozen=True, slots=True)
class Command:
    """A person's word: pause, resume, confirm, promote, rollback, restart, or set with a ``weight``.

    ``share``: the candidate's while a bandit decides on it; a pause holds it there.
    """

    action: str
    actor: str = ""
    weight: float | None = None
    share: float | None = None
    held: float | None = None
    """By how much more client errors hold the stage (`policies.rollout.client_errors`); None: they do not."""
    reason: str = ""
    """Why, in the person's own words."""
    seen: Seen = Seen()
    caller: Mapping[str, Any] = field(default_factory=dict)
    """From where it came, for the trail."""

    def trail(self) -> dict[str, Any]:
        """What was asked, why, and from where."""
        return {"action": self.action, "weight": self.weight, "reason": self.reason} | dict(self.caller)


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration was read again; the plan given to `step` is the new one."""

    actor: str = ""


Event = Tick | Command | Configured


@dataclass(frozen=True, slots=True)
class SetWeight:
    """Publish an allocation with this share for the candidate: a new epoch begins."""

    weight: float
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """One entry of the trail: what happened, who or what did it, and on what evidence."""

    time: float
    signal: str
    source: str
    """The state before."""
    target: str
    stage: int
    weight: float
    """The candidate's share after."""
    actor: str
    """Whose command it was; "" when the rollout went by itself."""
    reason: str
    evidence: tuple[dict[str, Any], ...] = ()
    """The verdicts as they stood; after them what the bandit believed, where there is one."""
    phase: Phase = "canary"
    """After it, as `State.phase`."""

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"evidence": list(self.evidence)}


def in_words(step: Mapping[str, Any]) -> str:
    """An `Audit.as_dict`: the states before and after, or the state that stays and its stage; share, reason, person."""
    source, target = (str(step.get(key, "")).replace("_", " ") for key in ("source", "target"))
    change = f"{source} → {target}"
    if source == target:
        phase = step.get("phase", "canary")
        change = f"{target}, stage {step.get('stage', 0) + 1}" if phase == "canary" else f"{target}, {phase}"
    by = f", by {step['actor']}" if step.get("actor") else ""
    return f"{change}, candidate at {step.get('weight', 0.0):.1%} ({step.get('reason', '')}{by})"


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that is not possible now; the message says what is."""

    message: str


Effect = SetWeight | Audit | Refused
