"""The rollout's table: transcripts of events in and effects out, and properties over random lives."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.rollout.events import Audit, Command, Configured, Effect, Event, Refused, SetWeight, Tick
from policies.rollout.machine import foreseen, is_due, next_due, possible, step
from policies.rollout.state import GATE, Gate, Plan, Stage, State, begin, shadow_share
from policies.rollout.table import COMMANDS, TABLE, Status
from policies.rollout.verdicts import Verdict

PLAN = Plan(
    "v1",
    "v2",
    (Stage(0.01, 600), Stage(0.1, 1800, 500), Stage(0.5, 3600)),
    bake=3600,
    patience=7200,
)


def verdict(outcome: str, reason: str = "") -> Verdict:
    return Verdict("error_rate", outcome, "max_increase", 0.005, 0.01, 0.001, (-0.1, 0.1), reason=reason)  # type: ignore[arg-type]


def tick(outcome: str = "pass", samples: float = 1e6, sick: str = "") -> Tick:
    return Tick((verdict(outcome),), samples, sick)


def play(*events: tuple[float, Event], plan: Plan = PLAN) -> tuple[State, list[Effect]]:
    state, effects = begin(plan, 0.0), list[Effect]()
    for now, event in events:
        state, more = step(state, event, plan, now)
        effects += more
    return state, effects


def weights(effects: list[Effect]) -> list[float]:
    return [effect.weight for effect in effects if isinstance(effect, SetWeight)]


def test_a_good_candidate_climbs_and_is_promoted() -> None:
    state, effects = play((1, tick()), (600, tick()), (2400, tick()), (6000, tick()))
    assert state.status is Status.PROMOTED
    assert weights(effects) == [0.1, 0.5, 1.0]
    assert [e.target for e in effects if isinstance(e, Audit)] == ["running", "running", "promoted"]
    state, effects = play((600, tick()), (2400, tick()), (6000, tick()), (9600, Tick()))
    assert state.bake_until is None
    assert isinstance(effects[-1], Audit)
    assert effects[-1].signal == "baked"
    assert next_due(state, PLAN) == math.inf


def test_each_step_tells_its_evidence() -> None:
    _, effects = play((600, tick()))
    entry = effects[-1]
    assert isinstance(entry, Audit)
    assert entry.as_dict() == {
        "time": 600,
        "signal": "passed",
        "source": "running",
        "target": "running",
        "stage": 1,
        "weight": 0.1,
        "actor": "",
        "reason": "minimum time, samples and all guardrails passed",
        "evidence": [verdict("pass").as_dict()],
        "phase": "canary",
    }
    json.dumps(entry.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("event", "when"),
    [(tick("inconclusive"), 600), (tick(), 599), (tick("inconclusive"), 7799)],
)
def test_a_stage_waits_for_time_and_verdicts(event: Tick, when: float) -> None:
    state, effects = play((when, event))
    assert (state.status, state.stage, effects) == (Status.RUNNING, 0, [])


def test_a_stage_waits_for_samples() -> None:
    state, _ = play((600, tick()), (2400, tick(samples=499)))
    assert state.stage == 1
    state, _ = step(state, tick(samples=500), PLAN, 2401)
    assert state.stage == 2


@pytest.mark.parametrize("outcome", ["inconclusive", "pass"])
def test_undecided_past_its_patience_pauses(outcome: str) -> None:
    state, effects = play((600, tick()), (600 + 1800 + 7200, tick(outcome, samples=7)))
    assert (state.status, state.weight) == (Status.PAUSED, 0.1)
    assert "7 of 500 samples" in state.reason
    assert weights(effects) == [0.1]


def test_without_patience_it_waits_for_ever() -> None:
    state, _ = play((1e9, tick("inconclusive")), plan=replace(PLAN, patience=None))
    assert state.status is Status.RUNNING


def test_after_an_undecided_pause_resuming_gives_new_patience() -> None:
    state, _ = play((7800, tick("inconclusive")), (9000, Command("resume")), (9001, tick("inconclusive")))
    assert state.status is Status.RUNNING
    state, _ = step(state, tick("inconclusive"), PLAN, 9000 + 7200)
    assert state.status is Status.PAUSED


def test_a_failure_rolls_back_at_once() -> None:
    state, effects = play((5, tick("fail")))
    assert (state.status, state.weight) == (Status.ROLLED_BACK, 0.0)
    assert weights(effects) == [0.0]
    assert "error_rate breaches max_increase 0.5 pp: 0.1 pp, interval -10 pp to 10 pp" in state.reason
    assert next_due(state, PLAN) == math.inf


def test_what_decided_is_kept_until_the_rollout_moves_on() -> None:
    state, _ = play((5, tick("fail")))
    assert [one["verdict"] for one in state.evidence] == ["fail"]
    assert State.from_dict(json.loads(json.dumps(state.as_dict()))) == state
    assert step(state, Command("restart"), PLAN, 6)[0].evidence == ()
    by_hand, _ = play((5, Command("rollback", "ops")))
    assert by_hand.evidence == (), "a person decided"


def test_an_error_pauses_and_keeps_the_weight() -> None:
    state, effects = play((5, Tick((verdict("error", "the store is gone"),))))
    assert (state.status, state.weight) == (Status.PAUSED, 0.01)
    assert weights(effects) == []
    assert "the store is gone" in state.reason


def test_a_sick_baseline_halts_even_when_a_guardrail_fails() -> None:
    state, effects = play((5, tick("fail", sick="the baseline's own error rate is above 20 %")))
    assert (state.status, state.weight) == (Status.HALTED, 0.01)
    assert weights(effects) == []
    assert step(state, tick("fail"), PLAN, 6)[1] == ()


def test_a_pause_does_not_count_as_time() -> None:
    state, effects = play((300, Command("pause", "ops")), (1000, tick()), (5000, Command("resume", "ops")))
    assert step(state, tick(), PLAN, 5299)[0].stage == 0
    assert step(state, tick(), PLAN, 5300)[0].stage == 1
    assert weights(effects) == []
    assert [e.actor for e in effects if isinstance(e, Audit)] == ["ops", "ops"]


def test_a_failure_rolls_back_while_paused() -> None:
    state, _ = play((300, Command("pause")), (301, tick("fail")))
    assert state.status is Status.ROLLED_BACK


def test_a_weight_by_hand_stops_the_automatic_until_resume() -> None:
    state, effects = play((10, Command("set", weight=0.3)), (9000, tick()))
    assert (state.status, state.weight) == (Status.PAUSED, 0.3)
    assert weights(effects) == [0.3]
    state, more = step(state, Command("resume"), PLAN, 9001)
    assert (state.status, state.stage, state.weight, state.entered) == (Status.RUNNING, 1, 0.3, 9001)
    assert weights(list(more)) == []


def test_a_weight_by_hand_skips_no_stage_unproven() -> None:
    """It went to the next greater stage at once, whose share nothing had been shown to be safe for."""
    state, _ = play((10, Command("set", weight=0.3)), (9000, Command("resume")))
    state, _ = step(state, Configured(), PLAN, 9100)  # an edit elsewhere in the file, or a restart
    assert (state.weight, state.stage, state.entered) == (0.3, 1, 9000)
    early, _ = step(state, tick(samples=500), PLAN, 10_799)
    few, _ = step(state, tick(samples=499), PLAN, 10_800)
    unsure, _ = step(state, tick("inconclusive", samples=500), PLAN, 10_800)
    assert [s.weight for s in (early, few, unsure)] == [0.3] * 3
    assert step(state, tick("fail"), PLAN, 9001)[0].status is Status.ROLLED_BACK
    shown, _ = step(state, tick(samples=500), PLAN, 10_800)
    assert (shown.stage, shown.weight, shown.by_hand) == (2, 0.5, False)


@pytest.mark.parametrize(
    ("given", "stage", "weight"), [(0.001, 0, 0.01), (0.0, 0, 0.01), (0.1, 1, 0.1), (0.9, 2, 0.9)]
)
def test_where_a_weight_by_hand_goes_on(given: float, stage: int, weight: float) -> None:
    state, _ = play((10, Command("set", weight=given)), (20, Command("resume")))
    assert (state.status, state.stage, state.weight, state.entered) == (Status.RUNNING, stage, weight, 20)


def test_stages_that_do_not_ascend_are_not_skipped_either() -> None:
    plan = Plan("v1", "v2", (Stage(0.5, 60), Stage(0.1, 60)))
    state, _ = step(begin(plan, 0), Command("set", weight=0.3), plan, 1)
    state, _ = step(state, Command("resume"), plan, 2)
    assert (state.stage, state.weight) == (0, 0.5)


def test_an_edited_stage_moves_a_weight_that_nobody_set() -> None:
    plan = replace(PLAN, stages=(Stage(0.02, 600), *PLAN.stages[1:]))
    state, _ = step(begin(PLAN, 0), Configured(), plan, 5)
    assert (state.stage, state.weight) == (0, 0.02)


def test_a_weight_by_hand_back_to_the_stage_starts_its_time_again() -> None:
    state, _ = play(
        (500, Command("set", weight=0.3)), (600, Command("set", weight=0.01)), (700, Command("resume"))
    )
    assert state.window == 600
    assert step(state, tick(), PLAN, 1299)[0].stage == 0
    assert step(state, tick(), PLAN, 1300)[0].stage == 1


@pytest.mark.parametrize("weight", [None, -0.1, 1.1, math.nan])
def test_a_weight_must_be_a_share(weight: float | None) -> None:
    state, effects = play((10, Command("set", weight=weight)))
    assert state.weight == 0.01
    assert effects == [Refused("set needs a weight between 0 and 1 (0% and 100%)")]


def test_an_illegal_command_says_what_is_possible() -> None:
    state, effects = play((5, Command("rollback")), (6, Command("pause")))
    assert state.status is Status.ROLLED_BACK
    assert effects[-1] == Refused(
        "can't pause a rollout that is rolled back; possible now: resume, promote, set WEIGHT, restart"
    )
    _, effects = play((5, Command("explode")))
    assert effects == [
        Refused("there is no command 'explode'; possible now: pause, promote, rollback, set WEIGHT, restart")
    ]


def test_on_success_wait_leaves_promotion_to_a_person() -> None:
    plan = replace(PLAN, promote=False)
    state, effects = play((600, tick()), (2400, tick()), (6000, tick()), (1e6, tick()), plan=plan)
    assert (state.status, state.weight) == (Status.WAITING, 0.5)
    state, _ = step(state, Command("promote", "ops"), plan, 1e6 + 1)
    assert (state.status, state.weight) == (Status.PROMOTED, 1.0)
    assert weights(effects) == [0.1, 0.5]


def test_fast_return_during_the_bake_and_by_hand_after_it() -> None:
    promoted, _ = play((5, Command("promote")))
    assert promoted.bake_until == 3605
    assert step(promoted, tick("fail"), PLAN, 100)[0].status is Status.ROLLED_BACK
    baked, _ = step(promoted, Tick(), PLAN, 3605)
    assert step(baked, tick("fail"), PLAN, 4000)[0].status is Status.PROMOTED
    assert step(baked, Command("rollback"), PLAN, 4000)[0].weight == 0.0


def test_a_share_is_held_back_until_the_bake_is_over() -> None:
    plan = replace(PLAN, holdback=0.05)
    promoted, effects = play((5, Command("promote")), plan=plan)
    assert (promoted.weight, weights(effects)) == (0.95, [0.95])
    assert step(promoted, tick("fail"), plan, 100)[0].status is Status.ROLLED_BACK
    assert step(promoted, tick("fail", sick="it is sick"), plan, 100)[0] == replace(promoted, checked=100)
    baked, more = step(promoted, tick(), plan, 3605)
    assert (baked.weight, weights(list(more)), baked.bake_until) == (1.0, [1.0], None)


def test_no_unit_of_the_candidate_is_held_back() -> None:
    plan = replace(PLAN, stages=(Stage(0.99, 600),), holdback=0.05)
    assert play((5, Command("promote")), plan=plan)[0].weight == 0.99


def test_without_a_bake_promotion_is_final() -> None:
    plan = replace(PLAN, bake=0)
    state, _ = play((5, Command("promote")), plan=plan)
    assert state.bake_until is None
    assert next_due(state, plan) == math.inf


def test_resume_after_a_rollback_starts_over() -> None:
    state, effects = play((600, tick()), (700, tick("fail")), (800, Command("resume")))
    assert (state.status, state.stage, state.weight, state.window) == (Status.RUNNING, 0, 0.01, 800)
    assert weights(effects) == [0.1, 0.0, 0.01]


@pytest.mark.parametrize(
    "events",
    [
        (),
        ((300, Command("pause")),),
        ((700, tick(sick="all requests fail")),),
        ((700, tick("fail")),),
        ((700, Command("promote")),),
    ],
)
def test_restart_is_a_new_rollout_in_every_state(events: tuple[tuple[float, Tick | Command], ...]) -> None:
    state, effects = play((600, tick()), *events, (800, Command("restart", "ops")))
    assert (state.status, state.stage, state.weight, state.window) == (Status.RUNNING, 0, 0.01, 800)
    assert weights(effects)[-1] == 0.01
    assert state.bake_until is None


def test_a_gate_shadows_first() -> None:
    plan = replace(PLAN, gate=Gate(0.98, share=0.5, duration=60, min_samples=100))
    state = begin(plan, 0)
    assert (state.stage, state.weight, shadow_share(state, plan)) == (GATE, 0.0, 0.5)
    assert step(state, tick(samples=99), plan, 60)[0].stage == GATE
    passed, effects = step(state, tick(samples=100), plan, 60)
    assert (passed.stage, passed.weight, shadow_share(passed, plan)) == (0, 0.01, 0.0)
    assert weights(list(effects)) == [0.01]
    failed, effects = step(state, tick("fail"), plan, 5)
    assert shadow_share(failed, plan) == 0.0
    assert weights(list(effects)) == [0.0], "the shadow ends, so an allocation is due"
    by_hand, _ = step(state, Command("set", weight=0.2), plan, 5)
    assert shadow_share(by_hand, plan) == 0.0


def test_a_new_candidate_is_a_new_rollout() -> None:
    state, _ = play((5, tick("fail")))
    plan = replace(PLAN, candidate="v3")
    state, effects = step(state, Configured("ops"), plan, 10)
    assert (state.status, state.candidate, state.weight) == (Status.RUNNING, "v3", 0.01)
    assert weights(list(effects)) == [0.01]


def test_the_same_configuration_again_changes_nothing() -> None:
    lives: list[tuple[Event, ...]] = [(), (tick("fail"),), (Command("promote"),), (Command("pause"),)]
    for events in lives:
        state, _ = play(*((5.0, event) for event in events))
        assert step(state, Configured(), PLAN, 10) == (state, ())


def test_changed_stages_apply_to_the_running_stage() -> None:
    state, _ = play((600, tick()))
    plan = replace(PLAN, stages=(Stage(0.01, 600), Stage(0.2, 60)))
    state, effects = step(state, Configured(), plan, 700)
    assert (state.stage, state.weight, state.entered) == (1, 0.2, 700)
    assert weights(list(effects)) == [0.2]
    assert step(state, tick(), plan, 760)[0].status is Status.PROMOTED


def test_a_clock_that_is_set_back_by_an_hour_blinds_no_rollout() -> None:
    """It was not looked at for an hour, and what came in that hour lay before its window."""
    state, _ = play((600, tick()), (4200, tick()), (4201, tick("inconclusive")))
    assert not is_due(state, PLAN, 4201.5)
    assert is_due(state, PLAN, 602)
    looked, _ = step(state, tick("inconclusive"), PLAN, 602)
    assert (looked.window, looked.entered, looked.since) == (602, 602, 0)
    assert not is_due(looked, PLAN, 602.5)
    assert step(looked, tick("fail"), PLAN, 603)[0].status is Status.ROLLED_BACK


def test_next_due_is_one_interval_after_the_last_look() -> None:
    state, _ = play((5, tick()))
    assert next_due(state, PLAN) == 6
    assert next_due(begin(PLAN, 3), PLAN) == 4


def test_the_level_is_spent_where_a_wrong_verdict_does_harm() -> None:
    levels = PLAN.levels(2, 0.05)
    assert (levels.passing, levels.bet) == (0.05, 0.025)
    assert levels.fail == pytest.approx(0.025 / 4)  # three stages and the bake
    gated = replace(PLAN, bake=0, gate=Gate(0.9)).levels(1, 0.05)
    assert (gated.bet, gated.fail) == (0.025, pytest.approx(0.025 / 3))


def test_what_was_bet_goes_on_in_the_next_window() -> None:
    carried = {"error_rate max_increase 0.005": 1.5}
    state, _ = play((600, replace(tick(), carried=carried)))
    assert (state.stage, state.carried) == (1, carried)
    kept, _ = step(state, replace(tick("inconclusive"), carried={"x": 9.0}), PLAN, 700)
    assert kept.carried == carried, "within a window the bets themselves go on"
    assert play((600, tick("fail")), (700, Command("resume")))[0].carried == {}, "a new rollout"
    old = {k: v for k, v in state.as_dict().items() if k != "carried"}
    assert State.from_dict(old).carried == {}


def test_a_plan_must_make_sense() -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        Plan("v1", "v2", ())
    with pytest.raises(ValueError, match="between 0 and 1"):
        Stage(1.5)


@pytest.mark.parametrize("data", [{}, {"status": "flying"}])
def test_a_broken_state_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"flying|not the state"):
        State.from_dict(begin(PLAN, 0).as_dict() | data if data else {})


def test_the_table_keeps_its_two_rules() -> None:
    automatic = {
        "fail", "sick", "error", "passed", "finished", "complete", "stale", "baked", "compete", "lost",
        "open",
    }  # fmt: skip
    for source in (Status.ROLLED_BACK, Status.HALTED):
        assert not {str(signal) for signal in TABLE[source]} & automatic
    for row in TABLE.values():
        assert all(rule.target is not Status.ROLLED_BACK for signal, rule in row.items() if signal == "error")
    assert set(TABLE) == set(Status)


def test_the_documented_diagram_is_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rollouts.md").read_text()
    steps = [
        f"    {source} --> {rule.target}: {signal}"
        for source, row in TABLE.items()
        for signal, rule in row.items()
    ]
    assert "    running --> rolled_back: fail" in steps
    diagram = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Status.RUNNING}", *steps, "```"]
    assert "\n".join(diagram) in text


# Random lives ------------------------------------------------------------------------------------------

OUTCOMES = st.sampled_from(["pass", "fail", "inconclusive", "error"])
TICKS = st.builds(
    lambda outcomes, samples, sick, winner: Tick(
        tuple(verdict(o) for o in outcomes), samples, sick, winner=winner
    ),
    st.lists(OUTCOMES, max_size=3),
    st.floats(0, 1e4),
    st.sampled_from(["", "", "", "", "sick"]),
    st.sampled_from([None, None, "v1", "v2"]),
)
ACTIONS = st.sampled_from([str(c) for c in COMMANDS] + ["nonsense"])
WEIGHTS = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1)
EVENTS = st.one_of(TICKS, TICKS, st.builds(Command, ACTIONS, st.just("ops"), WEIGHTS), st.builds(Configured))
STAGES = st.lists(
    st.builds(Stage, st.floats(0, 1), st.floats(0, 100), st.integers(0, 50)), min_size=1, max_size=4
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
        allowed = possible(before)
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
        if state.status is Status.ROLLED_BACK:
            assert state.weight == 0
        if state.status is not before.status:
            assert sum(isinstance(effect, Audit) for effect in effects) == 1
        if isinstance(event, Command):
            refused = any(isinstance(effect, Refused) for effect in effects)
            assert refused or event.action in allowed
            assert not (refused and len(effects) > 1)
            assert not refused or state == before


def test_what_commands_lead_to_is_told_before() -> None:
    plan = replace(PLAN, holdback=0.05)
    state, _ = play((0, Command("set", weight=0.25)), plan=plan)
    found = foreseen(state, plan, 10.0, None)
    assert {action: (after.status, after.weight) for action, after in found.items()} == {
        "resume": (Status.RUNNING, 0.25),  # what was set stays
        "restart": (Status.RUNNING, 0.01),
        "promote": (Status.PROMOTED, 0.95),
        "rollback": (Status.ROLLED_BACK, 0.0),
    }


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
