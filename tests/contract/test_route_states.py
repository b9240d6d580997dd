"""The state of a route under compare-and-swap: what two processes change meets, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from gateway.config.load import load
from gateway.errors import TurnoutError
from gateway.loops.route_states import KIND, RouteStates
from gateway.state.events import Events
from gateway.state.store import Store
from policies.rollout.ejections import Ejections
from policies.rollout.route import RouteState
from policies.rollout.stop_rule import StopState
from tests.support.heard import Heard

EJECTED = Ejections("f", 1.0, {"v2": "it fails"})
ASKING = StopState("f", "asking", "v2", 1.0, "rule")


def eject(state: RouteState) -> tuple[RouteState, str]:
    return replace(state, ejections=EJECTED), "ejected"


def ask(state: RouteState) -> tuple[RouteState, str]:
    return replace(state, stop=ASKING), "asked"


async def test_who_hears_of_a_step_sees_its_state(store: Store) -> None:
    events = Events(store, float)
    states, began = RouteStates(store, events), asyncio.Event()

    async def listen() -> RouteState:
        began.set()
        await events.wait(0, 60.0)
        return states["r"]

    listening = asyncio.create_task(listen())
    await began.wait()
    await states.update("r", eject, lambda _: [("guardrail", {})])
    assert (await listening).ejections == EJECTED


async def test_two_processes_change_one_state(store: Store) -> None:
    one, two = RouteStates(store, Heard(store, float)), RouteStates(store, Heard(store, float))
    await one.update("r", eject)
    state, effects = await two.update("r", ask)  # it has not read what the other did
    assert (state, effects) == (RouteState(None, EJECTED, ASKING), "asked")
    assert await one.read("r") == state


async def test_a_change_that_changes_nothing_is_not_written(store: Store) -> None:
    states = RouteStates(store, Heard(store, float))
    await states.update("r", eject)
    before = await store.load(KIND, "r")
    assert await states.update("r", eject) == (RouteState(None, EJECTED), "ejected")
    assert await store.load(KIND, "r") == before


async def test_a_change_that_is_refused_changes_nothing(store: Store) -> None:
    def refuse(state: RouteState) -> tuple[RouteState, None]:
        raise TurnoutError("conflict", "no winner yet")

    states = RouteStates(store, Heard(store, float))
    with pytest.raises(TurnoutError, match="no winner yet"):
        await states.update("r", refuse)
    assert (states["r"], await store.load(KIND, "r")) == (RouteState(), None)


async def test_a_route_that_others_keep_moving_is_a_conflict(store: Store) -> None:
    other, times = RouteStates(store, Heard(store, float)), count()

    class Moving(RouteStates):
        """Another process writes each time between the read and the write of this one."""

        async def read(self, name: str) -> RouteState:
            found = await super().read(name)
            await other.update(name, lambda s: (replace(s, stop=StopState(str(next(times)))), None))
            return found

    states = Moving(store, Heard(store, float))
    await states.read("r")
    with pytest.raises(TurnoutError, match="keeps moving"):
        await states.update("r", eject)


async def test_a_read_beside_an_update_does_not_turn_it_back(store: Store) -> None:
    class Late:
        """A store in which an update comes between the load and its result."""

        save = store.save

        async def load_all(self, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
            found = await store.load_all(kind, names)
            await states.update("r", ask)
            return found

    states = RouteStates(Late(), Heard(store, float))  # type: ignore[arg-type] # it needs no more
    await states.update("r", eject)
    assert await states.read("r") == RouteState(None, EJECTED, ASKING)


async def test_new_routes_are_read_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that adds thousands waited for four reads of each, under the lock of edits."""
    route = """
    match: {path: /NAME}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: canary, baseline: v1, candidate: v2, stages: [{weight: 10%, for: 1h}]}
"""
    names = [f"r{n}" for n in range(40)]
    text = "backends: {a: {url: 'http://127.0.0.1:1'}}\nroutes:\n"
    document = load(text + "".join(f"  {n}:{route.replace('NAME', n)}" for n in names), source="test", env={})
    await RouteStates(store, Heard(store, float)).update("r7", eject)
    states, reads = RouteStates(store, Heard(store, float)), list[str]()

    def counted(read: Any) -> Any:
        async def load(kind: str, *of: Any) -> Any:
            reads.append(kind)
            return await read(kind, *of)

        return load

    monkeypatch.setattr(store, "load", counted(store.load))
    monkeypatch.setattr(store, "load_all", counted(store.load_all))
    await states.meet(document, None, {}, 0.0)
    assert (states["r7"], states["r8"]) == (RouteState(None, EJECTED), RouteState())
    assert len(reads) <= 4
