"""Responses that are charged to the client, which only the candidate sends: by a guardrail, and without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.errors import TurnoutError
from gateway.loops.alarms import Alarms
from gateway.loops.controller import GUARDRAILS_S
from gateway.loops.guardrail_evidence import SETTLED_S
from gateway.state.base import BUCKET_S
from gateway.state.store import Store
from policies.rollout.events import Command
from policies.rollout.table import Signal
from tests.loops.test_rollout_bandit import Rollout
from tests.support.heard import Heard
from tests.support.made import outcome
from tests.support.one_route import canary, one_route

GUARDED = one_route(canary("{weight: 20%, for: 10s}", "metric: client_error_rate, max_increase: 5%"))
ERRORS = GUARDED.replace("client_error_rate", "error_rate").replace("5%", "20%")
UNGUARDED = GUARDED.replace(", guardrails: [{metric: client_error_rate, max_increase: 5%}]", "")
BANDIT = one_route(
    "{type: bandit, metric: correct, baseline: v1, guardrails: [{metric: client_error_rate, max_increase: 5%}]}"
)


class Rejecting(Rollout):
    async def serve_rejected(self, rejected: Mapping[str, float], each: int = 200, **fields: Any) -> None:
        """Responses of both variants, a share of them 404, and time for them to be counted."""
        epoch = self.allocations.held["r"].epoch
        made = [
            outcome(
                route="r",
                assigned=v,
                served=v,
                epoch=epoch,
                time=self.time,
                status=404 if k < rejected.get(v, 0.0) * each else 200,
                **fields,
            )
            for v in ("v1", "v2")
            for k in range(each)
        ]
        await self.store.append(made)
        await self.pass_time(SETTLED_S + BUCKET_S + GUARDRAILS_S)

    async def alarms(self) -> list[str]:
        watch = Alarms(
            self.store,
            self.allocations,
            clock=self.clock,
            events=Heard(self.store, self.clock, lambda *_: None),
            raised=lambda route, code: None,
            dropped=lambda: 0,
            refusing=self.controller.refusing,
        )
        return [
            alarm.message
            for alarm in await watch.look(self.document, "r", None)
            if alarm.code == "client_errors"
        ]


async def test_a_guardrail_on_client_errors_rolls_back(store: Store) -> None:
    one = await Rejecting(store, "one", GUARDED).start()
    await one.serve_rejected({"v1": 0.02, "v2": 0.5})
    assert one.state == "rolled_back"
    assert one.rollout.reason.startswith("client_error_rate breaches")


async def test_a_candidate_that_rejects_no_more_passes(store: Store) -> None:
    one = await Rejecting(store, "one", GUARDED).start()
    await one.serve_rejected({"v1": 0.02, "v2": 0.02}, each=1_000)
    assert one.state == "promoted"


@pytest.mark.parametrize("config", [ERRORS, UNGUARDED], ids=["another guardrail", "none"])
async def test_without_a_guardrail_a_rejecting_candidate_waits_for_a_person(
    store: Store, config: str
) -> None:
    one = await Rejecting(store, "one", config).start()
    await one.serve_rejected({"v2": 0.5})
    assert (one.state, one.rollout.stage) == ("running", 0)
    found = await one.controller.describe_rollout("r")
    assert found is not None
    (verdict,) = [v for v in found["verdicts"] if v["metric"] == "client_error_rate"]
    assert verdict["verdict"] == "inconclusive"
    assert "50.0% of the candidate's responses, 0.0% of the baseline's" in verdict["reason"]
    (message,) = await one.alarms()
    assert "write a guardrail with the increase that you accept" in message
    await one.controller.command("r", Command(Signal.PROMOTE, "ops"))
    await one.pass_time(1)
    await one.serve_rejected({"v2": 0.5})
    assert (one.state, one.rollout.watched) == ("promoted", True)
    assert not await one.alarms(), "a person has decided"


async def test_a_person_accepts_them_for_the_stage(store: Store) -> None:
    config = UNGUARDED.replace("{weight: 20%, for: 10s}", "{weight: 20%, for: 10s}, {weight: 50%, for: 10s}")
    one = await Rejecting(store, "one", config).start()
    resume = Command(Signal.RESUME, "ops", reason="a stricter schema")
    with pytest.raises(TurnoutError, match="possible now: pause, promote"):
        await one.controller.command("r", resume)
    await one.serve_rejected({"v2": 0.5})
    other = await Rejecting(store, "other", config).start()
    told = await other.controller.describe_rollout("r")
    assert told is not None
    assert "resume" in told["possible"]
    assert told["leads_to"]["resume"]["weight"] == 0.2
    told = await other.controller.command("r", resume)
    assert "resume" not in told["possible"]
    await one.pass_time(1)
    assert (one.state, one.rollout.stage) == ("running", 1)
    audit = next(data for kind, data in other.events if kind == "rollout")
    assert (audit["actor"], audit["reason"], audit["target"]) == (
        "ops",
        "resume: a stricter schema (+50.0 pp of client errors accepted)",
        "running",
    )
    assert not await one.alarms()
    await one.serve_rejected({"v2": 0.5})
    assert one.rollout.stage == 1, "accepted for the stage, not for the next"
    assert await one.alarms()


async def test_clearly_more_than_was_accepted_hold_it_again(store: Store) -> None:
    one = await Rejecting(store, "one", UNGUARDED.replace("for: 10s", "for: 1h")).start()
    await one.serve_rejected({"v2": 0.1}, each=1000)
    await one.controller.command("r", Command(Signal.RESUME, "ops"))
    assert one.rollout.accepted == pytest.approx(0.1)
    await one.serve_rejected({"v2": 0.1}, each=1000)
    assert not one.controller.refusing("r")
    await one.serve_rejected({"v2": 0.9}, each=1000)
    assert "more than the +10.0 pp that were accepted" in one.controller.refusing("r")
    await one.pass_time(3600)
    assert one.state == "running"
    await one.controller.command("r", Command(Signal.PAUSE, "ops"))
    await one.controller.command("r", Command(Signal.RESUME, "ops"))
    assert one.rollout.accepted == pytest.approx(1.1 / 3, abs=1e-3), "as with every hold, also after a pause"


async def test_a_candidate_that_was_repaired_passes_after_a_restart(store: Store) -> None:
    one = await Rejecting(store, "one", UNGUARDED).start()
    await one.serve_rejected({"v2": 0.5})
    assert await one.alarms()
    await one.controller.command("r", Command(Signal.RESTART, "ops"))
    await one.pass_time(1)
    await one.serve_rejected({})
    assert one.state == "promoted"
    assert not await one.alarms()


@pytest.mark.parametrize("config", [ERRORS, UNGUARDED], ids=["another guardrail", "none"])
async def test_a_difference_that_is_not_shown_holds_nothing(store: Store, config: str) -> None:
    one = await Rejecting(store, "one", config).start()
    await one.serve_rejected({"v1": 0.01, "v2": 0.03})
    assert one.state == "promoted"
    assert not await one.alarms()


async def test_responses_of_the_gateway_and_of_another_variant_are_no_client_errors(store: Store) -> None:
    one = await Rejecting(store, "one", GUARDED).start()
    await one.serve_rejected({"v2": 0.5}, error="body_too_large")
    await one.serve_rejected({"v2": 0.5}, forced=True)
    sums = await store.reward_sums("r")
    assert {key: (s.count, s.total) for key, s in sums.items()} == {
        ("v1", "client_error_rate"): (200, 0),
        ("v2", "client_error_rate"): (200, 0),
    }


async def test_a_bandit_ejects_a_variant_that_rejects(store: Store) -> None:
    one = await Rejecting(store, "one", BANDIT).start()
    await one.serve_rejected({"v1": 0.02, "v2": 0.02})
    assert not one.allocations.steering["r"].ejected
    await one.serve_rejected({"v1": 0.02, "v2": 0.9})
    await one.pass_time(20)
    assert one.allocations.steering["r"].ejected == {"v2"}
