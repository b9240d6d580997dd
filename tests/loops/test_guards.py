"""A bandit's guardrails: what earns well but fails is ejected, for good, on every replica."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gateway.config.load import load
from gateway.errors import TurnoutError
from gateway.loops import guardrail_verdicts
from gateway.loops.guardrail_evidence import MAX_STRETCHES, _stretch
from gateway.record.events import Reward
from gateway.state.base import BUCKET_S, StoreUnavailable
from gateway.state.store import Store
from policies.rollout.events import Seen
from tests.loops.scene import START, outcome
from tests.support.in_force import put_in_force
from tests.support.one_route import one_route
from tests.support.replica import Replica

CONFIG = one_route(
    "{type: bandit, metric: correct, baseline: v1, guardrails: [{metric: error_rate, max_increase: 2%}]}",
    variants=3,
)
LINEAR = CONFIG.replace(
    "metric: correct,", "metric: correct, algorithm: linear, features: {f: {header: x-f}},"
)


class OfScene(Replica):
    """With the clock and the events of a scene, which several share."""

    def __init__(self, scene: Scene, name: str, config: str = CONFIG) -> None:
        self.scene = scene
        super().__init__(scene.store, name, config)

    def clock(self) -> float:
        return self.scene.time

    def hear(self, kind: str, route: str, data: Mapping[str, Any]) -> None:
        self.scene.events.append((kind, route, data))

    def put_in_force(self) -> None:
        put_in_force(self.document, self.allocations, self.controller)


class Scene:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.time = START
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        self.number = 0
        self.decided: dict[int, float] = {}

    async def report(self, correct: Mapping[str, float], rng: np.random.Generator, numbers: range) -> None:
        """What the decisions ``numbers`` earned, told now."""
        rewards = []
        for number in numbers:
            variant = f"v{(number - 1) % 3 + 1}"
            value = float(rng.random() < correct[variant])
            row = outcome(number, self.decided[number], variant, 1 / 3)
            rewards.append(
                Reward(
                    row.decision, "correct", value, self.time, row.time, "r", variant, variant, 1, 1 / 3,
                    row.unit, False,
                )
            )  # fmt: skip
        await self.store.reward(rewards)

    async def serve(self, errors: Mapping[str, float], requests: int, rng: np.random.Generator) -> None:
        """Ten seconds in which the three variants get the same and fail as often as ``errors`` says."""
        rows = []
        for n in range(requests):
            variant = f"v{n % 3 + 1}"
            self.number += 1
            row = outcome(self.number, self.time + n * 10.0 / requests, variant, 1 / 3)
            self.decided[self.number] = row.time
            rows.append(row._replace(error="backend_reset" if rng.random() < errors[variant] else ""))
        await self.store.append(rows)
        self.time += 10.0


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(store)


async def verdicts(scene: Scene) -> dict[str, Any]:
    """What the guardrail said last, by variant."""
    _, text = await scene.store.load("guardrails", "r") or (0, "[]")
    return {one["variant"]: one for one in json.loads(text)}


async def test_rows_that_could_not_be_added_are_added_at_the_next_look(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, rng = OfScene(scene, "leader"), np.random.default_rng(5)
    await leader.start()
    await leader.step()
    scene.time += 86_400  # the clock is ahead for a while
    await leader.step()
    scene.time -= 86_400
    await scene.serve(dict.fromkeys(("v1", "v2", "v3"), 0.01), 300, rng)
    scene.time += 20
    reduced: Any = scene.store.reduced_series

    async def unreadable(route: str, make: Any, **limits: object) -> Any:
        return await reduced(route, lambda found: make([None for _ in found]), **limits)

    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "reduced_series", unreadable)
        await leader.step()
    assert await verdicts(scene) == {}
    scene.time += 10
    await leader.step()
    assert (await verdicts(scene))["v2"]["samples"] == 100


with_and_without_features = pytest.mark.parametrize("config", [CONFIG, LINEAR], ids=["plain", "features"])


@pytest.mark.slow
@with_and_without_features
async def test_a_variant_that_fails_is_ejected_everywhere_and_stays_so(scene: Scene, config: str) -> None:
    leader, follower = OfScene(scene, "leader", config), OfScene(scene, "follower", config)
    await leader.start()
    await follower.start()
    rng = np.random.default_rng(5)
    for _ in range(30):
        await scene.serve({"v1": 0.01, "v2": 0.01, "v3": 0.15}, 300, rng)
        for replica in (leader, follower):
            await replica.step()
    assert leader.shares["v3"] == 0.0
    assert leader.shares["v2"] > 0.01
    assert follower.shares == leader.shares
    assert [(kind, data["variant"]) for kind, _, data in scene.events] == [("guardrail", "v3")]
    assert scene.events[0][2]["evidence"]["verdict"] == "fail"
    assert {v: one["verdict"] for v, one in (await verdicts(scene)).items()} == {
        "v2": "pass",
        "v3": "fail",
    }
    assert (await verdicts(scene))["v3"]["samples"] < (await verdicts(scene))["v2"]["samples"], (
        "it ended there"
    )
    # After a restart it is still ejected, without new evidence.
    scene.time += 60
    again = OfScene(scene, "again", config)
    await again.start()
    await again.step()
    assert again.shares["v3"] == 0.0


@with_and_without_features
async def test_an_edit_of_the_policy_is_a_new_chance(scene: Scene, config: str) -> None:
    leader = OfScene(scene, "leader", config)
    await leader.start()
    rng = np.random.default_rng(6)
    for _ in range(30):
        await scene.serve({"v1": 0.0, "v2": 0.3, "v3": 0.0}, 300, rng)
        await leader.step()
    assert leader.shares["v2"] == 0.0
    leader.document = load(config.replace("2%", "3%"), source="test", env={})
    leader.put_in_force()
    await leader.step()
    await leader.step()
    assert leader.shares["v2"] > 0.0
    scene.time += 10
    await leader.step()
    assert all(one["limit"] == 0.03 for one in (await verdicts(scene)).values()), "that was another guardrail"


async def test_an_ejection_is_told_if_the_verdicts_can_t_be_stored(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> None:
        raise StoreUnavailable("away")

    leader = OfScene(scene, "leader")
    await leader.start()
    monkeypatch.setattr(guardrail_verdicts, "keep", refused)
    rng = np.random.default_rng(6)
    for _ in range(30):
        await scene.serve({"v1": 0.0, "v2": 0.3, "v3": 0.0}, 300, rng)
        with contextlib.suppress(StoreUnavailable):
            await leader.step()
    assert leader.shares["v2"] == 0.0
    assert [(kind, data["variant"]) for kind, _, data in scene.events] == [("guardrail", "v2")]


async def test_a_comparison_in_doubt_ejects_nothing_and_says_so(scene: Scene) -> None:
    one = await OfScene(scene, "one").start()
    told = [{"code": "sample_ratio_mismatch", "message": "it does not fit", "since": scene.time + 1}]
    await scene.store.save("alarms", "r", json.dumps(told), expected=0)
    rng = np.random.default_rng(1)
    for _ in range(6):
        await scene.serve({"v1": 0.0, "v2": 0.0, "v3": 0.9}, 300, rng)
        await one.step()
    assert one.shares["v3"] > 0.0
    found = await verdicts(scene)
    assert {name: one["verdict"] for name, one in found.items()} == {"v2": "error", "v3": "error"}
    assert found["v3"]["reason"] == "sample_ratio_mismatch: it does not fit"
    assert found["v3"]["candidate"] > 0.8, "what was seen stays to be seen"
    assert await one.controller.held("r") == "sample_ratio_mismatch: it does not fit"
    with pytest.raises(TurnoutError, match="no stop rule"):
        await one.say("promote")
    with pytest.raises(TurnoutError, match="is learning now"):
        await one.say("resume", seen=Seen("asking"))
    assert (await one.say("resume"))["state"] == "learning"
    other = await OfScene(scene, "other").start()
    assert await other.controller.held("r") == "", "a person knows of the alarm, on every replica"
    with pytest.raises(TurnoutError, match="nothing to resume"):
        await other.say("resume")
    scene.time += 10.0
    await one.step()
    assert one.shares["v3"] > 0.0, "what was seen in doubt does not count"
    for _ in range(6):
        await scene.serve({"v1": 0.0, "v2": 0.0, "v3": 0.9}, 300, rng)
        await one.step()
    assert one.shares["v3"] == 0.0
    assert one.shares["v2"] > 0.0


@pytest.mark.long
async def test_healthy_variants_are_left_alone(scene: Scene) -> None:
    leader = OfScene(scene, "leader")
    await leader.start()
    rng = np.random.default_rng(7)
    for _ in range(30):
        await scene.serve({"v1": 0.03, "v2": 0.03, "v3": 0.02}, 300, rng)
        await leader.step()
    assert min(leader.shares.values()) >= 0.01
    assert scene.events == []


@pytest.mark.slow
@pytest.mark.parametrize("late", [300.0, 3000.0], ids=["minutes", "most of the window"])
async def test_rewards_that_come_late_count(scene: Scene, late: float) -> None:
    config = CONFIG.replace("{metric: error_rate, max_increase: 2%}", "{metric: correct, max_decrease: 5%}")
    leader = OfScene(scene, "leader", config)
    await leader.start()
    rng = np.random.default_rng(8)
    served: list[range] = []
    good = dict.fromkeys(("v1", "v2", "v3"), 0.0)
    for _ in range(20):
        served.append(range(scene.number + 1, scene.number + 301))
        await scene.serve(good, 300, rng)
        await leader.step()
    scene.time += late
    await leader.step()
    assert scene.events == []
    for numbers in served:
        await scene.report({"v1": 0.9, "v2": 0.9, "v3": 0.6}, rng, numbers)
        scene.time += 10.0
        await leader.step()
    assert [data["variant"] for _, _, data in scene.events] == ["v3"]


@pytest.mark.long
async def test_rewards_count_once_also_when_their_window_is_over(scene: Scene) -> None:
    config = CONFIG.replace("error_rate, max_increase: 2%", "correct, max_decrease: 5%")
    config = config.replace("{type: boolean}", "{type: boolean, window: 2m}")
    leader = OfScene(scene, "leader", config)
    await leader.start()
    rng = np.random.default_rng(9)
    for _ in range(40):
        numbers = range(scene.number + 1, scene.number + 31)
        await scene.serve(dict.fromkeys(("v1", "v2", "v3"), 0.0), 30, rng)
        await scene.report(dict.fromkeys(("v1", "v2", "v3"), 0.5), rng, numbers)
        await leader.step()
    watched = leader.controller._guardrails._watched["r"]
    seen = sum((f.matched["v3"] for f in watched.fresh.values()), watched.matched["v3"])
    for side in seen.evidence({"correct": "boolean"}, 400.0):
        # 40 buckets of ten each, less the last, which is not settled
        assert side.rewards["correct"].count == 390


@pytest.mark.parametrize("window", [60.0, 3600.0, 5400.0, 7 * 86_400.0])
def test_a_window_has_no_more_stretches_than_are_read_at_once(window: float) -> None:
    step = _stretch(window)
    assert step % BUCKET_S == 0
    assert window / step <= MAX_STRETCHES
