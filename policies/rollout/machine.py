"""The engine of a rollout: what a look, a command or a new configuration does to it.

Pure: `step` takes the state, an event, the plan and the time, and returns the new state and its effects. Which
signal leads where is data, in `policies.rollout.table`; read that first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any, Final

from policies.rollout.clock import looked, not_ahead, returned, timed
from policies.rollout.events import Audit, Command, Configured, Effect, Event, Refused, SetWeight, Tick
from policies.rollout.state import Plan, Stage, State, begin, shadow_share, stage_of, to_confirm
from policies.rollout.table import COMMANDS, TABLE, Action, Signal, Status
from policies.rollout.verdicts import Verdict


def step(state: State, event: Event, plan: Plan, now: float) -> tuple[State, tuple[Effect, ...]]:
    """The next state and what is to be done. Never raises; a command that can't be is `Refused`."""
    state = returned(not_ahead(state, now), now)
    same = (plan.baseline, plan.candidate) == (state.baseline, state.candidate)
    if same:
        # Not only when it is edited: another process may have the document before or after.
        state = _placed(state, plan)
    if isinstance(event, Command):
        return _command(state, event, plan, now) if same else (state, (Refused(_EDITED),))
    if isinstance(event, Configured):
        signal = Signal.CONFIG if same else Signal.RENEWED
        return _apply(state, signal, plan, now, actor=event.actor, reason="the configuration changed")
    if not same:  # edited while the evidence was read, or in another process first: it is of other variants
        return state, ()
    if state.deciding:  # a bandit's weight moves all the time, and has no clock
        event = replace(event, waits="")
    state = timed(looked(state, event.first, now), event.waits, now)
    found, reason = _read(state, event, plan, now)
    if found is None:
        return state, ()
    evidence = tuple(verdict.as_dict() for verdict in event.verdicts)
    if event.beliefs is not None:
        evidence += (dict(event.beliefs),)
    return _apply(
        _standing(state, event.share),
        found,
        plan,
        now,
        reason=reason,
        evidence=evidence,
        carried=event.carried,
    )


_EDITED: Final = (
    "the configuration of the route was edited, and this process has yet to take it; read the route again"
)


def _standing(state: State, share: float | None) -> State:
    """The state with the share that the bandit has come to, where one decides."""
    return replace(state, weight=share) if state.deciding and share is not None else state


def possible(state: State, plan: Plan, held: float | None = None) -> tuple[str, ...]:
    """The commands that mean something now. ``held``: as in `Command`."""
    row, nothing = TABLE[state.status], set[Signal]()
    if to_confirm(state, plan) is None:
        nothing.add(Signal.CONFIRM)
    if state.status is Status.RUNNING and held is None:
        nothing.add(Signal.RESUME)
    return tuple(str(one) for one in COMMANDS if one in row and one not in nothing)


def foreseen(
    state: State, plan: Plan, now: float, share: float | None, held: float | None = None
) -> dict[str, State]:
    """The state that each command would lead to, by its name, but for the one that needs a weight.

    ``share``, ``held``: as in `Command`.
    """
    return {
        action: step(state, Command(action, share=share, held=held), plan, now)[0]
        for action in possible(state, plan, held)
        if action != Signal.SET
    }


def next_due(state: State, plan: Plan) -> float:
    """When something is to be done next, in seconds since the epoch; infinite where only a person moves it.

    Sleep until then, and then send a `Tick`.
    """
    return max(state.checked, state.since) + plan.interval if state.watched else math.inf


def is_due(state: State, plan: Plan, now: float) -> bool:
    """Whether to send a `Tick`. A look that is due later than in one interval was planned before the clock was set."""
    wait = next_due(state, plan) - now
    return wait <= 0 or plan.interval < wait < math.inf


