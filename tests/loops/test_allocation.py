"""The allocation loop never does the integrals on the event loop, nor those that nothing asks for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from gateway.config.document import Document
from gateway.config.load import load
from gateway.loops import learning
from gateway.loops.allocation import LEASE_TTL_S, Allocations
from gateway.state.base import Published, StoreUnavailable
from gateway.state.sqlite import SqliteStore
from policies.allocation import bandit
from policies.allocation.bucketing import allocation
from policies.allocation.model import Learned
from policies.bayes import posterior
from policies.bayes.quadrature import compare_posteriors
from tests.support.in_force import prepared, put_in_force
from tests.support.made import outcome, reward
from tests.support.one_route import one_route

CONFIG = """
metrics: {correct: {type: boolean}}
backends: {a: {url: "http://127.0.0.1:1"}}
routes:
"""
ROUTE = """
  {0}:
    match: {{path: /{0}}}
    variants: {{v1: {{backend: a}}, v2: {{backend: a}}}}
    policy: {{type: bandit, metric: correct}}
"""
DOCUMENT = load(
    CONFIG + "".join(ROUTE.format(name) for name in ("one", "two", "three")), source="test", env={}
)


@pytest.fixture
def integrals(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """For each integration whether it ran on the event loop's thread."""
    seen: list[bool] = []
    main, real = threading.current_thread(), compare_posteriors

    def spy(*arguments: object) -> object:
        seen.append(threading.current_thread() is main)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(posterior, "compare_posteriors", spy)
    yield seen
    assert not any(seen), "an integration ran on the event loop"


