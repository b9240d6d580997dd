"""Events: those of a step are stored with it, and its history gets them even if the process ends right after."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.loops.histories import Histories
from gateway.state import history
from gateway.state.base import Event, NewEvent, StoreUnavailable
from gateway.state.events import Events
from gateway.state.store import Store
from tests.support.harness import Clock

STEP = ("rollout", {"target": "rolled_back"})


async def test_a_document_and_what_it_tells_are_stored_together_or_not_at_all(store: Store) -> None:
    events = Events(store, Clock())
    assert await events.save("made", "shop", "{}", expected=0, told=[STEP, ("steered", {"by": "ann"})])
    assert not await events.save("made", "shop", "[]", expected=0, told=[STEP])
    assert await store.load("made", "shop") == (1, "{}")
    kinds = [event.kind for event in await store.events(after=0)]
    assert kinds == [step["kind"] for step in await history.steps(store, "shop")] == ["rollout", "steered"]


async def test_events_of_a_document_are_numbered_on(store: Store) -> None:
    added = await store.add_event(time=1.0, kind="config", route="", data="{}")
    new = [NewEvent(2.0, "rollout", "shop", '{"n": 1}'), NewEvent(2.5, "steered", "shop", '{"n": 2}')]
    saved = await store.save_with_events("made", "shop", "{}", expected=0, events=new)
    assert saved == await store.events(after=added.id)
    assert [(event.time, event.data) for event in saved] == [(2.0, '{"n": 1}'), (2.5, '{"n": 2}')]
    assert await store.save_with_events("made", "shop", "{}", expected=1, events=()) == []


@pytest.mark.parametrize("cut", ["the process ends", "the store goes away"])
async def test_a_step_whose_process_got_no_further_is_in_the_history_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    events, leads = Events(store, Clock()), True
    await events.emit("note", "shop", {"text": "before"})

    async def cut_off(kind: str, names: Sequence[str]) -> None:
        raise asyncio.CancelledError if cut == "the process ends" else StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "load", cut_off)
        await asyncio.wait(
            [asyncio.ensure_future(events.save("made", "shop", "{}", expected=0, told=[STEP]))]
        )
    await store.add_event(time=3.0, kind="allocation", route="shop", data="{}")
    assert [step["kind"] for step in await history.steps(store, "shop")] == ["note"]
    for _ in range(2):
        leader = Histories(store, lambda: leads)
        for _ in range(2):
            await leader.step()
        assert [step["kind"] for step in await history.steps(store, "shop")] == ["note", "rollout"]
    leads = False
    await store.add_event(time=9.0, kind="note", route="shop", data="{}")
    await leader.step()
    assert len(await history.steps(store, "shop")) == 2


async def test_what_is_stored_is_no_failure_because_its_history_is_not_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person wrote the note once more."""

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "load", away)
        await Events(store, Clock()).emit("note", "shop", {"text": "once"})
    await Histories(store, lambda: True).step()
    assert [step["data"] for step in await history.steps(store, "shop")] == [{"text": "once"}]


async def test_a_new_leader_goes_on_where_the_last_one_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bandit adds an event each second for months."""
    events = Events(store, Clock())
    for _ in range(3):
        await events.emit("note", "shop", {"text": "seen"})
    await Histories(store, lambda: True).step()
    await events.emit("allocation", "shop", {})
    read, asked = store.events, list[int]()

    async def counted(*, after: int, limit: int) -> list[Event]:
        asked.append(after)
        return await read(after=after, limit=limit)

    monkeypatch.setattr(store, "events", counted)
    await Histories(store, lambda: True).step()
    assert asked == [3, 4]


async def test_steps_that_a_full_history_left_behind_are_not_written_again(store: Store) -> None:
    """The first look at the store of an earlier build is at all its events."""
    clock = Clock()
    events = Events(store, clock)
    for number in range(history.MAX_STEPS + 5):
        clock.at += 1
        await events.emit("note", "shop", {"text": str(number)})
    before = await store.load(history.KIND, "shop")
    await Histories(store, lambda: True).step()
    assert await store.load(history.KIND, "shop") == before


async def test_each_of_two_that_wait_hears_of_what_comes_while_they_look(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, read = Events(store, Clock()), store.events
    looked, go = asyncio.Event(), asyncio.Event()

    async def slow(*, after: int) -> list[Event]:
        found = await read(after=after)
        looked.set()
        await go.wait()
        return found

    monkeypatch.setattr(store, "events", slow)
    first = asyncio.create_task(events.wait(0, 60))
    await looked.wait()
    monkeypatch.undo()
    await events.emit("note", "shop", {})
    second = asyncio.create_task(events.wait(1, 60))
    await asyncio.sleep(0)  # it looks
    go.set()
    async with asyncio.timeout(30):
        assert [event.kind for event in await first] == ["note"]
        await events.emit("note", "shop", {})
        assert len(await second) == 1
