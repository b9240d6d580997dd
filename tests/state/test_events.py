"""Events while the store is away: the steps of a route are added later, with their own times."""

from __future__ import annotations

import pytest

from gateway.state import history
from gateway.state.base import StoreUnavailable
from gateway.state.events import Events
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
