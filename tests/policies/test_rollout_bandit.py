"""The rollout's table where a bandit goes on after the stages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.rollout.events import Audit, Command, Configured, SetWeight, Tick
from policies.rollout.machine import step
from policies.rollout.state import Stage, State, begin
from policies.rollout.table import Status
from policies.rollout.verdicts import Verdict
from tests.policies.rollout_plays import PLAN, play, tick, verdict, weights

BANDIT = replace(PLAN, stages=(Stage(0.2, 600),), bandit="single")
COMPETES = (600.0, tick())


def contest(winner: str | None = None, share: float = 0.4, *verdicts: Verdict) -> Tick:
    return Tick(verdicts, share=share, winner=winner, beliefs={"stopped": winner})


def test_after_the_last_stage_a_bandit_goes_on() -> None:
    state, effects = play((599, tick()), COMPETES, plan=BANDIT)
    assert (state.status, state.phase, state.deciding, state.competing) == (
        Status.RUNNING,
        "bandit",
        True,
        600,
    )
    assert [type(e) for e in effects] == [SetWeight, Audit]
    quiet, effects = play(COMPETES, (1e9, contest()), plan=BANDIT)
    assert (quiet.phase, len(effects)) == ("bandit", 2), "it goes on for as long as that takes"
    assert BANDIT.levels(1).bet + BANDIT.bandit_alpha() == PLAN.levels(1).bet


@pytest.mark.parametrize(
    ("then", "winner", "status", "weight", "signal"),
    [
        ("single", "v2", Status.PROMOTED, 1.0, "finished"),
        ("single", "v1", Status.ROLLED_BACK, 0.0, "lost"),
        ("ask", "v2", Status.WAITING, 0.9, "complete"),
        ("ask", "v1", Status.WAITING, 0.9, "complete"),
    ],
)
def test_a_winner_ends_it_or_is_asked_about(
    then: str, winner: str, status: Status, weight: float, signal: str
) -> None:
    plan = replace(BANDIT, bandit=then)  # type: ignore[arg-type]
    state, effects = play(COMPETES, (700, contest(winner, 0.9)), plan=plan)
    entry = effects[-1]
    assert isinstance(entry, Audit)
    assert (state.status, state.weight, state.phase) == (status, weight, "bandit")
    assert (entry.signal, entry.weight, entry.evidence[-1]) == (signal, weight, {"stopped": winner})
    assert entry.phase == "bandit"
    assert winner in state.reason
    assert (state.bake_until == 4300.0) == (status is Status.PROMOTED)


def test_a_question_is_taken_back_when_there_is_no_winner_any_more() -> None:
    plan = replace(BANDIT, bandit="ask")
    state, effects = play(COMPETES, (700, contest("v2")), (701, contest("v2")), (702, contest()), plan=plan)
    assert (state.status, state.deciding) == (Status.RUNNING, True)
    assert [e.signal for e in effects if isinstance(e, Audit)] == ["compete", "complete", "open"]


def test_a_pause_holds_the_bandits_share_and_resume_gives_it_back() -> None:
    state, effects = play(
        COMPETES, (700, Command("pause", "ops", share=0.7)), (701, contest("v2")), plan=BANDIT
    )
    assert (state.status, state.weight, state.deciding) == (Status.PAUSED, 0.7, False)
    assert effects[-2] == SetWeight(0.7, "pause")
    state, _ = step(state, Command("set", "ops", 0.0, share=0.7), BANDIT, 702)
    state, effects_ = step(state, Command("resume", "ops", share=0.0), BANDIT, 703)
    assert (state.phase, state.deciding, state.competing) == ("bandit", True, 600)
    assert isinstance(effects_[0], SetWeight)


def test_guardrails_bind_the_bandit() -> None:
    failed = contest("v2", 0.9, verdict("fail"))
    assert play(COMPETES, (700, failed), plan=BANDIT)[0].status is Status.ROLLED_BACK
    assert play(COMPETES, (700, Command("pause")), (701, failed), plan=BANDIT)[0].weight == 0
    sick = replace(failed, sick="the baseline fails")
    state, effects = play(COMPETES, (700, sick), plan=BANDIT)
    assert (state.status, state.weight, weights(effects)) == (Status.HALTED, 0.9, [0.2, 0.9])


def test_an_edit_that_takes_the_bandit_away_goes_back_to_the_last_stage() -> None:
    state, _ = play(COMPETES, plan=BANDIT)
    assert step(state, Configured(), BANDIT, 700)[1] == ()
    state, effects = step(state, Configured(), replace(BANDIT, bandit=None), 700)
    assert (state.phase, state.weight, state.entered) == ("canary", 0.2, 700)
    assert isinstance(effects[0], SetWeight)


def test_a_question_outlives_an_edit_that_takes_the_bandit_away() -> None:
    asking, _ = play(COMPETES, (700, contest("v2", 0.9)), plan=replace(BANDIT, bandit="ask"))
    plan = replace(BANDIT, bandit=None)
    assert step(asking, Configured(), plan, 701) == (asking, ())
    state, effects = step(asking, tick(), plan, 702)
    assert (state.status, state.weight, effects) == (Status.WAITING, 0.9, ())
    assert step(state, Command("promote"), plan, 703)[0].status is Status.PROMOTED


def test_states_that_were_kept_before_there_was_a_bandit_are_read() -> None:
    kept = begin(PLAN, 0.0).as_dict()
    del kept["competing"]
    assert State.from_dict(kept) == begin(PLAN, 0.0)