def _read(state: State, tick: Tick, plan: Plan, now: float) -> tuple[Signal | None, str]:
    """The first signal of a tick that the state's row knows, and why it is given."""
    row = TABLE[state.status]
    for signal, reason in _signals(state, tick, plan, now):
        if signal in row:
            return signal, reason
    return None, ""


def _signals(state: State, tick: Tick, plan: Plan, now: float) -> list[tuple[Signal, str]]:
    found: list[tuple[Signal, str]] = []
    if not state.watched:
        return found
    by_verdict = {kind: [v for v in tick.verdicts if v.verdict == kind] for kind in _KINDS}
    # A sick baseline comes first: what it is compared with then means nothing, a failure included.
    if tick.sick:
        found.append((Signal.SICK, tick.sick))
    # Nothing goes back to a sick baseline; while the candidate is not promoted, `sick` comes before.
    if by_verdict["fail"] and not (tick.sick and state.status is Status.PROMOTED):
        found.append((Signal.FAIL, "; ".join(v.breach() for v in by_verdict["fail"])))
    if by_verdict["error"]:
        found.append((Signal.ERROR, _errors(by_verdict["error"])))
    if tick.waits:
        return found  # only a failure moves it meanwhile
    if state.bake_until is not None and now >= state.bake_until:
        found.append((Signal.BAKED, "the bake is over"))
    if state.competing is not None and plan.bandit is not None:
        return found if state.status is Status.PROMOTED else found + _contest(state, tick, plan)
    stage = stage_of(plan, state.stage)
    lasted = now - state.entered >= stage.duration
    decided = not by_verdict["inconclusive"] and not by_verdict["error"] and tick.samples >= stage.min_samples
    if lasted and decided:
        found.append(_onward(state, plan))
    following = to_confirm(state, plan)
    if following is not None and not plan.stages[following].confirm:
        found.append((Signal.OPEN, "the configuration asks for no confirmation any more"))
    # After a pause patience begins again: a person has just looked.
    deadline = max(state.entered + stage.duration, state.patient_from) + _patience(plan)
    if lasted and not decided and now >= deadline:
        found.append((Signal.STALE, _undecided(tick, stage)))
    return found


def _errors(verdicts: Sequence[Verdict]) -> str:
    """Each reason once, after the metrics that it is given for."""
    metrics: dict[str, list[str]] = {}
    for verdict in verdicts:
        metrics.setdefault(verdict.reason, []).append(verdict.metric)
    return "; ".join(f"{', '.join(named)}: {reason}" for reason, named in metrics.items())


def _contest(state: State, tick: Tick, plan: Plan) -> list[tuple[Signal, str]]:
    """What the bandit's stop rule says. Without a winner it goes on for as long as that takes."""
    if tick.winner is None:
        return [(Signal.OPEN, "the bandit has no winner any more")]
    reason = f"the bandit's winner is {tick.winner}"
    if plan.bandit != "single":
        return [(Signal.COMPLETE, reason)]
    return [(Signal.FINISHED if tick.winner == state.candidate else Signal.LOST, reason)]


_KINDS: Final = ("pass", "fail", "inconclusive", "error")


def _patience(plan: Plan) -> float:
    return math.inf if plan.patience is None else plan.patience


def _onward(state: State, plan: Plan) -> tuple[Signal, str]:
    """What follows a stage that is passed, and why."""
    reason, following = "minimum time, samples and all guardrails passed", state.stage + 1
    if following < len(plan.stages):
        if plan.stages[following].confirm:
            weight = plan.stages[following].weight
            return Signal.COMPLETE, f"{reason}; the stage of {weight:.1%} waits for a confirmation"
        return Signal.PASSED, reason
    if plan.bandit is not None:
        return Signal.COMPETE, reason
    return Signal.FINISHED if plan.promote else Signal.COMPLETE, reason


def _undecided(tick: Tick, stage: Stage) -> str:
    open_ones = [f"{v.metric} ({v.reason})" for v in tick.verdicts if v.verdict == "inconclusive"]
    if tick.samples < stage.min_samples:
        open_ones.append(f"{tick.samples:g} of {stage.min_samples} samples")
    return "undecided for too long: " + ", ".join(open_ones)


