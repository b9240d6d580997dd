"""A mismatch of the sample ratio, or outcomes that were lost, stop what would act on the comparison."""

from __future__ import annotations

import json

import pytest

from gateway.compile.plans import unit_point
from gateway.config.load import load
from gateway.loops import early_mismatch
from gateway.loops.alarms import KIND, Alarms, distrust
from gateway.loops.ratio import FLUSHED_S, SETTLED_S
from gateway.state.store import Store
from tests.loops.scene import Scene
from tests.loops.test_rollout_bandit import CONFIG as TO_BANDIT
from tests.loops.test_rollout_bandit import Rollout
from tests.loops.test_stops import CONFIG as STOPS
from tests.loops.test_stops import Bandit, report
from tests.support.heard import Heard
from tests.support.in_force import put_in_force
from tests.support.one_route import canary, one_route

CANARY = one_route(
    canary("{weight: 50%, for: 1h}", "metric: error_rate, max_increase: 5%"), variants=3, unit="x-user"
)


async def alarm(store: Store, code: str, since: float, name: str = "r") -> None:
    before = await store.load(KIND, name)
    text = json.dumps([{"code": code, "message": "it does not fit", "since": since}])
    await store.save(KIND, name, text, expected=before[0] if before is not None else 0)


async def test_a_mismatch_pauses_a_rollout_until_a_person_resumes_it(store: Store) -> None:
    one = Rollout(store, "one", CANARY)
    await one.start()
    await alarm(store, "sample_ratio_mismatch", one.time)
    await one.pass_time(2)
    assert one.state == "paused"
    assert "sample_ratio_mismatch" in one.rollout.reason
    await one.say("resume")
    await one.pass_time(2)
    assert one.state == "running", "what the person knows of does not pause it again"
    await alarm(store, "no_rewards", one.time)
    await one.pass_time(2)
    assert one.state == "running", "this one says nothing of the comparison"


@pytest.mark.long
async def test_lost_outcomes_pause_it_too(store: Store) -> None:
    one, lost = Rollout(store, "one", CANARY), [0]
    await one.start()
    watch = Alarms(
        store,
        one.allocations,
        clock=one.clock,
        events=Heard(store, one.clock),
        raised=lambda route, code: None,
        dropped=lambda: lost[0],
    )
    await watch.record_loss()
    await one.pass_time(2)
    assert one.state == "running"
    lost[0] = 7
    await watch.record_loss()
    await one.pass_time(2)
    assert one.state == "paused"
    assert "7 outcomes were not recorded" in one.rollout.reason


async def early(store: Store, message: str, since: float) -> None:
    """Early evidence of a mismatch, or its end."""
    stored = await store.load_all(early_mismatch.KIND, ("r",))
    await early_mismatch.keep(store, "r", stored, message, since)


async def test_early_evidence_of_a_mismatch_holds_a_rollout_and_says_why(store: Store) -> None:
    one = await Rollout(store, "one", TO_BANDIT).start()
    await early(store, "v2: 90 (expected 70)", one.time)
    await one.serve(each=200)
    assert (one.state, one.phase, one.share) == ("running", "canary", pytest.approx(0.2))
    told = await one.controller.describe_rollout("r")
    assert told is not None
    assert [(v["verdict"], v["reason"]) for v in told["verdicts"]] == [
        ("inconclusive", "v2: 90 (expected 70)")
    ]
    await early(store, "", one.time)
    await one.pass_time(60)
    assert (one.state, one.phase) == ("running", "bandit")
    await early(store, "v2: 90 (expected 70)", one.time)
    await one.report({"v1": 40, "v2": 80})
    await one.pass_time(1)
    assert (one.state, one.phase) == ("running", "bandit"), "nor is a winner promoted"
    await one.say("pause")
    await one.say("resume")
    await one.pass_time(60)
    assert one.state == "promoted", "a person who resumes knows of it"


async def test_a_failure_is_rolled_back_whatever_the_early_evidence(store: Store) -> None:
    one = await Rollout(store, "one", TO_BANDIT).start()
    await early(store, "v2: 90 (expected 70)", one.time)
    for _ in range(6):
        await one.serve(errors=0.9)
    assert one.state == "rolled_back"


@pytest.mark.parametrize("code", ["sample_ratio_mismatch", "early"])
async def test_no_winner_is_named_on_a_comparison_that_does_not_hold(store: Store, code: str) -> None:
    one = await Bandit(store, "one", STOPS).start()
    one.time += 1
    if code == "early":
        await early(store, "v2: 90 (expected 70)", one.time)
    else:
        await alarm(store, code, one.time)
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    assert one.told["state"] == "learning"
    assert "v2: 90" in (held := await one.controller.held("r")) or code in held
    assert (await one.say("resume"))["state"] == "learning"
    assert await one.controller.held("r") == ""
    await one.step()
    assert (one.told["state"], one.told["winner"]) == ("asking", "v2"), "a person knows of it"


