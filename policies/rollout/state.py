"""What a rollout is to do (`Plan`), and where it stands (`State`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from policies.rollout.table import Status
from policies.rollout.verdicts import Levels

GATE: Final = -1
"""The stage before the first: the candidate only shadows, until it agrees with the baseline enough."""

Phase = Literal["shadow", "canary", "bandit"]


@dataclass(frozen=True, slots=True)
class Stage:
    """``weight``: the candidate's share. ``duration`` (the file's `for`): its shortest time, in seconds.

    ``confirm``: a person confirms before it starts.
    """

    weight: float
    duration: float = 0.0
    min_samples: int = 0
    confirm: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"a stage's weight lies between 0 and 1, not at {self.weight}")


@dataclass(frozen=True, slots=True)
class Gate:
    """Before the first stage: shadow until the agreement rate is shown to be at least ``agreement``."""

    agreement: float
    share: float = 1.0
    duration: float = 0.0
    min_samples: int = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What the configuration says of one rollout. Times in seconds. Raises ValueError without stages."""

    baseline: str
    candidate: str
    stages: tuple[Stage, ...]
    promote: bool = True
    """on_success: promote; else wait for a person, or go on as ``bandit`` says."""
    bandit: Literal["ask", "single"] | None = None
    """on_success: bandit, and what becomes of its winner: a person is asked, or it gets everything."""
    bake: float = 3_600.0
    holdback: float = 0.0
    """The baseline's share until the bake is over, so that the guardrails have a concurrent comparison."""
    patience: float | None = 86_400.0
    """Seconds after its minimum time at which a stage that is still inconclusive pauses the rollout; None: never."""
    gate: Gate | None = None
    interval: float = 1.0
    """Between two looks."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a rollout needs at least one stage")
        if not 0 <= self.holdback < 1:
            raise ValueError(f"a holdback lies between 0 and 1, not at {self.holdback}")

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights of the stages."""
        return tuple(stage.weight for stage in self.stages)

    @property
    def first(self) -> int:
        return GATE if self.gate is not None else 0

    def levels(self, guardrails: int, alpha: float = 0.05) -> Levels:
        """What the verdicts of a window may be wrong with, so that a whole rollout is rolled back wrongly with at most
        ``alpha``, and promoted wrongly with at most ``alpha``.

        The gate is one claim more. A bandit that follows has half of ``alpha`` for itself (`bandit_alpha`).
        """
        rest = alpha - self.bandit_alpha(alpha)
        share = rest / max(guardrails + (self.gate is not None), 1)
        return Levels(alpha, share / (len(self.stages) + (self.bake > 0)), share)

    def bandit_alpha(self, alpha: float = 0.05) -> float:
        """What may be said wrongly while a bandit decides; 0 without one."""
        return alpha / 2 if self.bandit is not None else 0.0


def stage_of(plan: Plan, index: int) -> Stage:
    """Stage ``index`` of the plan; the gate is a stage of weight 0."""
    if index == GATE and plan.gate is not None:
        return Stage(0.0, plan.gate.duration, plan.gate.min_samples)
    return plan.stages[min(max(index, 0), len(plan.stages) - 1)]