@pytest.fixture
def read(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The routes whose rewards were read."""
    seen: list[str] = []
    real = store.reward_sums

    async def spied(route: str, **limits: Any) -> Any:
        seen.append(route)
        return await real(route, **limits)

    monkeypatch.setattr(store, "reward_sums", spied)
    return seen


async def replica(store: SqliteStore, owner: str) -> Allocations:
    made = Allocations(
        store, owner=owner, clock=lambda: 1_000.0, swap=lambda *_: None, announce=lambda _: None
    )
    await made.start()
    put_in_force(DOCUMENT, made)
    await made.step()
    return made


async def test_only_the_route_with_new_rewards_is_computed_anew(
    store: SqliteStore, integrals: list[bool]
) -> None:
    leader = await replica(store, "leader")
    await leader.step()
    integrals.clear()
    await leader.step()
    assert integrals == [], "nothing has changed"
    await store.reward([reward(of=outcome(route="two"))])
    await leader.step()
    assert integrals == [False]
    assert leader.held["two"].epoch > leader.held["one"].epoch
    await leader.step()  # from what has just been published: the same again
    await leader.step()
    count = len(integrals)
    await leader.step()
    assert len(integrals) == count


@pytest.mark.parametrize(("took", "reads"), [(0.001, 2), (1.0, 1)])
async def test_months_of_rewards_that_take_a_second_to_read_are_not_read_each_second(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, took: float, reads: int
) -> None:
    text = CONFIG + ROUTE.format("one").replace("correct", "correct, discount: {half_life: 7d}")
    leader = Allocations(
        store, owner="me", clock=lambda: 1_000.0, swap=lambda *_: None, announce=lambda _: None
    )
    put_in_force(load(text, source="test", env={}), leader)
    now, found, real = [0.0], [0], store.series

    async def slow(*args: Any, **limits: Any) -> Any:
        now[0] += took
        found[0] += 1
        return await real(*args, **limits)

    monkeypatch.setattr(store, "series", slow)
    monkeypatch.setattr(learning, "perf_counter", lambda: now[0])
    await leader.step()
    for rest, more in ((1.0, reads - 1), (25.0, 1)):
        now[0] += rest
        found[0] = 0
        await store.reward([reward(of=outcome(route="one", time=900.0))])
        await leader.step()
        assert found[0] == more


async def test_what_could_not_be_published_is_published_later(
    store: SqliteStore, integrals: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await replica(store, "leader")
    await store.reward([reward(of=outcome(route="two"))])
    before = leader.held["two"].epoch
    with monkeypatch.context() as outage:
        outage.setattr(store, "publish", unavailable)
        with pytest.raises(StoreUnavailable):
            await leader.step()
    integrals.clear()
    await leader.step()
    assert leader.held["two"].epoch > before
    assert integrals == [], "the evidence is the same"


async def unavailable(*_: object) -> bool:
    raise StoreUnavailable("the disk is full")


async def test_one_process_leads_though_steps_are_a_minute_apart(store: SqliteStore) -> None:
    """Each took the lapsed lease of the other, and both posted all webhooks."""
    document, now = (
        load(f"loops: {{allocation: 60s}}\n{CONFIG}{ROUTE.format('one')}", source="test", env={}),
        0.0,
    )
    both = [
        Allocations(store, owner=name, clock=lambda: now, swap=lambda *_: None, announce=lambda _: None)
        for name in ("first", "second")
    ]
    for process in both:
        await process.start()
        put_in_force(document, process)
    for _ in range(3):
        for process in both:
            now += 30
            await process.step()
            assert [each.leads for each in both] == [True, False]


async def test_a_step_that_outlasts_the_lease_keeps_it(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks at hundreds of bandits take seconds; then two processes led."""
    now, led, both = 1_000.0, list[bool](), [await replica(store, name) for name in ("first", "second")]
    for process in both:
        monkeypatch.setattr(process, "_clock", lambda: now)
        process._changed = -1

    async def slow(looking: learning.Learning, _: object) -> None:
        nonlocal now
        if looking is both[0]._learning:
            now += LEASE_TTL_S / 2
            await both[1].step()
            led.append(both[1].leads)

    monkeypatch.setattr(learning.Learning, "propose", slow)
    await both[0].step()
    assert (both[0].leads, led) == (True, [False] * 3)


async def test_followers_integrate_nothing_and_let_others_in_between_routes(
    store: SqliteStore, integrals: list[bool]
) -> None:
    leader = await replica(store, "leader")
    follower = await replica(store, "follower")
    assert leader.leads
    assert not follower.leads
    for name in DOCUMENT.routes:
        await store.reward([reward(of=outcome(route=name))])
    await leader.step()
    integrals.clear()
    turns = 0

    async def come_round() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += len({held.epoch for held in follower.held.values()}) > 1

    task = asyncio.create_task(come_round())
    await follower.step()
    task.cancel()
    assert integrals == []
    assert {n: h.epoch for n, h in follower.held.items()} == {n: h.epoch for n, h in leader.held.items()}
    assert turns > 0, "all routes were taken in one go"


async def test_a_winner_that_is_believed_costs_no_second_integration(
    store: SqliteStore, integrals: list[bool]
) -> None:
    """The intervals that must show it need the periods, and not the beliefs again."""
    stops = CONFIG + ROUTE.format("one").replace("correct}", "correct, stop: {min_samples: 50}}")
    leader = await replica(store, "leader")
    put_in_force(load(stops, source="test", env={}), leader)
    await leader.step()
    for variant, value in (("v1", 0.0), ("v2", 1.0)):
        rows = [outcome(route="one", assigned=variant, served=variant) for _ in range(60)]
        await store.append(rows)
        await store.reward([reward(value, of=row) for row in rows])
    integrals.clear()
    await leader.step()
    assert leader.standings["one"].stopped == "v2"
    assert integrals == [False]


async def test_a_new_document_integrates_nothing(store: SqliteStore, integrals: list[bool]) -> None:
    made = await replica(store, "leader")
    integrals.clear()
    put_in_force(DOCUMENT, made)
    assert integrals == []
    assert made.held["one"].allocation.as_dict() == {"v1": 0.5, "v2": 0.5}


async def test_a_route_whose_numbers_fail_does_not_hold_up_the_others(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leader = await replica(store, "leader")
    real = bandit.assess

    def failing(plan: bandit.Bandit, learned: Learned) -> bandit.Standing:
        if learned.sums and max(s.count for s in learned.sums.values()) == 1:
            raise ArithmeticError("too extreme")
        return real(plan, learned)

    monkeypatch.setattr(bandit, "assess", failing)
    await store.reward([reward(of=outcome(route="one"))])
    await store.reward([reward(of=outcome(route="three")) for _ in range(2)])
    before = leader.held["one"].epoch
    await leader.step()
    assert leader.held["one"].epoch == before
    assert leader.held["three"].epoch == before + 1
    assert "the allocation of the route one failed; it stays as it is" in caplog.text


async def test_what_was_read_while_a_command_published_does_not_undo_it(store: SqliteStore) -> None:
    leader = await replica(store, "leader")
    read = store.published

    async def slow() -> dict[str, Published]:
        found = await read()
        if leader.held["one"].epoch == before:
            await leader.reconsider("one", "command")
        return found

    await store.reward([reward(of=outcome(route="one"))])
    before = leader.held["one"].epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "published", slow)
        await leader.step()
    after = leader.held["one"].epoch
    assert after > before
    assert leader.in_effect()["one"].epoch == after, "nodes of an engine would wait for the next change"


async def test_an_edit_is_not_in_effect_under_an_epoch_that_was_published_meanwhile(
    store: SqliteStore,
) -> None:
    leader = await replica(store, "leader")
    await store.reward([reward(of=outcome(route="one"))])
    await leader.step()
    held = leader.held["one"]
    assert leader.in_effect()["one"].allocation is held.allocation
    edited = replace(held, allocation=allocation({"v1": 0.125, "v2": 0.875}), published=False)
    leader.take(DOCUMENT, {**leader.held, "one": edited})
    assert "one" not in leader.in_effect(), "decisions of the nodes would be those of another allocation"


@pytest.mark.parametrize(("second", "weight"), [("v2", 3), ("v3", 3), ("v2", 1)])
async def test_an_edit_while_an_allocation_is_published_comes_into_force(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, second: str, weight: int
) -> None:
    served: list[tuple[int, dict[str, float]]] = []
    leader = Allocations(
        store,
        owner="me",
        clock=lambda: 1_000.0,
        swap=lambda name, epoch, found, _: served.append((epoch, found.as_dict())),
        announce=lambda _: None,
    )

    def split(weight: int, second: str = "v2") -> Document:
        text = one_route(f"{{type: split, weights: {{v1: {weight}, {second}: 1}}}}")
        return load(text.replace("v2:", f"{second}:"), source="test", env={})

    put_in_force(split(1), leader)
    await leader.step()
    publish, edited, total = store.publish, split(weight, second), weight + 1
    wanted = {"v1": weight / total, second: 1 / total}

    async def slow(allocation: Published, ensemble: bytes = b"") -> bool:
        done = await publish(allocation, ensemble)
        if allocation.epoch == 2:
            put_in_force(edited, leader)
        return done

    monkeypatch.setattr(store, "publish", slow)
    put_in_force(split(9), leader)
    await leader.step()
    await leader.step()
    assert (await store.published())["r"].probabilities == wanted
    assert leader.held["r"].published
    assert served[-1] == (3, wanted)
    assert 0.9 not in [found["v1"] for _, found in served], "it is of the document before"


@pytest.mark.parametrize(("weight", "share"), [(3, 0.75), (1, 0.5)])
async def test_an_edit_that_was_prepared_while_the_one_before_was_published_comes_into_force(
    store: SqliteStore, weight: int, share: float
) -> None:
    leader = Allocations(
        store, owner="me", clock=lambda: 1_000.0, swap=lambda *_: None, announce=lambda _: None
    )

    def split(weight: int) -> Document:
        return load(one_route(f"{{type: split, weights: {{v1: {weight}, v2: 1}}}}"), source="test", env={})

    put_in_force(split(1), leader)
    await leader.step()
    put_in_force(split(9), leader)
    _, held = prepared(split(weight), leader)
    await leader.step()
    leader.take(split(weight), held)
    await leader.step()
    assert leader.held["r"].published
    assert (await store.published())["r"].probabilities == {"v1": share, "v2": 1 - share}


async def test_an_edit_that_another_process_published_meanwhile_is_published_once(store: SqliteStore) -> None:
    def split(weight: int) -> Document:
        return load(one_route(f"{{type: split, weights: {{v1: {weight}, v2: 1}}}}"), source="test", env={})

    one, other = (
        Allocations(store, owner=owner, clock=lambda: 1_000.0, swap=lambda *_: None, announce=lambda _: None)
        for owner in ("one", "other")
    )
    for process in (one, other):
        put_in_force(split(1), process)
        await process.step()
    _, held = prepared(split(9), other)
    put_in_force(split(9), one)
    await one.step()
    await other.step()  # reads it before the edit is in force
    other.take(split(9), held)
    await other.step()
    assert (await store.published())["r"].epoch == 2
    assert (other.held["r"].epoch, other.share("r", "v1"), other.held["r"].published) == (2, 0.9, True)


async def test_an_older_configuration_is_not_published_after_a_newer_one(store: SqliteStore) -> None:
    """A process that was slow to build an edit published it over the next one, once; so did a leader its posterior."""

    def split(weight: int) -> Document:
        return load(one_route(f"{{type: split, weights: {{v1: {weight}, v2: 1}}}}"), source="test", env={})

    async def may_publish(leads: bool) -> bool:
        return current

    current, clock = True, lambda: 1_000.0
    slow, quick = (
        Allocations(
            store, owner=owner, clock=clock, swap=lambda *_: None, announce=lambda _: None, may_publish=asked
        )
        for owner, asked in (("slow", may_publish), ("quick", None))
    )
    for process in (slow, quick):
        put_in_force(split(1), process)
        await process.step()
    _, older = prepared(split(3), slow)
    put_in_force(split(9), quick)
    await quick.step()
    current = False
    slow.take(split(3), older)
    await slow.step()
    await slow.reconsider("r", "stage")
    assert (await store.published())["r"].probabilities == {"v1": 0.9, "v2": 0.1}
    put_in_force(split(9), slow)
    current = True
    await slow.step()
    assert (slow.held["r"].epoch, slow.share("r", "v1"), slow.held["r"].published) == (2, 0.9, True)
    # Here the older one is published in the moment before the newer one, which then does not give way to it.
    put_in_force(split(3), slow)
    put_in_force(split(4), quick)
    for process in (slow, quick, slow):
        await process.step()
    assert [(one.held["r"].epoch, one.share("r", "v1")) for one in (slow, quick)] == 2 * [(4, 0.8)]
    # A step of a rollout comes between two steps of the loop.
    put_in_force(split(1), slow)
    for allowed, share in (False, 0.8), (True, 0.5):
        current = allowed
        await slow.reconsider("r", "stage")
        assert (await store.published())["r"].probabilities["v1"] == share


async def test_a_leader_that_lags_gives_way_to_a_process_that_does_not(store: SqliteStore) -> None:
    """It kept the lease, and published what the newest configuration no longer says."""
    lagging = {"old", "older"}
    old, older, able = (
        Allocations(
            store,
            owner=owner,
            clock=lambda: now,
            swap=lambda *_: None,
            announce=lambda _: None,
            lags=partial(lagging.__contains__, owner),
        )
        for owner in ("old", "older", "able")
    )

    async def leading(*steps: Allocations) -> list[list[bool]]:
        found = []
        for _ in range(3):
            for one in steps:
                await one.step()
            found.append([one.leads for one in steps])
        return found

    now = 1_000.0
    assert await leading(old, older) == [[True, False]] * 3, "none can build it: they do not take turns"
    assert await leading(older, able, old) == [[False, True, False]] * 3
    now += LEASE_TTL_S  # the one that can is gone
    assert await leading(old, older) == [[True, False]] * 3
    lagging.clear()
    await older.step()
    assert await leading(old, older) == [[False, True]] * 3


async def test_a_start_does_not_read_the_rewards_of_routes_whose_allocation_is_published(
    store: SqliteStore, read: list[str]
) -> None:
    await store.publish(
        Published("one", 1, {"v1": 0.5, "v2": 0.5}, (0.5, 1.0), (0, 1), "posterior", 1.0, "{}")
    )
    made = Allocations(
        store, owner="leader", clock=lambda: 1_000.0, swap=lambda *_: None, announce=lambda _: None
    )
    await made.start()
    put_in_force(DOCUMENT, made)
    await made.step(first=True)
    assert set(read) == {"two", "three"}
    assert all(held.published for held in made.held.values())
    read.clear()
    await made.step()
    assert "one" in read


async def test_rewards_of_one_route_are_no_reason_to_read_those_of_all(
    store: SqliteStore, read: list[str]
) -> None:
    leader = await replica(store, "leader")
    await leader.step()
    assert set(read) == {"one", "two", "three"}
    for _ in range(2):
        read.clear()
        before = leader.held["one"].epoch
        await store.reward([reward(1.0, of=outcome(route="one"))])
        await leader.step()
        assert read == ["one"]
        assert leader.held["one"].epoch > before


async def test_nothing_is_kept_of_a_route_that_an_edit_removes(store: SqliteStore) -> None:
    leader = await replica(store, "leader")
    await store.reward([reward(of=outcome(route="two"))])
    await leader.step()
    put_in_force(load(CONFIG + ROUTE.format("one"), source="test", env={}), leader)
    await leader.step()
    kept = leader._learning
    for known in (leader.standings, kept._last, kept._sums, kept._aged, kept._compared):
        assert known.keys() <= {"one"}