async def test_a_clock_that_is_set_back_makes_no_alarm_known(store: Store) -> None:
    one = await Bandit(store, "one", STOPS).start()
    await alarm(store, "sample_ratio_mismatch", one.time + 1)
    one.time += 3600
    await one.say("resume")
    one.time -= 3000
    await one.step()
    one.time += 1
    await alarm(store, "record_loss", one.time)
    one.time += 1
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    assert one.told["state"] == "learning"
    assert "record_loss" in await one.controller.held("r")


async def test_a_clock_that_is_set_back_leaves_no_alarm_dated_ahead(store: Store) -> None:
    """A person who resumed did not acknowledge it until the clock was where it had been."""
    scene = Scene(store)
    put_in_force(scene.document, scene.allocations)
    await scene.allocations.step()
    scene.lost = 7
    await scene.assign(0.5, 2_000, seed=1)
    scene.time += SETTLED_S + FLUSHED_S
    await scene.watch.step(scene.document)
    scene.time -= 3600
    assert await distrust(store, "r", scene.time)
    await scene.watch.step(scene.document)
    assert not await distrust(store, "r", scene.time)
    assert await distrust(store, "r", scene.time - 1)
    assert scene.events == [("alarm", "", "record_loss"), ("alarm", "r", "sample_ratio_mismatch")]
    for since in (2.0, 1.0):
        await early(store, "it may not fit", since)
        assert await early_mismatch.early_mismatch(store, "r", since) == ""


async def test_a_winner_that_is_no_longer_one_makes_no_alarm_old(store: Store) -> None:
    one = await Bandit(store, "one", STOPS).start()
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    assert one.told["state"] == "asking"
    await alarm(store, "sample_ratio_mismatch", one.time + 1)
    one.time += 60
    await report(store, {"v1": 80, "v2": 40})
    await one.step()
    assert one.told["state"] == "learning"
    await report(store, {"v1": 0, "v2": 400}, each=400)
    await one.step()
    assert one.told["state"] == "learning"


async def test_an_edit_of_the_route_acknowledges_its_alarms(store: Store) -> None:
    one = await Bandit(store, "one", STOPS).start()
    await alarm(store, "sample_ratio_mismatch", one.time + 1)
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    assert one.told["state"] == "learning"
    one.time += 60
    await one.edit(STOPS.replace("min_samples: 50", "min_samples: 40"))
    await one.step()
    assert one.told["state"] == "asking", "who edits the route since knows of it"


async def test_when_an_alarm_was_raised_is_kept(store: Store) -> None:
    await alarm(store, "sample_ratio_mismatch", 100.0)
    assert await distrust(store, "r", 99.0)
    assert not await distrust(store, "r", 100.0)
    assert not await distrust(store, "other", 0.0)


def test_each_rollout_begins_with_other_users() -> None:
    first = load(CANARY, source="test", env={})
    second = load(CANARY.replace("candidate: v2", "candidate: v3"), source="test", env={})
    users = [str(n).encode() for n in range(2_000)]
    early = [{u for u in users if unit_point(document, "r", u) < 0.1} for document in (first, second)]
    assert all(150 < len(each) < 250 for each in early)
    assert len(early[0] & early[1]) < 45  # 20 by chance; with the route's name as salt all of them
    longer = load(CANARY.replace("for: 1h", "for: 2h"), source="test", env={})
    same = [unit_point(longer, "r", u) == unit_point(first, "r", u) for u in users]
    assert all(same), "an edit of the stages moves no unit"


async def test_nothing_is_rolled_back_on_a_comparison_that_does_not_hold(store: Store) -> None:
    one = Rollout(store, "one", CANARY.replace("unit: {header: x-user}", ""))
    await one.start()
    await one.pass_time(2)
    await alarm(store, "sample_ratio_mismatch", one.time)
    await one.serve(errors=0.5, each=400)
    assert one.state == "paused"
    await one.pass_time(2)
    assert one.state == "paused", "the pause began after the alarm, which stands"
    view = await one.controller.describe_rollout("r")
    assert view is not None
    (verdict,) = view["verdicts"]
    assert verdict["verdict"] == "error"
    assert "it does not fit" in verdict["reason"]
    assert verdict["candidate"] == 0.5, "what was seen stays to be seen"
    await one.say("resume")
    await one.pass_time(2)
    assert one.state == "rolled_back", "the person knows of the alarm"


async def test_each_reason_is_given_once(store: Store) -> None:
    two = "[{metric: error_rate, max_increase: 5%}, {metric: latency_p50, max_ratio: 2}]"
    one = Rollout(store, "one", CANARY.replace("[{metric: error_rate, max_increase: 5%}]", two))
    await one.start()
    await alarm(store, "sample_ratio_mismatch", one.time)
    await one.pass_time(2)
    assert one.rollout.reason == "error_rate, latency_p50: sample_ratio_mismatch: it does not fit"