def _command(state: State, command: Command, plan: Plan, now: float) -> tuple[State, tuple[Effect, ...]]:
    allowed = possible(state, plan, command.held)
    can = ", ".join("set WEIGHT" if name == "set" else name for name in allowed)
    if command.action not in [str(signal) for signal in COMMANDS]:
        return state, (Refused(f"there is no command {command.action!r}; possible now: {can}"),)
    signal = Signal(command.action)
    if signal not in allowed:
        verb, status = signal.replace("rollback", "roll back"), state.status.replace("_", " ")
        return state, (Refused(f"can't {verb} a rollout that is {status}; possible now: {can}"),)
    weight = command.weight
    if signal is Signal.SET and (weight is None or not 0 <= weight <= 1):
        return state, (Refused("set needs a weight between 0 and 1 (0% and 100%)"),)
    reason = f"{signal} {weight:g}" if signal is Signal.SET and weight is not None else str(signal)
    if command.reason:
        reason = f"{reason}: {command.reason}"
    state = _standing(state, command.share)
    return _apply(
        state, signal, plan, now, actor=command.actor, reason=reason, given=weight, held=command.held
    )


def _apply(
    state: State,
    signal: Signal,
    plan: Plan,
    now: float,
    *,
    reason: str,
    actor: str = "",
    given: float | None = None,
    held: float | None = None,
    evidence: tuple[dict[str, Any], ...] = (),
    carried: Mapping[str, float] | None = None,
) -> tuple[State, tuple[Effect, ...]]:
    rule = TABLE[state.status].get(signal)
    if rule is None:
        return state, ()
    moved = _act(state, rule.action, plan, now, given)
    if held is not None and rule.action in (Action.ACCEPT, Action.CONTINUE):
        moved = replace(moved, accepted=held)
        reason = f"{reason} ({100 * held:+.1f} pp of client errors accepted)"
    moved = replace(moved, status=rule.target, reason=reason)
    if moved.status is not state.status or rule.action in (Action.RESTART, Action.GIVEN):
        moved = replace(moved, since=now)
    if rule.target is not Status.PROMOTED:
        moved = replace(moved, bake_until=None)
    if moved == replace(state, reason=reason):
        return state, ()  # a configuration that changes nothing for the rollout
    decisive = () if moved.watched else tuple(one for one in evidence if "verdict" in one)
    moved = replace(moved, evidence=decisive)
    effects: list[Effect] = []
    if _shares(moved, plan) != _shares(state, plan) or rule.action is Action.RESTART:
        carried = moved.carried if carried is None else dict(carried)
        # Evidence at other shares is another window's; only bets go on.
        moved = replace(moved, window=now, waiting_since=None, carried=carried)
        effects.append(SetWeight(moved.weight, reason))
    effects.append(
        Audit(
            now,
            signal,
            state.status,
            moved.status,
            moved.stage,
            moved.weight,
            actor,
            reason,
            evidence,
            moved.phase,
        )
    )
    return moved, tuple(effects)


def _shares(state: State, plan: Plan) -> tuple[float, float, bool]:
    return state.weight, shadow_share(state, plan), state.deciding


def _act(state: State, action: Action, plan: Plan, now: float, given: float | None) -> State:
    if action is Action.NEXT:
        return _enter(state, state.stage + 1, plan, now)
    if action is Action.COMPETE:
        return replace(state, competing=now, entered=now, patient_from=now)
    if action is Action.RESTART:
        return replace(begin(plan, now), checked=state.checked)
    if action is Action.CONTINUE:
        return _resume(timed(replace(state, acknowledged=now), "", now), plan, now)
    if action is Action.FULL:
        return _promote(state, plan, now)
    if action is Action.ZERO:
        return replace(state, weight=0.0, by_hand=False)
    if action is Action.GIVEN:
        return _set(state, 0.0 if given is None else given, now)
    if action is Action.ADAPT:
        return _adapt(state, plan, now)
    if action is Action.SETTLE:
        return replace(state, weight=1.0, bake_until=None)
    return state


