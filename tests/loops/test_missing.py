"""Missing rewards and heavy units, as the loops take them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.compile.plans import period
from gateway.config.load import load
from gateway.loops.allocation import Allocations
from gateway.loops.controller import Controller
from gateway.record.events import Outcome, Reward
from gateway.state.store import Store
from tests.loops.scene import START, outcome
from tests.support.heard import Heard
from tests.support.in_force import put_in_force
from tests.support.made import reward
from tests.support.one_route import one_route

BOUGHT = "bought: {type: boolean, missing: zero, window: 10m}"
CONFIG = one_route(
    "{type: bandit, metric: bought, baseline: v1, guardrails: [{metric: bought, max_decrease: 5%}]}",
    metrics=BOUGHT,
)


class Scene:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.time = START
        self.events: list[tuple[str, str]] = []
        self.load(CONFIG)

    def load(self, text: str) -> None:
        self.document = load(text, source="test", env={})
        self.allocations = Allocations(
            self.store, owner="me", clock=self.clock, swap=lambda *_: None, announce=lambda _: None
        )
        self.controller = Controller(
            self.store,
            self.allocations,
            clock=self.clock,
            events=Heard(self.store, self.clock, self.hear),
        )

    def clock(self) -> float:
        return self.time

    def hear(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, str(data["variant"])))

    async def start(self) -> None:
        await self.allocations.start()
        put_in_force(self.document, self.allocations, self.controller)
        await self.step()

    async def step(self) -> float:
        await self.allocations.step()
        await self.controller.step()
        return self.allocations.held["r"].allocation.probability("v2")

    async def serve(
        self, rate: Mapping[str, int], *, requests: int = 400, of_unit: int = 0, seen: bool = True
    ) -> None:
        """Ten seconds, half of the requests to each; every ``rate``-th of a variant's is reported as a 1."""
        rows: list[Outcome] = []
        rewards: list[Reward] = []
        for k in range(requests):
            variant = f"v{k % 2 + 1}"
            time = self.time + k * 10.0 / requests
            row = outcome(int(self.time) * 1000 + k, time, variant, 0.5)
            rows.append(row if seen else row._replace(status=0, served=""))
            if rate[variant] and k // 2 % rate[variant] == 0:
                rewards.append(reward(1.0, of=row, metric="bought"))
        if of_unit:
            route = self.document.routes["r"]
            rewards = [r._replace(unit=of_unit, period=period(route, r.epoch, r.decided)) for r in rewards]
        await self.store.append(rows)
        await self.store.reward(rewards)
        self.time += 10.0


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(store)


@pytest.mark.parametrize("seen", [True, False], ids=["proxied", "decided"])
async def test_a_bandit_learns_from_what_is_missing_when_the_windows_end(scene: Scene, seen: bool) -> None:
    """v1 sells to one in ten and v2 to one in four: each report is a sale, so only what is missing tells."""
    await scene.start()
    for _ in range(5):
        await scene.serve({"v1": 10, "v2": 4}, seen=seen)
    before = await scene.step()
    assert before == 0.5
    scene.time += 500
    assert await scene.step() == before
    scene.time += 110
    assert await scene.step() > 0.98, "nothing was reported meanwhile"


@pytest.mark.long
async def test_a_guardrail_counts_what_is_missing_once_its_window_is_over(scene: Scene) -> None:
    await scene.start()
    for _ in range(40):
        await scene.serve({"v1": 2, "v2": 4})
        await scene.step()
    assert scene.events == [], "every report was a 1"
    for _ in range(70):
        scene.time += 10
        await scene.step()
    assert scene.events == [("guardrail", "v2")]


async def test_an_edit_of_missing_counts_no_reward_twice(scene: Scene) -> None:
    scene.load(CONFIG.replace(", missing: zero", ""))
    await scene.start()
    for _ in range(3):
        await scene.serve({"v1": 4, "v2": 4})
        await scene.step()
    put_in_force(load(CONFIG, source="test", env={}), scene.allocations, scene.controller)
    for _ in range(70):
        scene.time += 10
        await scene.step()
    stored = await scene.store.load("guardrails", "r")
    assert stored is not None
    assert [verdict["samples"] for verdict in json.loads(stored[1])] == [600]


async def test_one_busy_unit_moves_no_bandit(scene: Scene) -> None:
    """Two hundred sales to one user are one observation; to two hundred users they are two hundred."""
    scene.load(CONFIG.replace(", missing: zero", ""))
    await scene.start()
    await scene.serve({"v1": 0, "v2": 1}, of_unit=7)
    assert await scene.step() < 0.8
    await scene.serve({"v1": 0, "v2": 1})
    assert await scene.step() > 0.98


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("{type: bandit, metric: bought}", "all"),
        ("{type: bandit, metric: bought, discount: {half_life: 1h}}", "h500000"),
        ("{type: split, weights: {v1: 1, v2: 1}}", "e7"),
    ],
)
def test_the_period_of_a_unit_is_what_the_policy_compares_within(policy: str, expected: str) -> None:
    route = load(one_route(policy, metrics=BOUGHT), source="test", env={}).routes["r"]
    assert period(route, 7, START) == expected
    assert period(None, 7, START) == "e7"
