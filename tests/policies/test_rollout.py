"""The rollout's table: transcripts of events in and effects out, and properties over random lives."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from policies.rollout.events import Audit, Command, Configured, Event, Refused, Tick
from policies.rollout.machine import foreseen, is_due, next_due, possible, step
from policies.rollout.state import GATE, Gate, Plan, Stage, State, begin, shadow_share
from policies.rollout.table import TABLE, Status
from tests.policies.rollout_plays import PLAN, play, tick, verdict, weights


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
    assert "error_rate breaches its limit of +0.5 pp: +0.1 pp, interval -10 pp to +10 pp" in state.reason
    assert next_due(state, PLAN) == math.inf


def test_what_decided_is_kept_until_the_rollout_moves_on() -> None:
    state, _ = play((5, tick("fail")))
    assert [one["verdict"] for one in state.evidence] == ["fail"]
    assert State.from_dict(json.loads(json.dumps(state.as_dict()))) == state
    assert step(state, Command("restart"), PLAN, 6)[0].evidence == ()
    by_hand, _ = play((5, Command("rollback", "ops")))
    assert by_hand.evidence == (), "a person decided"


@pytest.mark.parametrize("outcome", ["fail", "pass", "error"])
def test_a_look_at_the_variants_of_before_an_edit_says_nothing_of_the_new_ones(outcome: str) -> None:
    state = begin(replace(PLAN, candidate="newer"), 0)
    assert step(state, tick(outcome), PLAN, 1e5) == (state, ())


def test_an_error_pauses_and_keeps_the_weight() -> None:
    state, effects = play((5, Tick((verdict("error", "the store is gone"),))))
    assert (state.status, state.weight) == (Status.PAUSED, 0.01)
    assert weights(effects) == []
    assert "the store is gone" in state.reason


def test_a_sick_baseline_halts_even_when_a_guardrail_fails() -> None:
    state, effects = play((5, tick("fail", sick="the baseline's own error rate is above 20%")))
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


CONFIRMED = replace(PLAN, stages=(Stage(0.01, 600), Stage(0.1, 1800, 500, confirm=True), Stage(0.5, 3600)))


def test_a_stage_waits_for_its_confirmation_without_end() -> None:
    state, effects = play((600, tick()), (1e6, tick()), (2e6, tick("inconclusive")), plan=CONFIRMED)
    assert (state.status, state.stage, state.weight, weights(effects)) == (Status.WAITING, 0, 0.01, [])
    assert state.reason.endswith("; the stage of 10.0% waits for a confirmation")
    assert possible(state, CONFIRMED) == ("pause", "confirm", "promote", "rollback", "set", "restart")
    assert foreseen(state, CONFIRMED, 2e6, None)["confirm"].weight == 0.1
    state, effects = step(state, Command("confirm", "ann", reason="seen"), CONFIRMED, 2e6)  # type: ignore[assignment]
    assert (state.status, state.stage, state.entered, state.window) == (Status.RUNNING, 1, 2e6, 2e6)
    assert weights(list(effects)) == [0.1]
    (audit,) = [effect for effect in effects if isinstance(effect, Audit)]
    assert (audit.signal, audit.source, audit.actor, audit.reason) == (
        "confirm",
        "waiting",
        "ann",
        "confirm: seen",
    )
    state, _ = step(state, tick(), CONFIRMED, 2e6 + 1800)
    assert (state.status, state.stage) == (Status.RUNNING, 2)


@pytest.mark.parametrize(
    ("event", "status", "weight"),
    [
        (tick("fail"), Status.ROLLED_BACK, 0.0),
        (tick(sick="it is sick"), Status.HALTED, 0.01),
        (tick("error"), Status.WAITING, 0.01),
        (Command("pause"), Status.PAUSED, 0.01),
        (Command("resume"), Status.WAITING, 0.01),
        (Command("promote"), Status.PROMOTED, 1.0),
        (Command("rollback"), Status.ROLLED_BACK, 0.0),
        (Command("set", weight=0.3), Status.PAUSED, 0.3),
        (Command("restart"), Status.RUNNING, 0.01),
    ],
)
def test_what_else_may_happen_while_a_stage_waits(event: Event, status: Status, weight: float) -> None:
    state, _ = play((600, tick()), (700, event), plan=CONFIRMED)
    assert (state.status, state.weight) == (status, weight)


def test_after_a_pause_or_a_share_by_hand_the_stage_waits_again() -> None:
    for command in (Command("pause"), Command("set", weight=0.05)):
        state, _ = play(
            (600, tick()), (700, command), (800, Command("resume")), (5000, tick()), plan=CONFIRMED
        )
        assert (state.status, state.stage, state.weight) == (Status.WAITING, 0, command.weight or 0.01)


def test_the_gate_may_end_with_a_confirmation() -> None:
    plan = replace(PLAN, gate=Gate(0.98), stages=(Stage(0.01, 600, confirm=True), Stage(0.5, 600)))
    state, _ = play((10, tick()), plan=plan)
    assert (state.status, state.stage, state.weight, shadow_share(state, plan)) == (
        Status.WAITING,
        GATE,
        0,
        1.0,
    )
    state, _ = step(state, Command("confirm"), plan, 20)
    assert (state.status, state.stage, state.weight) == (Status.RUNNING, 0, 0.01)


def test_an_edit_that_asks_for_no_confirmation_goes_on() -> None:
    asking, _ = play((600, tick()), plan=CONFIRMED)
    assert step(asking, Configured(), PLAN, 650) == (asking, ())
    state, _ = step(asking, tick(), PLAN, 700)
    assert (state.status, state.stage) == (Status.RUNNING, 0)
    state, _ = step(state, tick(), PLAN, 701)
    assert (state.status, state.stage) == (Status.RUNNING, 1)
    short = replace(CONFIRMED, stages=CONFIRMED.stages[:1])
    state, _ = step(asking, tick(), short, 700)
    assert state.status is Status.WAITING, "a person was asked: what it promotes, they promote"
    assert "confirm" not in possible(state, short)


def test_an_edit_that_removes_the_gate_whose_end_waits_starts_the_first_stage() -> None:
    plan = replace(PLAN, gate=Gate(0.98), stages=(Stage(0.01, 600, confirm=True), Stage(0.5, 600)))
    asking, _ = play((10, tick()), plan=plan)
    state, effects = step(asking, tick("inconclusive"), PLAN, 20)
    assert (state.status, state.stage, state.weight, state.entered) == (Status.RUNNING, 0, 0.01, 20)
    assert weights(list(effects)) == [0.01]


def test_there_is_nothing_to_confirm_after_the_last_stage() -> None:
    plan = replace(PLAN, stages=PLAN.stages[:1], promote=False)
    state, effects = play((600, tick()), (700, Command("confirm")), plan=plan)
    assert state.status is Status.WAITING
    assert effects[-1] == Refused(
        "can't confirm a rollout that is waiting; possible now: pause, promote, rollback, set WEIGHT, restart"
    )


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


def test_a_bake_that_began_by_a_clock_ahead_ends_in_its_time() -> None:
    """The holdback stayed until the clock was there again."""
    ahead, _ = play((1e8, Command("promote")), plan=replace(PLAN, holdback=0.05))
    back, _ = step(ahead, tick(), PLAN, 100)
    assert (back.bake_until, back.weight) == (3700, 0.95)
    assert step(back, tick(), PLAN, 3700)[0].weight == 1.0


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
    plan = replace(PLAN, stages=(Stage(0.01, 600), Stage(0.2, 60), Stage(0.6, 60)))
    state, effects = step(state, Configured(), plan, 700)
    assert (state.stage, state.weight, state.entered) == (1, 0.2, 700)
    assert weights(list(effects)) == [0.2]
    assert step(state, tick(), plan, 760)[0].weight == 0.6


def test_a_clock_that_is_set_back_by_an_hour_blinds_no_rollout() -> None:
    """It was not looked at for an hour, and what came in that hour lay before its window."""
    state, _ = play((600, tick()), (4200, tick()), (4201, tick("inconclusive")))
    assert not is_due(state, PLAN, 4201.5)
    assert is_due(state, PLAN, 602)
    looked, _ = step(state, tick("inconclusive"), PLAN, 602)
    assert (looked.window, looked.entered, looked.since) == (602, 602, 0)
    assert not is_due(looked, PLAN, 602.5)
    assert step(looked, tick("fail"), PLAN, 603)[0].status is Status.ROLLED_BACK
    resumed, _ = step(step(state, Command("pause"), PLAN, 4202)[0], Command("resume"), PLAN, 4203)
    assert (resumed.doubted_from, step(resumed, tick(), PLAN, 604)[0].doubted_from) == (4203, 604)


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