@dataclass(frozen=True, slots=True)
class State:
    """All that must survive a restart. Times are seconds since the epoch."""

    status: Status
    stage: int
    """Index into the plan's stages; `GATE` before the first."""
    weight: float
    """The candidate's share now, in [0, 1]; the baseline has the rest."""
    baseline: str
    candidate: str
    entered: float
    """When the stage began, moved on by the length of every pause."""
    since: float
    """When the status began."""
    window: float
    """When the weight last changed: evidence counts from here (it is an epoch's beginning)."""
    patient_from: float
    """From when, at the earliest, the patience of the stage counts."""
    bake_until: float | None = None
    """In `promoted`: until when the guardrails are watched; None after it."""
    checked: float = field(default=-math.inf, compare=False)
    """The last tick. Not compared: a look that changed nothing else would be a write each second."""
    reason: str = ""
    competing: float | None = None
    """Since when a bandit decides on the share, pauses included; None while the stages do."""
    acknowledged: float = 0.0
    """When a person last resumed it or set its weight: they know the alarms that were raised before."""
    accepted: float = 0.0
    """By how much more client errors than the baseline's a person let the stage go on."""
    by_hand: bool = False
    """Whether ``weight`` was set by a person and is not the stage's."""
    shares: tuple[float, ...] = ()
    """The weights of the stages into which ``stage`` is an index; empty if an earlier release has not kept them."""
    carried: Mapping[str, float] = field(default_factory=dict)
    """By guardrail (`Guardrail.key`), the log of the e-value that it is breached, from the windows before this one."""
    waiting_since: float | None = None
    """Since when the clock stands still, because the weight is not in effect everywhere; None if it runs."""
    absent_since: float | None = None
    """Since when no document in force has the rollout; None while one has."""
    evidence: tuple[Mapping[str, Any], ...] = ()
    """Once the rollout is not `watched`, the verdicts that decided (`Verdict.as_dict`); empty if a person did."""

    @property
    def phase(self) -> Phase:
        """Which life of the policy this is, or was when the rollout ended."""
        if self.competing is not None:
            return "bandit"
        return "shadow" if self.stage == GATE else "canary"

    @property
    def doubted_from(self) -> float:
        """From when alarms count: those raised before are of earlier evidence, or a person let the rollout go on."""
        return max(self.acknowledged, self.window)

    @property
    def watched(self) -> bool:
        """Whether guardrails are evaluated; otherwise only a person moves the rollout."""
        if self.status is Status.PROMOTED:
            return self.bake_until is not None
        return self.status not in (Status.HALTED, Status.ROLLED_BACK)

    @property
    def deciding(self) -> bool:
        """Whether the bandit decides on the share at this moment; else it is ``weight``."""
        return self.competing is not None and self.status in (Status.RUNNING, Status.WAITING)

    def as_dict(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        checked = None if math.isinf(self.checked) else self.checked
        return fields | {"status": self.status.value, "checked": checked}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`. Raises ValueError when ``data`` is not such a dict."""
        try:
            fields = {name: data[name] for name in cls.__slots__ if name in data}
            fields["status"] = Status(fields["status"])
            fields["evidence"] = tuple(fields.get("evidence", ()))
            fields["shares"] = tuple(fields.get("shares", ()))
            fields["checked"] = -math.inf if fields["checked"] is None else float(fields["checked"])
            return cls(**fields)
        except (KeyError, TypeError) as fault:
            raise ValueError(f"this is not the state of a rollout: {fault}") from fault


def shadow_share(state: State, plan: Plan) -> float:
    """The share of requests to be copied to the candidate: the gate's, while the rollout is in it."""
    in_gate = state.status in (Status.RUNNING, Status.WAITING, Status.PAUSED) and state.stage == GATE
    return plan.gate.share if in_gate and plan.gate is not None else 0.0


def to_confirm(state: State, plan: Plan) -> int | None:
    """The stage that waits for a person's confirmation; None if none does."""
    if state.status is not Status.WAITING or state.competing is not None:
        return None
    return state.stage + 1 if state.stage < len(plan.stages) - 1 else None


def begin(plan: Plan, now: float) -> State:
    """A rollout at its beginning: the gate if there is one, else the first stage."""
    stage = plan.first
    return State(
        Status.RUNNING,
        stage,
        stage_of(plan, stage).weight,
        plan.baseline,
        plan.candidate,
        entered=now,
        since=now,
        window=now,
        patient_from=now,
        reason="the rollout began",
        shares=plan.shares,
    )


def of_plan(state: State | None, plan: Plan, now: float) -> State:
    """``state`` if it is of the plan's variants; else the rollout that begins for these."""
    if state is None or (state.baseline, state.candidate) != (plan.baseline, plan.candidate):
        return begin(plan, now)
    return state
