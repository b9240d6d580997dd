"""A canary that goes on as a bandit: the hand-over, its end, a person's word; over restarts and on every replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import pytest

from gateway.compile.plans import period
from gateway.config.load import load
from gateway.errors import TurnoutError
from gateway.loops.controller import GUARDRAILS_S
from gateway.loops.guardrail_evidence import SETTLED_S
from gateway.state.base import BUCKET_S
from gateway.state.store import Store
from policies.rollout.state import State
from tests.support.made import outcome, reward
from tests.support.one_route import canary, one_route
from tests.support.replica import Replica

BANDIT = ", on_success: bandit, bandit: {metric: correct, floor: 5%, stop: {min_samples: 50, then: single}}"
CONFIG = one_route(
    canary("{weight: 20%, for: 10s}", "metric: error_rate, max_increase: 20%", BANDIT), variants=3
)
ASKS = CONFIG.replace("single", "ask")
ENDLESS = CONFIG.replace(", stop: {min_samples: 50, then: single}", "")


class Rollout(Replica):
    async def start(self) -> Self:
        await super().start()
        await self.pass_time(0)
        return self

    async def edit(self, text: str) -> None:
        await super().edit(text)
        await self.pass_time(1)

    async def pass_time(self, seconds: float) -> None:
        self.time += seconds
        for _ in range(2):
            await self.step()
            self.time += 1

    async def serve(self, *, errors: float = 0.0, each: int = 40) -> None:
        """Answers of both variants, the candidate's with a share of failures, and time for them to be counted."""
        epoch = self.allocations.held["r"].epoch
        made = [
            outcome(
                route="r",
                assigned=v,
                served=v,
                epoch=epoch,
                time=self.time,
                error="reset" if v == "v2" and k < errors * each else "",
            )
            for v in ("v1", "v2")
            for k in range(each)
        ]
        await self.store.append(made)
        await self.pass_time(SETTLED_S + BUCKET_S + GUARDRAILS_S)

    async def report(self, good: Mapping[str, int], each: int = 100) -> None:
        of = [(v, float(k < n)) for v, n in good.items() for k in range(each)]
        await self.store.reward(
            [reward(x, of=outcome(route="r", assigned=v, served=v, sticky=False)) for v, x in of]
        )

    async def to_bandit(self) -> Self:
        await self.serve(each=200)
        assert (self.state, self.phase) == ("running", "bandit"), self.rollout
        return self

    @property
    def rollout(self) -> State:
        state = self.controller.states["r"].rollout
        assert state is not None
        return state

    @property
    def state(self) -> str:
        return str(self.rollout.status)

    @property
    def phase(self) -> str:
        return self.rollout.phase

    @property
    def chosen(self) -> list[str]:
        """Who is on which variant."""
        allocation = self.allocations.held["r"].allocation
        return [allocation.variants[allocation.pick((n + 0.5) / 1000)] for n in range(1000)]

    @property
    def trail(self) -> list[tuple[str, str]]:
        return [(d["signal"], d["target"]) for kind, d in self.events if kind == "rollout"]


async def test_the_bandit_begins_with_the_rewards_of_the_stages(store: Store) -> None:
    one = await Rollout(store, "one", ENDLESS).start()
    assert (one.phase, one.share) == ("canary", pytest.approx(0.2))
    await one.report({"v1": 40, "v2": 60})
    before = {n for n, variant in enumerate(one.chosen) if variant == "v2"}
    await one.to_bandit()
    assert before < {n for n, variant in enumerate(one.chosen) if variant == "v2"}, "nobody moves back"
    assert one.trail == [("compete", "running")]
    assert set(one.allocations.held["r"].allocation.variants) == {"v1", "v2"}
    assert 0.9 < one.share <= 0.95, "P(best) within the floor"
    await one.report({"v1": 90, "v2": 30})
    await one.pass_time(1)
    assert one.share < 0.5
    told = await one.controller.describe_rollout("r")
    assert told is not None
    assert (told["state"], told["phase"]) == ("running", "bandit")
    assert told["weight"] == pytest.approx(one.share)
    assert [v["verdict"] for v in told["verdicts"]] == ["inconclusive"] or told["verdicts"] == []


@pytest.mark.parametrize(
    ("good", "signal", "state", "share"),
    [
        ({"v1": 40, "v2": 80}, "finished", "promoted", 0.95),
        ({"v1": 80, "v2": 40}, "lost", "rolled_back", 0.0),
    ],
)
async def test_the_winner_ends_it(
    store: Store, good: dict[str, int], signal: str, state: str, share: float
) -> None:
    one = await (await Rollout(store, "one", CONFIG).start()).to_bandit()
    await one.report(good)
    await one.pass_time(1)
    assert (one.state, one.share, one.trail[-1]) == (state, share, (signal, state))
    beliefs = one.events[-1][1]["evidence"][-1]
    assert beliefs["variants"]["v2"]["rewards"] == 100
    assert beliefs["stopped"] == max(good, key=good.__getitem__)
    assert (one.rollout.bake_until is not None) == (state == "promoted")
    await one.report({"v1": 80, "v2": 40} if share else {"v1": 40, "v2": 80}, each=300)
    await one.pass_time(5)
    assert (one.state, one.share) == (state, share), "beliefs that move on move nothing any more"


