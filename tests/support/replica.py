"""The loops that steer routes, in one process, over a clock that tests move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from gateway.config.load import load
from gateway.loops.allocation import Allocations
from gateway.loops.controller import Controller
from gateway.state.store import Store
from policies.rollout.events import Command, Seen
from tests.support.heard import Heard
from tests.support.in_force import put_in_force


class Replica:
    """The allocation loop and the controllers of one process."""

    def __init__(self, store: Store, name: str, text: str) -> None:
        self.store = store
        self.time = 1_800_000_000.0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.allocations = Allocations(
            store, owner=name, clock=self.clock, swap=lambda *_: None, announce=lambda _: None
        )
        self.controller = Controller(
            store, self.allocations, clock=self.clock, events=Heard(store, self.clock, self.hear)
        )
        self.document = load(text, source="test", env={})

    def clock(self) -> float:
        return self.time

    def hear(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, dict(data)))

    async def start(self) -> Self:
        await self.allocations.start()
        await self.controller.start(self.document)
        self.put_in_force()
        await self.step()
        return self

    def put_in_force(self) -> None:
        put_in_force(self.document, self.allocations, self.controller, self.time)

    async def edit(self, text: str) -> None:
        self.document = load(text, source="test", env={})
        await self.controller.meet(self.document)
        self.put_in_force()
        await self.step()

    async def step(self) -> None:
        await self.allocations.step()
        await self.controller.step()

    async def say(
        self, action: str, weight: float | None = None, seen: Seen | None = None
    ) -> Mapping[str, Any]:
        """A person's command."""
        return await self.controller.command("r", Command(action, "ann", weight, seen=seen or Seen()))

    @property
    def shares(self) -> dict[str, float]:
        return self.allocations.held["r"].allocation.as_dict()

    @property
    def share(self) -> float:
        """The candidate's."""
        return self.shares["v2"]