def _promote(state: State, plan: Plan, now: float) -> State:
    """Full traffic, but for the holdback until the bake is over; no unit that is on the candidate moves back."""
    bakes = plan.bake > 0
    weight = max(state.weight, 1.0 - plan.holdback) if bakes else 1.0
    until = now + plan.bake if bakes else None
    return replace(state, weight=weight, stage=len(plan.stages) - 1, bake_until=until, by_hand=False)


def _enter(state: State, stage: int, plan: Plan, now: float) -> State:
    weight = stage_of(plan, stage).weight
    return replace(
        state,
        stage=stage,
        weight=weight,
        entered=now,
        patient_from=now,
        window=now,
        accepted=0.0,
        by_hand=False,
    )


def _set(state: State, weight: float, now: float) -> State:
    """By hand. A share of the traffic is the end of the gate; another share is another window."""
    stage = max(state.stage, 0) if weight > 0 else state.stage
    entered = state.entered if weight == state.weight else now
    return replace(state, weight=weight, stage=stage, entered=entered, by_hand=True, acknowledged=now)


def _resume(state: State, plan: Plan, now: float) -> State:
    """Goes on where the pause began. A bandit takes up its share again, whatever was set.

    A weight set by hand stays, as that of the stage before the first that is greater, until that stage's time,
    samples and guardrails allow the next: no stage is skipped unproven. Below the first stage's weight, the first
    begins.
    """
    if state.competing is not None and plan.bandit is not None:
        return state
    state = replace(state, competing=None)
    if state.weight == stage_of(plan, state.stage).weight:
        return replace(state, entered=state.entered + now - state.since, patient_from=now, by_hand=False)
    stage = _reached(state.weight, plan)
    if stage is None:
        return _enter(state, plan.first if state.weight == 0 else 0, plan, now)
    if stage_of(plan, stage).weight == state.weight:
        return replace(_enter(state, stage, plan, now), window=state.window)
    return replace(state, stage=stage, entered=now, patient_from=now, by_hand=True)


def _reached(weight: float, plan: Plan) -> int | None:
    """The stage before the first that is greater; None below the first."""
    passed = len(list(takewhile(lambda stage: stage.weight <= weight, plan.stages)))
    return passed - 1 if weight > 0 and passed else None


def _placed(state: State, plan: Plan) -> State:
    """The state at its place among the plan's stages, which the weights tell if they were edited.

    A stage that was given another weight stays where it is. If it was removed, the share in force stays, as one that a
    person has set.
    """
    if state.shares == plan.shares:
        return state
    edits = SequenceMatcher(None, state.shares, plan.shares, autojunk=False).get_opcodes()
    for edit, begins, ends, at, until in edits:
        if begins <= state.stage < ends:
            if edit == "equal" or ends - begins == until - at:
                return replace(state, stage=state.stage + at - begins, shares=plan.shares)
            reached = _reached(state.weight, plan)
            return replace(state, stage=reached or 0, by_hand=reached is not None, shares=plan.shares)
    return replace(state, shares=plan.shares)


def _adapt(state: State, plan: Plan, now: float) -> State:
    if state.competing is not None:
        if plan.bandit is not None:
            return state
        return _enter(replace(state, competing=None), len(plan.stages) - 1, plan, now)
    reached = _reached(state.weight, plan)
    if state.by_hand and reached is not None:
        return replace(state, stage=reached)
    stage = min(max(state.stage, plan.first), len(plan.stages) - 1)
    if stage_of(plan, stage).weight != state.weight:
        return _enter(state, stage, plan, now)
    return replace(state, stage=stage)