async def test_asking_waits_and_a_person_settles(store: Store) -> None:
    one = await (await Rollout(store, "one", ASKS).start()).to_bandit()
    await one.report({"v1": 40, "v2": 80})
    await one.pass_time(1)
    assert one.state == "waiting"
    assert 0.5 < one.share < 1.0, "asking changes nothing"
    await one.report({"v1": 100, "v2": 60})
    await one.pass_time(1)
    assert (one.state, one.trail[-1]) == ("running", ("open", "running"))
    await one.report({"v1": 0, "v2": 100})
    await one.pass_time(1)
    assert one.state == "waiting"
    told = await one.say("promote")
    assert (told["state"], told["phase"], one.share) == ("promoted", "bandit", pytest.approx(0.95))
    told = await one.say("rollback")
    assert (told["state"], one.share) == ("rolled_back", 0.0)
    told = await one.say("resume")
    assert (told["state"], told["phase"], one.share) == ("running", "canary", pytest.approx(0.2))


async def test_pause_and_set_hold_the_share_and_resume_lets_it_go(store: Store) -> None:
    one = await (await Rollout(store, "one", ENDLESS).start()).to_bandit()
    await one.report({"v1": 50, "v2": 58})
    await one.pass_time(1)
    before, chosen = one.share, one.chosen
    assert 0.5 < before < 0.95
    told = await one.say("pause")
    assert one.chosen == chosen, "nobody moves"
    assert (told["state"], told["phase"], told["weight"]) == ("paused", "bandit", pytest.approx(before))
    await one.report({"v1": 0, "v2": 100})
    await one.pass_time(5)
    assert one.share == pytest.approx(before)
    assert (await one.say("set", 0.3))["weight"] == 0.3
    await one.pass_time(5)
    assert one.share == pytest.approx(0.3)
    await one.say("resume")
    assert (one.state, one.phase) == ("running", "bandit")
    assert one.share == pytest.approx(0.95), "what was learned meanwhile counts"
    with pytest.raises(TurnoutError, match="possible now"):
        await one.say("resume")


async def test_a_guardrail_rolls_back_whatever_was_earned(store: Store) -> None:
    one = await (await Rollout(store, "one", ENDLESS).start()).to_bandit()
    await one.report({"v1": 40, "v2": 90})
    for _ in range(6):
        await one.serve(errors=0.9)
    assert (one.state, one.share) == ("rolled_back", 0.0)
    assert ("fail", "rolled_back") in one.trail
    evidence = next(d for kind, d in one.events if kind == "rollout" and d["signal"] == "fail")["evidence"]
    assert (evidence[0]["metric"], evidence[0]["verdict"]) == ("error_rate", "fail")
    # Another try is not held against what the first one did.
    await one.say("resume")
    await one.serve(each=200)
    assert (one.state, one.phase) == ("running", "bandit")
    assert one.share > 0.9


async def test_a_restart_and_another_replica_keep_the_phase(store: Store) -> None:
    one = await (await Rollout(store, "one", ENDLESS).start()).to_bandit()
    await one.report({"v1": 40, "v2": 60})
    await one.pass_time(1)
    two = Rollout(store, "two", ENDLESS)
    two.time = one.time
    await two.start()
    assert (two.phase, two.share) == ("bandit", pytest.approx(one.share))
    assert not two.allocations.leads
    # A command at the one, which has not heard of the newest epoch, is carried out by the other, which leads.
    await one.report({"v1": 40, "v2": 60})
    await one.pass_time(1)
    await two.say("rollback")
    assert two.share > 0.0
    await one.pass_time(1)
    await two.pass_time(1)
    assert (one.state, one.share, two.share) == ("rolled_back", 0.0, 0.0)
    again = Rollout(store, "again", ENDLESS)
    again.time = one.time + 60
    await again.start()
    assert (again.state, again.phase, again.share) == ("rolled_back", "bandit", 0.0)


async def test_an_edit_may_take_the_bandit_away(store: Store) -> None:
    one = await (await Rollout(store, "one", ENDLESS).start()).to_bandit()
    await one.report({"v1": 40, "v2": 60})
    await one.edit(ENDLESS.replace("floor: 5%", "floor: 10%"))
    assert (one.phase, one.share) == ("bandit", pytest.approx(0.9, abs=0.02))
    await one.edit(CONFIG.replace(BANDIT, ""))
    assert (one.state, one.phase, one.share) == ("running", "canary", pytest.approx(0.2))


def test_a_unit_is_one_observation_in_all_of_the_bandits_time() -> None:
    route = load(CONFIG, source="test", env={}).routes["r"]
    assert period(route, 7, 50.0) == "e7"
    assert period(route, 7, 50.0, 60.0) == "e7"
    assert period(route, 9, 60.0, 60.0) == period(route, 12, 99.0, 60.0) == "all"
