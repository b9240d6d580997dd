"""A start that finds the state of a route gone, on every store: the route stays as its last allocation left it."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable

import pytest

from gateway.compile.recalled import BEGINNING_S, REASON
from gateway.compile.steering import guardrails_fingerprint
from gateway.config.load import load
from gateway.config.policy import BanditConfig
from gateway.loops.route_states import KIND, RouteStates
from gateway.state import open_store
from gateway.state.redis import RedisStore
from gateway.state.sqlite import SqliteStore
from gateway.state.store import Store
from policies.rollout.ejections import Ejections
from policies.rollout.route import RouteState
from policies.rollout.state import State
from policies.rollout.table import Status
from tests.loops.test_guards import CONFIG as BANDIT
from tests.loops.test_rollout_bandit import Rollout
from tests.support.heard import Heard
from tests.support.one_route import canary, one_route

CONFIG = one_route(
    canary("{weight: 20%, for: 10s}, {weight: 50%, for: 10s}", "metric: error_rate, max_increase: 20%"),
    variants=3,
)


async def lose(store: Store, garbled: bool) -> None:
    """The state of the route r: gone from the store, or damaged in it."""
    if isinstance(store, SqliteStore):
        with sqlite3.connect(store.path) as connection:
            lost = "UPDATE documents SET text = '{gar'" if garbled else "DELETE FROM documents"
            assert connection.execute(f"{lost} WHERE kind = ?", (KIND,)).rowcount == 1
        connection.close()
    else:
        assert isinstance(store, RedisStore)
        key = f"{store._link.of_all}:documents"
        await (
            store._link.command("HSET", key, f"{KIND}\0r", b"1\n{gar")
            if garbled
            else store._link.command("DEL", key)
        )


async def roll_back(one: Rollout) -> None:
    await one.say("rollback")


async def promote(one: Rollout) -> None:
    await one.say("promote")


async def set_by_hand(one: Rollout) -> None:
    await one.say("set", 0.35)


async def pause(one: Rollout) -> None:
    await one.say("pause")
    one.time += BEGINNING_S


async def pass_a_stage(one: Rollout) -> None:
    await one.serve(each=200)
    assert one.share == pytest.approx(0.5)


async def begin(one: Rollout) -> None:
    pass


@pytest.mark.parametrize(
    ("before", "state", "share", "stage", "garbled"),
    [
        (roll_back, "rolled_back", 0.0, 0, False),
        (roll_back, "rolled_back", 0.0, 0, True),
        (promote, "paused", 0.95, 1, False),
        (set_by_hand, "paused", 0.35, 0, True),
        (pass_a_stage, "paused", 0.5, 1, False),
        (pause, "paused", 0.2, 0, False),
        (begin, "running", 0.2, 0, False),
    ],
)
async def test_a_rollout_stays_as_its_last_allocation_left_it(
    store: Store,
    url: str,
    before: Callable[[Rollout], Awaitable[None]],
    state: str,
    share: float,
    stage: int,
    garbled: bool,
) -> None:
    """It began again: a candidate that had been rolled back got traffic."""
    one = await Rollout(store, "one", CONFIG).start()
    await before(one)
    await one.pass_time(1)
    assert one.share == pytest.approx(share)
    fresh = open_store(url)
    await fresh.open()
    await lose(fresh, garbled)
    two, three = Rollout(fresh, "two", CONFIG), Rollout(fresh, "three", CONFIG)
    for replica in (two, three):
        replica.time = one.time + 30  # the lease of the first has ended
        await replica.start()
        await replica.pass_time(1)
        assert (replica.state, replica.share) == (state, pytest.approx(share))
        assert replica.rollout.stage == stage
    kept = await fresh.load(KIND, "r")
    assert kept is not None
    alarms = [data["message"] for kind, data in two.events + three.events if kind == "alarm"]
    if before is begin:
        assert not alarms
    else:
        (told,) = alarms
        assert f"its rollout is {state.replace('_', ' ')}, with v2 at {share:.1%}" in told
        assert two.rollout.reason == REASON
        view = await two.say("resume")
        assert view["state"] == "running"
    await fresh.close()


async def test_the_rollout_of_another_candidate_begins(store: Store, url: str) -> None:
    one = await Rollout(store, "one", CONFIG).start()
    await one.say("rollback")
    fresh = open_store(url)
    await fresh.open()
    await lose(fresh, garbled=False)
    two = Rollout(fresh, "two", CONFIG.replace("candidate: v2", "candidate: v3"))
    two.time = one.time + 30
    await two.start()
    assert (two.state, two.allocations.share("r", "v3")) == ("running", pytest.approx(0.2))
    await fresh.close()


async def test_a_store_of_an_earlier_build_tells_of_no_loss(store: Store) -> None:
    """Its allocations have no traces of a rollout, or its state was never stored."""
    await RouteStates(store, Heard(store, float)).update(
        "r",
        lambda _: (RouteState(State(Status.ROLLED_BACK, 0, 0.0, "v1", "v2", 1.0, 1.0, 1.0, 1.0)), None),
    )
    one = await Rollout(store, "one", CONFIG).start()
    assert (one.state, one.share, one.rollout.reason) == ("rolled_back", 0.0, "")
    assert not one.events


async def test_an_ejected_variant_stays_ejected(store: Store, url: str) -> None:
    section = load(BANDIT, source="test", env={}).routes["r"].policy
    assert isinstance(section, BanditConfig)
    ejections = Ejections(guardrails_fingerprint(section), 1.0, {"v3": "it fails"})
    await RouteStates(store, Heard(store, float)).update(
        "r", lambda _: (RouteState(ejections=ejections), None)
    )
    one = await Rollout(store, "one", BANDIT).start()
    assert one.shares["v3"] == 0.0
    fresh = open_store(url)
    await fresh.open()
    await lose(fresh, garbled=False)
    for text, share in ((BANDIT, 0.0), (BANDIT.replace("2%", "3%"), pytest.approx(1 / 3))):
        two = Rollout(fresh, "two", text)
        two.time = one.time + 30
        await two.start()
        assert two.shares["v3"] == share
        if text == BANDIT:
            assert two.controller.states["r"].ejections.ejected == {"v3": REASON}
            assert "v3 gets no more traffic" in two.events[-1][1]["message"]
        await lose(fresh, garbled=False)
    await fresh.close()
