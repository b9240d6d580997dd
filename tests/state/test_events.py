"""Events while the store is away: the steps of a route are added later, with their own times."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.state import history
from gateway.state.base import Event, StoreUnavailable
from gateway.state.events import MAX_LATE_STEPS, Events
from gateway.state.store import Store
from tests.support.harness import Clock


async def test_a_step_waits_for_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    events = Events(store, clock)

    async def away(**_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "add_event", away)
    await events.emit_quietly("rollout", "shop", {"target": "rolled_back"})
    await events.emit_quietly("allocation", "shop", {})
    with pytest.raises(StoreUnavailable):
        await events.catch_up()
    monkeypatch.undo()
    clock.at += 5
    await events.emit_quietly("note", "shop", {"text": "the store is back"})
    for _ in range(2):
        await events.catch_up()
    steps = await history.steps(store, "shop")
    assert [(step["kind"], clock.at - step["time"]) for step in steps] == [("rollout", 5), ("note", 0)]
    assert {event.kind for event in await store.events(after=0)} == {"rollout", "note"}


async def test_a_step_that_the_store_took_unseen_is_in_the_history_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hangs goes on with what was sent to it."""
    events, save = Events(store, Clock()), store.save

    async def hanging(*document: str, expected: int) -> bool:
        await save(*document, expected=expected)
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "save", hanging)
    await events.emit_quietly("rollout", "shop", {"target": "rolled_back"})
    monkeypatch.undo()
    await events.catch_up()
    assert [step["kind"] for step in await history.steps(store, "shop")] == ["rollout"]
    assert [event.kind for event in await store.events(after=0)] == ["rollout"]


async def test_steps_are_added_in_order_and_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by several tasks that add at the same time, and if one of them is cancelled."""
    events, add = Events(store, Clock()), store.add_event

    async def away(**_: object) -> None:
        raise StoreUnavailable("away")

    async def slow(**event: Any) -> Event:
        await asyncio.sleep(0)
        return await add(**event)

    async def never(**_: object) -> None:
        await asyncio.Event().wait()

    texts = [str(number) for number in range(MAX_LATE_STEPS + 2)]
    monkeypatch.setattr(store, "add_event", away)
    for text in texts[:-1]:
        await events.emit_quietly("note", "shop", {"text": text})
    monkeypatch.setattr(store, "add_event", never)
    cancelled = asyncio.create_task(events.catch_up())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    monkeypatch.setattr(store, "add_event", slow)
    await asyncio.gather(
        events.catch_up(), events.emit_quietly("note", "shop", {"text": texts[-1]}), events.catch_up()
    )
    added = [json.loads(event.data)["text"] for event in await store.events(after=0)]
    assert added == texts[-len(added) :]
    assert len(added) >= MAX_LATE_STEPS


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
