"""The controllers of several routes, in one loop."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from gateway.config.load import load
from gateway.control.reports.verdict import of_rollout
from gateway.errors import TurnoutError
from gateway.loops.allocation import LEASE, LEASE_TTL_S
from gateway.loops.controller import MAX_LOOK_REST_S
from gateway.loops.route_states import KIND
from gateway.loops.route_views import edited_shares
from gateway.state.base import StoreUnavailable, Unconfirmed
from gateway.state.store import Store
from policies.rollout.events import Command, Seen
from policies.rollout.route import RouteState
from policies.rollout.state import State
from policies.rollout.table import Status
from tests.loops.test_rollout_bandit import Rollout
from tests.support.made import outcome

ROUTE = """
  {name}:
    match: {{path: /{name}}}
    variants: {{v1: {{backend: a}}, v2: {{backend: a}}}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{{weight: 20%, for: 10s}}]
      guardrails: [{{metric: error_rate, max_increase: 20%}}]
"""
CONFIG = 'backends: {a: {url: "http://127.0.0.1:1"}}\nroutes:' + "".join(
    ROUTE.format(name=name) for name in ("broken", "r")
)


EDITED = CONFIG.replace("v2: {backend: a}", "v2: {backend: a}, v3: {backend: a}").replace(
    "baseline: v1\n      candidate: v2", "baseline: v2\n      candidate: v3"
)
LATER = json.dumps(
    RouteState(State(Status.RUNNING, 0, 0.1, "v1", "v2", 1.0, 1.0, 1.0, 1.0)).as_dict()
).replace('"running"', '"of a later version"')
IN_PARTS = {
    "rollout": """{"status": "rolled_back", "stage": 0, "weight": 0.0, "baseline": "v1", "candidate": "v2",
        "entered": 1799999000.0, "since": 1799999500.0, "window": 1799999500.0, "patient_from": 1799999000.0,
        "bake_until": null, "checked": null, "reason": "error_rate breaches", "competing": null, "by_hand": false,
        "carried": {}}""",
    "guards": """{"fingerprint": "old", "since": 1799999000.0, "ejected": {}, "verdicts": [], "sick": false}""",
    "stop": """{"fingerprint": "old", "state": "learning", "winner": null, "since": 0.0, "by": "", "lead": null,
        "asks": false}""",
}
"""What a route's canary left before its state was one document."""


async def outdated(_: bool) -> bool:
    return False


