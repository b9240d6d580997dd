"""Alarms of processes, and alarms of all in the metrics."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from gateway.config.load import load
from gateway.loops.alarms import FORGOTTEN_S, KIND
from gateway.loops.status_gauges import StatusGauges
from gateway.state.outage import StoreOutage
from gateway.telemetry.metrics import Metrics
from tests.loops.scene import Scene
from tests.support.one_route import one_route


async def test_rejected_rewards_are_an_alarm_until_they_stop(scene: Scene) -> None:
    totals: list[Any] = [0, {"unknown_metric": 0}]
    scene.watch._reported = lambda: (totals[0], totals[1])
    await scene.watch.rejected_rewards()
    totals[:] = [19, {"unknown_metric": 19}]
    scene.time += 10
    await scene.watch.rejected_rewards()
    assert scene.raised == []
    totals[:] = [50, {"unknown_metric": 40, "expired": 2}]
    scene.time += 10
    await scene.watch.rejected_rewards()
    await scene.watch.rejected_rewards()
    assert scene.raised == [("", "rewards_rejected")]
    kept = await scene.store.load(KIND, "")
    assert kept is not None
    (alarm,) = json.loads(kept[1])
    assert alarm["message"].startswith(
        "42 of 50 reported rewards were rejected in the last 5 minutes, 40 with"
    )
    scene.time -= 86_400  # the clock was ahead
    await scene.watch.rejected_rewards()
    scene.time += 301
    await scene.watch.rejected_rewards()
    assert [event[0] for event in scene.events] == ["alarm", "alarm_over"]
    kept = await scene.store.load(KIND, "")
    assert kept is not None
    assert json.loads(kept[1]) == []


async def test_an_alarm_of_a_process_that_ended_does_not_outlive_it(scene: Scene) -> None:
    totals: list[Any] = [0, {"invalid": 0}]
    scene.watch._reported = lambda: (totals[0], totals[1])
    await scene.watch.rejected_rewards()
    began = scene.time
    for _ in range(9):
        totals[0] += 40
        totals[1]["invalid"] += 40
        scene.time += 50
        await scene.watch.rejected_rewards()
    kept = await scene.store.load(KIND, "")
    assert kept is not None
    assert json.loads(kept[1])[0]["since"] == began + 50
    other = Scene(scene.store)
    other.time = scene.time + FORGOTTEN_S - 60
    await other.watch.forgotten()
    assert other.events == [], "it was renewed"
    other.time += 60
    await other.watch.forgotten()
    assert other.events == [("alarm_over", "", "rewards_rejected")]
    kept = await scene.store.load(KIND, "")
    assert kept is not None
    assert json.loads(kept[1]) == []


async def test_copies_that_are_too_large_are_an_alarm_until_they_stop(scene: Scene) -> None:
    totals: list[Any] = [1000, {"r": 40, "s": 10}]  # 5 %
    scene.watch._copies = lambda: (totals[0], totals[1])
    scene.time += 10
    await scene.watch.large_bodies()
    assert scene.raised == []
    totals[:] = [1001, {"r": 41, "s": 10}]
    scene.time += 10
    await scene.watch.large_bodies()
    assert scene.raised == [("", "shadow_body_too_large")]
    kept = await scene.store.load(KIND, "")
    assert kept is not None
    (alarm,) = json.loads(kept[1])
    assert alarm["message"].startswith("51 of 1001 copies for shadows were not sent in the last 5 minutes")
    assert "41 of them on the route 'r'" in alarm["message"]
    scene.time += 301
    await scene.watch.large_bodies()
    assert scene.events[-1] == ("alarm_over", "", "shadow_body_too_large")


async def test_alarms_are_shown_though_the_verdicts_of_a_route_cannot_be_read(scene: Scene) -> None:
    async def unreadable(_: str) -> None:
        raise ValueError("damaged")

    def part(**given: object) -> Any:
        return SimpleNamespace(**given)

    metrics, canary = (
        Metrics(),
        "{type: canary, baseline: v1, candidate: v2, stages: [{weight: 5%, for: 1m}]}",
    )
    gauges = StatusGauges(
        metrics, scene.store, part(rollout_verdicts=unreadable), scene.allocations, part(waiting_bytes=0),
        StoreOutage(), part(state_time=None), part(),
    )  # fmt: skip
    scene.lost = 1
    await scene.watch.record_loss()
    await gauges.step(load(one_route(canary), source="test", env={}))
    shown = {"route": "", "code": "record_loss"}
    assert metrics.registry.get_sample_value("turnout_alarm_standing", shown) == 1


async def test_copies_that_were_too_large_before_the_first_look_count(scene: Scene) -> None:
    scene.watch._copies = lambda: (31, {"r": 30})
    await scene.watch.large_bodies()
    assert scene.raised == [("", "shadow_body_too_large")]
