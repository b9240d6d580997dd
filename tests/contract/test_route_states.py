"""The state of a route under compare-and-swap: what two processes change meets, on every store."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from gateway.errors import TurnoutError
from gateway.loops.route_states import KIND, RouteStates
from gateway.state.store import StartStore, Store
from policies.rollout.ejections import Ejections
from policies.rollout.route import RouteState
from policies.rollout.stop_rule import StopState

EJECTED = Ejections("f", 1.0, {"v2": "it fails"})
ASKING = StopState("f", "asking", "v2", 1.0, "rule")


def eject(state: RouteState) -> tuple[RouteState, str]:
    return replace(state, ejections=EJECTED), "ejected"


def ask(state: RouteState) -> tuple[RouteState, str]:
    return replace(state, stop=ASKING), "asked"


async def test_two_processes_change_one_state(store: Store) -> None:
    one, two = RouteStates(store), RouteStates(store)
    await one.update("r", eject)
    state, effects = await two.update("r", ask)  # it has not read what the other did
    assert (state, effects) == (RouteState(None, EJECTED, ASKING), "asked")
    assert await one.read("r") == state


async def test_a_change_that_changes_nothing_is_not_written(store: Store) -> None:
    states = RouteStates(store)
    await states.update("r", eject)
    before = await store.load(KIND, "r")
    assert await states.update("r", eject) == (RouteState(None, EJECTED), "ejected")
    assert await store.load(KIND, "r") == before


async def test_a_change_that_is_refused_changes_nothing(store: Store) -> None:
    def refuse(state: RouteState) -> tuple[RouteState, None]:
        raise TurnoutError("conflict", "no winner yet")

    states = RouteStates(store)
    with pytest.raises(TurnoutError, match="no winner yet"):
        await states.update("r", refuse)
    assert (states["r"], await store.load(KIND, "r")) == (RouteState(), None)


async def test_a_route_that_others_keep_moving_is_a_conflict(store: Store) -> None:
    other, times = RouteStates(store), count()

    class Moving(RouteStates):
        """Another process writes each time between the read and the write of this one."""

        async def read(self, name: str, source: StartStore | None = None) -> RouteState:
            found = await super().read(name, source)
            await other.update(name, lambda s: (replace(s, stop=StopState(str(next(times)))), None))
            return found

    states = Moving(store)
    await states.read("r")
    with pytest.raises(TurnoutError, match="keeps moving"):
        await states.update("r", eject)


async def test_a_read_beside_an_update_does_not_turn_it_back(store: Store) -> None:
    class Late:
        """A store in which an update comes between the load and its result."""

        save = store.save

        async def load(self, kind: str, name: str) -> tuple[int, str] | None:
            found = await store.load(kind, name)
            await states.update(name, ask)
            return found

    states = RouteStates(Late())  # type: ignore[arg-type] # it needs no more
    await states.update("r", eject)
    assert await states.read("r") == RouteState(None, EJECTED, ASKING)
