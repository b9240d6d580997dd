"""Rollouts over random lives, over edits, and while a weight is not in effect everywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.rollout.clock import absent
from policies.rollout.events import Audit, Command, Configured, Event, Refused, SetWeight, Tick
from policies.rollout.machine import next_due, possible, step
from policies.rollout.state import Gate, Plan, Stage, State, begin, shadow_share, stage_of
from policies.rollout.table import COMMANDS, Status
from tests.policies.rollout_plays import PLAN, play, tick, verdict, weights


def test_a_stage_takes_no_time_while_its_weight_is_not_in_effect_everywhere() -> None:
    waiting = replace(tick(), waits="e2 is silent")
    state, effects = play((1, waiting), (500, waiting), (700, waiting))
    assert (state.stage, effects) == (0, [])
    assert State.from_dict(state.as_dict()) == state
    state, effects = play((1, waiting), (700, waiting), (901, tick()), (1499, tick()))
    assert (state.stage, state.entered, state.waiting_since) == (0, 900, None)
    state, effects = play((1, waiting), (901, tick()), (1500, tick()))
    assert weights(effects) == [0.1]


def test_neither_patience_nor_the_bake_takes_time_meanwhile() -> None:
    waiting = replace(tick("inconclusive"), waits="e2 is silent")
    state, _ = play(
        (1, waiting), (10_000, waiting), (10_001, tick("inconclusive")), (17_799, tick("inconclusive"))
    )
    assert state.status is Status.RUNNING
    promoted = ((600, tick()), (2400, tick()), (6000, tick()))
    state, _ = play(
        *promoted, (6001, replace(Tick(), waits="e2 is silent")), (9700, replace(Tick(), waits="x"))
    )
    assert state.bake_until == 9600
    state, _ = play(*promoted, (6001, replace(Tick(), waits="e2 is silent")), (9701, Tick()))
    assert state.bake_until == 13_300


def test_a_failure_rolls_back_also_where_the_weight_is_not_in_effect_everywhere() -> None:
    state, effects = play((5, replace(tick("fail"), waits="e2 is silent")))
    assert state.status is Status.ROLLED_BACK
    assert weights(effects) == [0.0]


def test_a_bandit_decides_while_nodes_follow_its_weights() -> None:
    plan = replace(PLAN, stages=(Stage(0.1, 10),), bandit="single")
    won = Tick(winner="v2", share=0.5, waits="e2 (behind)")
    state, _ = play((11, tick()), (12, won), plan=plan)
    assert state.status is Status.PROMOTED


@pytest.mark.parametrize(
    ("edited", "stage", "share", "following"),
    [
        ((0.1, 0.5), 0, 0.1, 0.5),  # the stage before it is removed
        ((0.001, 0.01, 0.1, 0.5), 2, 0.1, 0.5),
        ((0.01, 0.05, 0.1, 0.5), 2, 0.1, 0.5),
        ((0.01, 0.5), 0, 0.1, 0.5),  # it is removed itself: its share stays
        ((0.05, 0.5), 0, 0.1, 0.5),
        ((0.01, 0.2, 0.5), 1, 0.2, 0.5),  # it is given another share
        ((0.01, 0.02, 0.5), 1, 0.02, 0.5),
        ((0.5,), 0, 0.5, 1.0),  # no smaller share is left
    ],
)
@pytest.mark.parametrize("waiting", [False, True])
def test_an_edit_of_the_stages_finds_the_place_by_their_shares(
    edited: tuple[float, ...], stage: int, share: float, following: float, waiting: bool
) -> None:
    before = replace(PLAN, stages=(PLAN.stages[0], PLAN.stages[1], replace(PLAN.stages[2], confirm=waiting)))
    lived = ((600, tick()), (2400, tick())) if waiting else ((600, tick()),)
    state, _ = play(*lived, plan=before)
    assert (state.stage, state.weight, state.status) == (
        1,
        0.1,
        Status.WAITING if waiting else Status.RUNNING,
    )
    plan = replace(
        before,
        stages=tuple(Stage(weight, 60, confirm=waiting and weight == 0.5) for weight in edited),
        bake=0.0,
    )
    state, _ = step(state, Configured(), plan, 2500)
    assert state.stage == stage
    assert state.weight == (0.1 if waiting else share), "a share moves while the stage runs"
    assert step(state, Configured(), plan, 2501) == (state, ()), "as a restart"
    if waiting and len(edited) > 1:
        assert "confirm" in possible(state, plan)
    onward = Command("promote" if len(edited) == 1 else "confirm") if waiting else tick()
    state, _ = step(state, onward, plan, 9000)
    assert state.weight == following


@pytest.mark.parametrize(("event", "share"), [(tick(), 0.5), (Command("pause"), 0.1)])
def test_a_process_with_the_stages_before_an_edit_finds_the_place_among_its_own(
    event: Event, share: float
) -> None:
    state, _ = play((600, tick()))
    edited = replace(PLAN, stages=PLAN.stages[1:])
    state, _ = step(state, Configured(), edited, 700)
    for plan, one in ((PLAN, event), (edited, Configured())):
        state, _ = step(state, one, plan, 2400)
        assert state.weight == stage_of(plan, state.stage).weight == share


# Random lives ------------------------------------------------------------------------------------------

OUTCOMES = st.sampled_from(["pass", "fail", "inconclusive", "error"])
TICKS = st.builds(
    lambda outcomes, samples, sick, winner, first: Tick(
        tuple(verdict(o) for o in outcomes), samples, sick, winner=winner, first=first
    ),
    st.lists(OUTCOMES, max_size=3),
    st.floats(0, 1e4),
    st.sampled_from(["", "", "", "", "sick"]),
    st.sampled_from([None, None, "v1", "v2"]),
    st.booleans(),
)
ACTIONS = st.sampled_from([str(c) for c in COMMANDS] + ["nonsense"])
WEIGHTS = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1)
HELD = st.none() | st.floats(0.01, 1)
EVENTS = st.one_of(
    TICKS, TICKS, st.builds(Command, ACTIONS, st.just("ops"), WEIGHTS, held=HELD), st.builds(Configured)
)
STAGES = st.lists(
    st.builds(Stage, st.floats(0, 1), st.floats(0, 100), st.integers(0, 50), st.booleans()),
    min_size=1,
    max_size=4,
)
PLANS = st.builds(
    Plan,
    st.just("v1"),
    st.sampled_from(["v2", "v3"]),
    STAGES.map(tuple),
    promote=st.booleans(),
    bake=st.sampled_from([0.0, 50.0]),
    holdback=st.sampled_from([0.0, 0.05]),
    patience=st.none() | st.floats(1, 300),
    gate=st.none() | st.builds(Gate, st.just(0.9)),
    bandit=st.sampled_from([None, "ask", "single"]),
)
LIVES = st.lists(st.tuples(st.floats(0.1, 200), EVENTS), max_size=40)


@settings(max_examples=250, deadline=None)
@given(PLANS, LIVES)
def test_every_life_keeps_the_promises(plan: Plan, life: list[tuple[float, Event]]) -> None:
    now, state = 0.0, begin(plan, 0.0)
    for wait, event in life:
        now += wait
        before = state
        allowed = possible(before, plan, event.held if isinstance(event, Command) else None)
        state, effects = step(before, event, plan, now)
        published = [effect.weight for effect in effects if isinstance(effect, SetWeight)]
        assert all(0 <= weight <= 1 for weight in [state.weight, *published])
        assert state.weight == (published or [before.weight])[-1]
        assert 0 <= shadow_share(state, plan) <= 1
        assert State.from_dict(json.loads(json.dumps(state.as_dict(), allow_nan=False))) == state
        assert next_due(state, plan) > 0
        assert not state.deciding or plan.bandit is not None
        if isinstance(event, Tick):
            if before.status in (Status.ROLLED_BACK, Status.HALTED):
                assert replace(state, checked=0) == replace(before, checked=0)
            if any(v.verdict == "error" for v in event.verdicts) and state.status is Status.ROLLED_BACK:
                failed = any(v.verdict == "fail" for v in event.verdicts)
                assert failed or before.status is Status.ROLLED_BACK
            if state.status is Status.RUNNING and state.stage > before.stage:
                assert not plan.stages[state.stage].confirm
        if state.status is Status.ROLLED_BACK:
            assert state.weight == 0
        if state.status is not before.status:
            assert sum(isinstance(effect, Audit) for effect in effects) == 1
        if isinstance(event, Command):
            refused = any(isinstance(effect, Refused) for effect in effects)
            weighed = event.action != "set" or (event.weight is not None and 0 <= event.weight <= 1)
            assert refused != (event.action in allowed and weighed)
            assert not (refused and len(effects) > 1)
            assert not refused or state == before


WHOLE_SECONDS = st.lists(st.tuples(st.integers(1, 200), EVENTS), max_size=25)


@settings(max_examples=150, deadline=None)
@given(PLANS, WHOLE_SECONDS, st.lists(st.tuples(st.integers(0, 24), st.integers(0, 10**6)), max_size=3))
def test_time_without_the_rollout_changes_nothing_else(
    plan: Plan, life: list[tuple[int, Event]], absences: list[tuple[int, int]]
) -> None:
    whole = (replace(stage, duration=float(int(stage.duration))) for stage in plan.stages)
    patience = None if plan.patience is None else float(int(plan.patience))
    plan = replace(plan, stages=tuple(whole), patience=patience)

    def lived(absences: list[tuple[int, int]]) -> list[tuple[Status, int, float, bool]]:
        now, state, trail = 0, begin(plan, 0.0), []
        for number, (wait, event) in enumerate(life):
            for length in (length for when, length in absences if when == number):
                state = absent(state, now)
                assert absent(state, now + length / 2) == state
                assert State.from_dict(json.loads(json.dumps(state.as_dict()))) == state
                now += length
                state, _ = step(state, Configured(), plan, now)
                assert state.absent_since is None
            now += wait
            state, _ = step(state, event, plan, now)
            trail.append((state.status, state.stage, state.weight, state.bake_until is None))
        return trail

    assert lived(absences) == lived([(when, 0) for when, _ in absences])


def test_evidence_begins_again_with_the_rollout_but_for_its_bets() -> None:
    state, _ = play((500, tick()))
    state = absent(state, 550, {"error_rate max_increase 0.005": 1.5})
    state, effects = step(state, Configured(), PLAN, 9000)
    assert (state.entered, state.window, effects) == (8450, 9000, ())
    assert state.carried == {"error_rate max_increase 0.005": 1.5}
    state, effects = step(state, tick(), PLAN, 9049)
    assert weights(list(effects)) == []
    state, effects = step(state, tick(), PLAN, 9050)
    assert weights(list(effects)) == [0.1]


def test_an_absence_in_a_pause_counts_once() -> None:
    state, _ = play((100, Command("pause")))
    state, _ = step(absent(state, 200), Command("resume"), PLAN, 5000)
    assert state.entered == 4900


def test_a_wait_in_a_pause_counts_once() -> None:
    waiting, pause, resume = replace(tick(), waits="e2 is silent"), Command("pause"), Command("resume")
    state, _ = play((50, waiting), (100, pause), (110, waiting), (300, tick()), (400, resume))
    assert state.entered == 350
    state, _ = play((50, waiting), (100, pause), (120, resume), (130, waiting), (300, tick()))
    assert state.entered == 240


def test_a_clock_that_is_set_back_during_a_wait_does_not_shorten_the_stage() -> None:
    waiting = replace(tick(), waits="e2 is silent")
    state, effects = play((700, waiting), (100, tick()), (101, tick()))
    assert (state.stage, weights(effects)) == (0, [])
    assert state.waiting_since is None
