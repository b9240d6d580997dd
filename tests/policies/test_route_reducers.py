"""What moves a route's state beside the rollout: the stop rule, and ejections."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from policies.rollout import ejections, stop_rule
from policies.rollout.ejections import Ejections
from policies.rollout.events import Refused
from policies.rollout.guardrails import Judgement
from policies.rollout.route import RouteState
from policies.rollout.state import Plan, Stage, begin
from policies.rollout.stop_rule import StopEvidence, StopState
from policies.rollout.verdicts import Outcome, Verdict


def judgement(outcome: Outcome, sick: str = "") -> Judgement:
    verdict = Verdict("error_rate", outcome, "max_increase", 0.02, 0.05, 0.19, (0.1, 0.3), 0.01, 0.2, 100.0)
    return Judgement((verdict,), sick)


NAMED = StopEvidence("v2", {"difference": 0.1})
SINGLE = StopEvidence("v2", single=True)
ASKING = StopState("f", "asking", "v2", 1.0, "rule")
HANDED = StopState("f", "handed_over", "v2", 1.0, "rule")


@pytest.mark.parametrize(
    ("state", "seen", "after"),
    [
        (StopState("f"), NAMED, ("asking", "v2", "rule")),
        (StopState("f"), SINGLE, ("handed_over", "v2", "rule")),
        (StopState("f", asks=True), SINGLE, ("asking", "v2", "rule")),
        (ASKING, StopEvidence(None), ("learning", None, "rule")),
        (ASKING, StopEvidence("v1"), ("asking", "v1", "rule")),
        (HANDED, StopEvidence(None), ("handed_over", "v2", "rule")),
        (HANDED, StopEvidence("v2", ejected={"v1"}), ("handed_over", "v2", "rule")),
        (HANDED, StopEvidence("v2", ejected={"v2"}), ("learning", None, "guardrail")),
    ],
)
def test_a_look_at_the_stop_rule(
    state: StopState, seen: StopEvidence, after: tuple[str, str | None, str]
) -> None:
    found = stop_rule.look(state, seen, 9.0)
    assert (found.state, found.winner, found.by) == after
    assert found.since == (state.since if found == state else 9.0)


def test_no_news_is_the_same_state() -> None:
    assert stop_rule.look(ASKING, NAMED, 9.0) is ASKING


@pytest.mark.parametrize(("width", "told"), [(0.2, 0.2), (0.19, 0.2), (0.15, 0.15)])
def test_the_lead_of_a_winner_is_estimated_again_as_data_come(width: float, told: float) -> None:
    state = StopState("f", "asking", "v2", 1.0, "rule", {"interval": [0.0, 0.2]})
    found = stop_rule.look(state, StopEvidence("v2", {"interval": [0.0, width]}), 9.0)
    assert found.lead == {"interval": [0.0, told]}
    assert found.since == 1.0
    handed = StopState("f", "handed_over", "v2", 1.0, "rule", {"interval": [0.0, 0.2]})
    assert stop_rule.look(handed, StopEvidence("v2", {"interval": [0.0, width]}), 9.0) is handed


@pytest.mark.parametrize(
    ("state", "action", "after"),
    [
        (ASKING, "promote", ("handed_over", "v2", False)),
        (HANDED, "rollback", ("learning", None, True)),
        (StopState("f"), "promote", "no winner yet"),
        (HANDED, "promote", "handed over already"),
        (ASKING, "rollback", "handed nothing over"),
        (ASKING, "pause", "not 'pause'"),
    ],
)
def test_a_command(state: StopState, action: str, after: object) -> None:
    found = stop_rule.command(state, "r", action, "ann", 9.0)
    if isinstance(found, Refused):
        assert isinstance(after, str)
        assert after in found.message
    else:
        assert (found.state, found.winner, found.asks) == after
        assert (found.by, found.since) == ("ann", 9.0)


def test_a_breach_ejects_once() -> None:
    state, effects = ejections.look(
        Ejections("f", 1.0), {"v2": judgement("fail"), "v3": judgement("pass")}, candidate=None, trusted=True
    )
    assert [effect.variant for effect in effects] == ["v2"]
    assert state.ejected.keys() == {"v2"}
    again, effects = ejections.look(state, {"v2": judgement("fail")}, candidate=None, trusted=True)
    assert (again, effects) == (state, ())


@pytest.mark.parametrize(
    ("found", "trusted"),
    [(judgement("inconclusive"), True), (judgement("error"), True), (judgement("fail"), False)],
)
def test_nothing_else_ejects(found: Judgement, trusted: bool) -> None:
    state = Ejections("f", 1.0)
    assert ejections.look(state, {"v2": found}, candidate=None, trusted=trusted) == (state, ())
    sick = judgement("fail", "the baseline fails itself")
    assert ejections.look(state, {"v2": sick}, candidate=None, trusted=True) == (state, ())


def test_a_candidates_judgement_is_kept() -> None:
    state, _ = ejections.look(Ejections("f", 1.0), {"v2": judgement("pass")}, candidate="v2", trusted=True)
    assert state.judgement == judgement("pass")


def test_an_edit_begins_again() -> None:
    state = Ejections("old", 1.0, {"v2": "it fails"})
    assert state.under("old", 9.0) is state
    assert state.under("new", 9.0) == Ejections("new", 9.0)
    assert state.under("old", 0.5) == replace(state, since=0.5), "the clock was set back"
    assert HANDED.under("new") == StopState("new")


def test_a_state_survives_the_store() -> None:
    plan = Plan("v1", "v2", (Stage(0.1),))
    looked, _ = ejections.look(Ejections("f", 1.0), {"v2": judgement("fail")}, candidate="v2", trusted=True)
    for state in (RouteState(), RouteState(begin(plan, 5.0), looked, HANDED)):
        kept = json.loads(json.dumps(state.as_dict()))
        assert RouteState.from_dict(kept) == state
        kept["stop"]["later"] = kept["later"] = 1
        assert RouteState.from_dict(kept) == state


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"rollout": {}, "ejections": {}, "stop": {}}', '{"rollout": 1}']
)
def test_what_is_not_a_state_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not the state of a"):
        RouteState.from_dict(json.loads(text))