async def test_a_route_whose_state_cannot_be_read_holds_up_no_other(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    one = await Rollout(store, "one", CONFIG).start()
    found = await store.load(KIND, "broken")
    assert found is not None
    await store.save(KIND, "broken", LATER, expected=found[0])
    with caplog.at_level(logging.ERROR):
        await one.serve(each=200)
    assert one.state == "promoted"
    assert "the controller of the route broken failed; it stays as it is" in caplog.text
    assert one.allocations.share("broken", "v2") == pytest.approx(0.2)


async def test_a_start_with_a_state_that_cannot_be_read_says_so(store: Store) -> None:
    await store.save(KIND, "broken", LATER, expected=0)
    with pytest.raises(StoreUnavailable, match=r"The state of the route 'broken' .* can't be read"):
        await Rollout(store, "one", CONFIG).start()


@pytest.mark.parametrize("kinds", [("rollout",), ("rollout", "guards", "stop")])
async def test_a_rollout_of_an_earlier_build_stays_where_it_was(store: Store, kinds: tuple[str, ...]) -> None:
    """A candidate that was rolled back got its share again after the upgrade."""
    for kind in kinds:
        await store.save(kind, "r", IN_PARTS[kind], expected=0)
    one = await Rollout(store, "one", CONFIG).start()
    for _ in range(3):
        await one.pass_time(1)
        assert (one.state, one.rollout.reason) == ("rolled_back", "error_rate breaches")
        assert one.allocations.share("r", "v2") == 0
    await one.controller.command("r", Command("resume", "me"))
    two = await Rollout(store, "two", CONFIG).start()
    assert two.state == "running"


async def test_of_two_people_who_saw_the_same_one_steers(store: Store) -> None:
    """Each worker looked at its own epoch, and at a state of a second ago: 6 to 10 of 12 such commands were taken."""
    one = await Rollout(store, "one", CONFIG).start()
    two = await Rollout(store, "two", CONFIG).start()
    seen = Seen(one.state, one.allocations.held["r"].epoch)
    await one.say("set", 0.3, seen)
    for late in (one, two):
        with pytest.raises(TurnoutError, match="read the route again"):
            await late.say("set", 0.5, seen)
        with pytest.raises(TurnoutError, match="The rollout is paused now"):
            await late.say("promote", seen=Seen(state="running"))
    assert (await two.say("resume", seen=Seen("paused")))["state"] == "running"


async def test_nothing_is_taken_while_a_step_is_on_its_way(store: Store) -> None:
    """Another process stores a step, and the leader publishes it: until then its epoch is that of before."""
    one = await Rollout(store, "one", CONFIG).start()
    two = await Rollout(store, "two", CONFIG).start()
    epoch = two.allocations.held["r"].epoch
    await one.say("set", 0.3)
    with pytest.raises(TurnoutError, match=f"moving on from epoch {epoch}; read the route again"):
        await two.say("set", 0.5, Seen(epoch=epoch))
    await two.pass_time(1)
    assert two.allocations.share("r", "v2") == pytest.approx(0.3)
    await two.say("set", 0.5, Seen("paused", two.allocations.held["r"].epoch))


async def test_a_command_right_after_an_edit_moves_the_rollout_of_the_new_document(store: Store) -> None:
    one = await Rollout(store, "one", CONFIG).start()
    await one.controller.command("r", Command("promote", "me"))
    one.document = load(EDITED, source="test", env={})
    one.put_in_force()
    await one.controller.command("r", Command("rollback", "me"))
    for _ in range(3):
        await one.pass_time(1)
        assert (one.state, one.rollout.candidate) == ("rolled_back", "v3")
        assert one.allocations.share("r", "v3") == 0


@pytest.mark.parametrize("errors", [0.0, 1.0])
async def test_a_leader_that_has_not_heard_of_an_edit_moves_no_rollout_of_other_variants(
    store: Store, errors: float
) -> None:
    """It promoted or rolled back the new candidate on the evidence of the one before, and gave that one its first share
    again."""
    leader = await Rollout(store, "leader", CONFIG).start()
    await leader.say("promote")
    leader.allocations._may_publish = outdated
    other = await Rollout(store, "other", EDITED).start()
    assert (other.state, other.rollout.candidate) == ("running", "v3")
    await leader.serve(errors=errors, each=200)
    assert (leader.state, leader.rollout.candidate) == ("running", "v3")
    assert leader.share == 0.95
    with pytest.raises(TurnoutError, match="yet to take it"):
        await leader.say("promote")


async def test_a_process_that_starts_with_an_older_document_begins_no_older_rollout(store: Store) -> None:
    """It did, and the leader looked at the new candidate no more."""
    leader = await Rollout(store, "leader", EDITED).start()
    await leader.say("promote")
    older = Rollout(store, "older", CONFIG)
    older.allocations._may_publish = outdated
    await older.start()
    await leader.pass_time(1)
    assert (leader.state, leader.rollout.candidate) == ("promoted", "v3")
    await Rollout(store, "late", CONFIG).start()  # the newer document came between its look and its step
    await leader.pass_time(1)
    assert (leader.state, leader.rollout.candidate) == ("running", "v3")


async def test_after_a_rollback_the_verdicts_are_those_that_decided(store: Store) -> None:
    """They were those of the next window, which is empty: nothing was observed of the candidate."""
    one = await Rollout(store, "one", CONFIG).start()
    await one.serve(errors=1.0, each=100)
    assert one.state == "rolled_back"
    two = await Rollout(store, "two", CONFIG).start()
    for replica in (one, two):
        await replica.pass_time(60)
        found = await replica.controller.describe_rollout("r")
        assert found is not None
        assert [(v["verdict"], v["samples"]) for v in found["verdicts"]] == [("fail", 100)]
        shown = await replica.controller.rollout_verdicts("r")
        assert shown is not None
        assert [v.verdict for v in shown[1]] == ["fail"], "the metrics say the same"
        assert of_rollout(found, one.time)["reasons"] == [f"rolled_back: {one.rollout.reason}"]


async def test_the_list_judges_a_rollout_again_when_it_has_moved_or_the_verdicts_are_old(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await Rollout(store, "one", CONFIG).start()

    async def samples(max_age: float) -> object:
        found = await one.controller.describe_rollout("r", max_age)
        assert found is not None
        return found["state"], found["samples"]

    assert await samples(60) == ("running", 0)
    await store.append([outcome(one.time, route="r", assigned="v2", epoch=1, propensity=0.2, unit=1)])
    assert await samples(60) == ("running", 0), "the verdicts of a moment ago"
    assert await samples(0) == ("running", 1)
    limits = [
        verdict["limit"] for verdict in (await one.controller.describe_rollout("r", 60) or {})["verdicts"]
    ]
    one.document = load(CONFIG.replace("max_increase: 20%", "max_increase: 10%"), source="test", env={})
    one.put_in_force()
    edited = (await one.controller.describe_rollout("r", 60) or {})["verdicts"]
    assert (limits, [verdict["limit"] for verdict in edited]) == ([0.2], [0.1]), "those of the document"
    await one.say("rollback")
    assert await samples(60) == ("rolled_back", 0), "those of its new state"


async def test_verdicts_of_a_clock_that_was_set_back_are_not_recent(store: Store) -> None:
    one = await Rollout(store, "one", CONFIG).start()

    async def samples() -> float:
        shown = await one.controller.rollout_verdicts("r")
        assert shown is not None
        return shown[1][0].samples

    assert await samples() == 0
    one.time -= 60
    await store.append([outcome(one.time + 59, route="r", assigned="v2", epoch=1, propensity=0.2, unit=1)])
    assert await samples() == 1


async def test_an_edit_of_the_present_stage_is_said_to_move_shares(store: Store) -> None:
    one = await Rollout(store, "one", CONFIG).start()
    edited = load(CONFIG.replace("weight: 20%", "weight: 35%", 1), source="test", env={})
    assert edited_shares(edited, one.controller.states, one.time) == {"broken": {"v1": 0.65, "v2": 0.35}}
    one.document = edited
    one.put_in_force()
    await one.pass_time(1)
    assert one.allocations.share("broken", "v2") == pytest.approx(0.35)
    assert edited_shares(edited, one.controller.states, one.time) == {}


async def test_a_report_right_after_an_edit_is_of_the_rollout_that_begins(store: Store) -> None:
    """A promotion of the candidate before is no verdict on the new one, and a new canary has a rollout."""
    one = await Rollout(store, "one", CONFIG).start()
    await one.controller.command("r", Command("promote", "me"))
    edited = CONFIG.replace("v2: {backend: a}", "v2: {backend: a}, v3: {backend: a}").replace(
        "candidate: v2", "candidate: v3"
    )
    one.document = load(edited + ROUTE.format(name="new"), source="test", env={})
    one.put_in_force()
    for name, candidate in (("r", "v3"), ("new", "v2")):
        found = await one.controller.describe_rollout(name)
        assert found is not None
        assert (found["state"], found["stage"], found["candidate"]) == ("running", 0, candidate)
        assert found["weight"] == pytest.approx(0.2)
        assert of_rollout(found, one.time)["verdict"] == "inconclusive"


async def test_a_step_is_told_and_published_even_if_the_store_goes_away_right_after_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response said that nothing was accepted, and the history did not have the step."""
    one = await Rollout(store, "one", CONFIG).start()

    async def away(*_: object) -> bool:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "publish", away)
    with pytest.raises(Unconfirmed):
        await one.controller.command("r", Command("rollback", "me"))
    assert one.trail == [("rollback", "rolled_back")]
    assert one.allocations.share("r", "v2") == pytest.approx(0.2)
    monkeypatch.undo()
    await one.pass_time(1)
    assert one.allocations.share("r", "v2") == 0
    assert one.trail == [("rollback", "rolled_back")]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), asyncio.CancelledError()])
async def test_a_step_that_the_store_took_without_saying_so_is_told_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    one = await Rollout(store, "one", CONFIG).start()
    save = store.save_with_events

    async def silently(*document: str, **rest: Any) -> None:
        await save(*document, **rest)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_with_events", silently)
        with pytest.raises((StoreUnavailable, asyncio.CancelledError)):
            await one.controller.command("r", Command("rollback", "me"))
    for _ in range(2):
        await one.pass_time(1)
        assert (one.state, one.allocations.share("r", "v2")) == ("rolled_back", 0)
    assert [event.kind for event in await store.events(after=0)] == ["rollout", "steered"]


async def test_a_command_that_cannot_be_begun_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await Rollout(store, "one", CONFIG).start()

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "load_all", away)
    with pytest.raises(StoreUnavailable) as refused:
        await one.controller.command("r", Command("rollback", "me"))
    assert not isinstance(refused.value, Unconfirmed)
    monkeypatch.undo()
    await one.pass_time(1)
    assert (one.state, one.trail) == ("running", [])


@pytest.mark.long
async def test_after_a_slow_look_a_failing_candidate_is_soon_rolled_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that a busy machine held up for seconds put off the next one by more than a minute."""
    one = await Rollout(store, "one", CONFIG).start()

    async def slowly(*args: Any, **limits: Any) -> Any:
        await asyncio.sleep(1.0)  # twenty times this is longer than the rest
        return await counts(*args, **limits)

    counts = store.counts
    with monkeypatch.context() as patched:
        patched.setattr(store, "counts", slowly)
        one.time += MAX_LOOK_REST_S
        await one.step()
    epoch = one.allocations.held["r"].epoch
    await store.append(
        [
            outcome(
                route="r",
                assigned=v,
                served=v,
                epoch=epoch,
                time=one.time,
                error="reset" if v == "v2" else "",
            )
            for v in ("v1", "v2")
            for _ in range(200)
        ]
    )
    one.time += MAX_LOOK_REST_S
    await one.step()
    assert one.state == "rolled_back"


SLOW = CONFIG.replace("for: 10s", "for: 1h")
_OF_R = ROUTE.format(name="r").replace("10s", "1h")
_SPLIT = _OF_R[: _OF_R.index("    policy:")] + "    policy: {type: split, weights: {v1: 1, v2: 0}}\n"


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("without", ["", _SPLIT], ids=["no route", "another policy"])
async def test_hours_without_the_rollout_are_not_of_its_stage(
    store: Store, without: str, restarts: bool
) -> None:
    """A stage of an hour ended seconds after its section was back."""
    one = await Rollout(store, "one", SLOW).start()

    async def edited(text: str) -> Rollout:
        if not restarts:
            await one.edit(text)
            return one
        another = Rollout(store, str(one.time), text)
        another.time = one.time + LEASE_TTL_S + 1
        return await another.start()

    await one.pass_time(1200)
    one = await edited(SLOW.replace(_OF_R, without))
    await one.pass_time(5 * 3600)
    one = await edited(SLOW)
    back, began = one.time, one.rollout.entered
    await one.serve(each=200)
    assert (one.state, one.share) == ("running", pytest.approx(0.2))
    assert (one.rollout.window, began) == (pytest.approx(back, abs=10), pytest.approx(back - 1200, abs=20))
    await one.pass_time(3600 - 1200 - 90)
    assert one.state == "running"
    await one.pass_time(90)
    assert one.state == "promoted"


async def test_a_leader_without_the_rollout_stops_its_clock_after_each_leader_that_has_it(
    store: Store,
) -> None:
    """Two replicas, one of which can't build the newest document; the lead goes back and forth."""
    has = await Rollout(store, "has", SLOW).start()
    lacks = await Rollout(store, "lacks", SLOW.replace(_OF_R, "")).start()
    for other, leader in 2 * ((has, lacks), (lacks, has)):
        await store.release(LEASE, other.allocations._owner)
        await leader.pass_time(20)
        other.time = leader.time
        await other.step()
        assert leader.allocations.leads
        _, text = await store.load(KIND, "r") or (0, "{}")
        assert (json.loads(text)["rollout"]["absent_since"] is None) is (leader is has)


@pytest.mark.parametrize(("down", "counts"), [(90, True), (5 * 3600, False)])
async def test_time_in_which_no_gateway_ran_is_not_of_a_stage(
    store: Store, down: float, counts: bool
) -> None:
    """A stage of an hour ended with the first look after five hours without a gateway."""
    one = await Rollout(store, "one", SLOW).start()
    began = one.rollout.entered
    for _ in range(20):
        await one.pass_time(58)
    two = Rollout(store, "two", SLOW)
    two.time = one.time + down
    await two.start()
    assert two.rollout.entered == pytest.approx(began if counts else began + down, abs=65)
    await two.serve(each=200)
    assert two.state == "running"
    await two.pass_time(two.rollout.entered + 3540 - two.time)
    assert two.state == "running"
    await two.pass_time(60)
    assert two.state == "promoted"
