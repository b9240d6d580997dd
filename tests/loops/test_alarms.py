"""The checks that run all the time, over a real store with a clock of our own."""

from __future__ import annotations

import gc
import json
import logging
import warnings
from typing import Any

import numpy as np
import pytest

from gateway.config.load import load
from gateway.loops import early_mismatch, ratio
from gateway.loops.alarms import KIND, RECORD_LOSS_S, distrust
from gateway.loops.ratio import BACK_S, FLUSHED_S, SETTLED_S, Ratios
from gateway.record.events import UNSEEN
from gateway.state.base import Event, OutcomeFilter, StoreUnavailable
from policies.allocation.bucketing import point, unit_hash
from tests.loops.scene import CONFIG, Scene, outcome
from tests.support.made import reward

ONLY_V1 = CONFIG.replace(", v2: {backend: a}", "").replace("v1: 9, v2: 1", "v1: 1")


async def test_a_route_whose_alarms_cannot_be_read_holds_up_no_other(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    text = CONFIG.replace(
        "routes:", "routes:\n  broken:" + CONFIG.partition("  r:")[2].replace("/r", "/broken")
    )
    await scene.store.save(KIND, "broken", "[1]", expected=0)
    await scene.assign(0.5, 2_000, seed=1)
    scene.time += SETTLED_S + FLUSHED_S
    with caplog.at_level(logging.ERROR):
        await scene.watch.step(load(text, source="test", env={}))
    assert ("r", "sample_ratio_mismatch") in scene.raised
    assert "ocument alarms 'broken'" in caplog.text
    assert await scene.store.load(KIND, "broken") is None


async def test_a_look_that_fails_leaves_nothing_behind(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coroutine that is never awaited is a RuntimeWarning in the log, for each look while the store is away."""

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Ratios, "look", away)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(StoreUnavailable):
            await scene.look()
        gc.collect()
    assert told == []


@pytest.mark.long
async def test_a_healthy_route_raises_nothing(scene: Scene) -> None:
    for seed in range(30):
        await scene.assign(0.1, 500, seed)
        scene.time += 60
        assert await scene.look() == []
    assert scene.events == []


@pytest.mark.long
async def test_a_broken_split_is_noticed_told_once_and_kept_for_all(scene: Scene) -> None:
    found: list[str] = []
    for seed in range(30):
        await scene.assign(0.2, 500, seed)
        scene.time += 60
        found = await scene.look()
    assert found == ["sample_ratio_mismatch"]
    assert scene.events == [("alarm", "r", "sample_ratio_mismatch")]
    assert scene.raised == [("r", "sample_ratio_mismatch")]
    kept = await scene.store.load("alarms", "r")
    assert kept is not None
    assert "expected" in json.loads(kept[1])[0]["message"]


@pytest.mark.parametrize("unit", ["", "    unit: {header: x-user-id}\n"], ids=["requests", "units"])
@pytest.mark.parametrize(
    "waits",
    [
        "    timeouts: {first_byte: 60s}\n",
        "    timeouts: {first_byte: 20s}\n    retry: {attempts: 3, on: {timeout: true}, replayable: true}\n",
    ],
    ids=["once", "retried"],
)
async def test_decisions_whose_backend_hangs_are_waited_for(scene: Scene, unit: str, waits: str) -> None:
    """They are recorded at their timeout: the alarm would pause a rollout whose candidate hangs, with its share."""
    scene.document = load(CONFIG.replace("    variants", f"{unit}{waits}    variants"), source="test", env={})
    await scene.assign(0.0, 2000, seed=1)
    scene.time += 55
    await scene.watch.step(scene.document)
    assert scene.events == []
    scene.time += FLUSHED_S + 10
    await scene.watch.step(scene.document)
    assert scene.events == [("alarm", "r", "sample_ratio_mismatch")], "these are lost"


async def test_early_evidence_of_a_broken_split_is_kept_without_an_alarm(scene: Scene) -> None:
    """And is as old as the alarm that follows it, and ends with its cause."""

    async def kept() -> dict[str, Any]:
        scene.time += SETTLED_S + FLUSHED_S
        await scene.watch.step(scene.document)
        stored = await scene.store.load(early_mismatch.KIND, "r")
        return dict(json.loads(stored[1])) if stored is not None else {}

    await scene.assign(0.1, 500, seed=1)
    assert await kept() == {}
    await scene.assign(0.2, 300, seed=1)
    raised = await kept()
    assert (raised["since"], "v2:" in raised["message"]) == (scene.time, True)
    assert (await kept(), scene.events) == (raised, [])
    await scene.assign(0.25, 200, seed=1)
    assert (await kept())["message"] == ""
    assert scene.events == [("alarm", "r", "sample_ratio_mismatch")]
    alarmed = scene.time
    await scene.assign(0.03, 200, seed=4)
    assert (await kept())["since"] == alarmed
    assert scene.events[1:] == [("alarm_over", "r", "sample_ratio_mismatch")]


STICKY = CONFIG.replace("    variants", "    unit: {header: x-user-id}\n    variants")


async def of_users(scene: Scene, users: range, *, lost: float = 0.0, times: int = 2, seed: int = 0) -> None:
    """Ten seconds in which each user comes ``times`` times on average, a few far more often. Of those that are
    given v2 a share is ``lost``: never seen at all."""
    rng = np.random.default_rng(seed)
    table = scene.allocations.held["r"].allocation
    rows = []
    for n, user in enumerate(rng.zipf(1.5, len(users) * times) % len(users) + users.start):
        unit = unit_hash(b"r", str(user).encode())
        assigned = table.variants[table.pick(point(unit))]
        if assigned == "v2" and user % 100 < lost * 100:
            continue
        row = outcome(int(scene.time * 1000) + n, scene.time + n % 1000 / 100, assigned, 0.1)
        rows.append(row._replace(unit=unit, sticky=True))
    await scene.store.append(rows)
    scene.time += 10.0


@pytest.mark.long
async def test_a_sticky_route_is_tested_by_its_units(scene: Scene) -> None:
    """One busy user is no mismatch; users that one variant loses are."""
    scene.document = load(STICKY, source="test", env={})
    for turn in range(5):
        await of_users(scene, range(2000), seed=turn)
        scene.time += 60
        assert await scene.look() == []
    for turn in range(1, 4):
        await of_users(scene, range(10_000 * turn, 10_000 * turn + 2000), lost=0.7, seed=turn)
        scene.time += 60
        await scene.look()
    assert scene.events == [("alarm", "r", "sample_ratio_mismatch")]
    kept = await scene.store.load("alarms", "r")
    assert kept is not None
    assert "in units" in json.loads(kept[1])[0]["message"]


@pytest.mark.parametrize("sticky", [False, True], ids=["requests", "units"])
async def test_a_clock_that_was_a_year_ahead_leaves_no_route_untested(scene: Scene, sticky: bool) -> None:
    if sticky:
        scene.document = load(STICKY, source="test", env={})
    scene.time += 365 * 86_400
    assert await scene.look() == []
    scene.time -= 365 * 86_400
    for turn in range(3):
        if sticky:
            await of_users(scene, range(3000 * turn, 3000 * (turn + 1)), lost=0.7, seed=turn)
        else:
            await scene.assign(0.3, 300, turn)
        scene.time += 60
        await scene.look()
    assert scene.events == [("alarm", "r", "sample_ratio_mismatch")]


@pytest.mark.long
async def test_a_quiet_hour_of_a_sticky_route_is_read_together(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour in steps of ten seconds took 46 % of a core for minutes, at each start with 300 routes."""
    reads: list[float] = []
    exposures = scene.store.exposures

    async def counted(name: str, *, since: float, until: float, below: int) -> Any:
        reads.append(until - since)
        return await exposures(name, since=since, until=until, below=below)

    monkeypatch.setattr(scene.store, "exposures", counted)
    scene.document = load(STICKY, source="test", env={})
    await scene.look()
    assert reads == [BACK_S]


async def test_a_new_leader_goes_on_with_the_units_that_were_seen(scene: Scene) -> None:
    scene.document = load(STICKY, source="test", env={})
    for turn in range(6):
        await of_users(scene, range(2000), seed=turn)
        scene.time += 70
        await scene.look()
    before = await scene.watch._ratios.look("r", scene.document.routes["r"])
    assert await scene.store.load(ratio.KIND, "r") is not None, "what was kept is not taken for damage"
    other = Ratios(scene.store, lambda: scene.time)
    after = await other.look("r", scene.document.routes["r"])
    assert before is not None
    assert after is not None
    assert before[0].counts == after[0].counts
    assert 500 < sum(after[0].counts.values()) <= 2000, "each user once"


@pytest.mark.long
async def test_an_edited_route_is_tested_anew_by_units_that_are_new(scene: Scene) -> None:
    scene.document = load(STICKY, source="test", env={})
    await of_users(scene, range(2000))
    scene.time += 70
    await scene.look()
    scene.document = load(STICKY.replace("    unit", "    body_limit: 1MiB\n    unit"), source="test", env={})
    await of_users(scene, range(2000))
    await of_users(scene, range(5000, 5100))
    scene.time += 70
    found = await scene.watch._ratios.look("r", scene.document.routes["r"])
    assert found is not None
    assert 50 < sum(found[0].counts.values()) < 350, "those of the first time are known"


@pytest.mark.parametrize("fields", [{}, {"status": UNSEEN, "served": ""}], ids=["served", "decided"])
async def test_silent_rewards_are_an_alarm_where_the_policy_needs_them(
    scene: Scene, fields: dict[str, Any]
) -> None:
    bandit = CONFIG.replace("{type: split, weights: {v1: 9, v2: 1}}", "{type: bandit, metric: correct}")
    await scene.assign(0.1, 5000, 1, **fields)
    assert await scene.look() == []
    scene.document = load(bandit, source="test", env={})
    assert await scene.look() == []  # not missing yet, only late
    scene.time += 400
    assert await scene.look() == ["no_rewards"]
    (one,) = await scene.store.outcomes(OutcomeFilter(variant="v1", limit=1))
    await scene.store.reward([reward(of=one, served=one.assigned)])
    assert await scene.look() == ["no_rewards"]
    scene.document = load(ONLY_V1, source="test", env={})
    assert await scene.look() == [], "the silent one was removed"
    scene.document = load(bandit, source="test", env={})
    await scene.assign(0.1, 200, 2, **fields)
    found = await scene.store.outcomes(OutcomeFilter(limit=200))
    await scene.store.reward([reward(of=one, served=one.assigned) for one in found])
    scene.time += 60
    assert await scene.look() == [], "a reward of the last minutes is one"


async def test_a_route_whose_variants_all_had_rewards_is_not_summed_over_all_time_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.assign(0.1, 5000, 1)
    found = await scene.store.outcomes(OutcomeFilter(limit=5000))
    await scene.store.reward([reward(of=one) for one in found[:200]])
    scene.time += 400
    assert await scene.look() == []
    asked: list[str] = []
    for name in ("counts", "decided", "reward_sums"):
        real = getattr(scene.store, name)

        def spied(*args: Any, name: str = name, real: Any = real, **limits: Any) -> Any:
            if "since" not in limits:
                asked.append(name)
            return real(*args, **limits)

        monkeypatch.setattr(scene.store, name, spied)
    assert await scene.look() == []
    assert asked == []
    scene.document = load(
        CONFIG.replace("v2: {backend: a}", "v2: {backend: a}, v3: {backend: a}"), source="", env={}
    )
    assert await scene.look() == []
    assert asked == ["decided", "reward_sums"]


async def test_silence_is_an_answer_where_missing_is_zero(scene: Scene) -> None:
    bandit = CONFIG.replace("{type: split, weights: {v1: 9, v2: 1}}", "{type: bandit, metric: correct}")
    scene.document = load(bandit.replace("boolean", "boolean, missing: zero"), source="test", env={})
    await scene.assign(0.1, 5000, 1)
    scene.time += 400
    assert await scene.look() == []


async def test_a_lossy_record_is_told_by_whoever_lost(scene: Scene) -> None:
    await scene.watch.record_loss()
    assert scene.events == []
    scene.lost = 7
    await scene.watch.record_loss()
    await scene.watch.record_loss()
    assert scene.events == [("alarm", "", "record_loss")]


async def test_a_loss_is_over_after_a_day(scene: Scene) -> None:
    """It stood without end: a bandit's guardrails ejected nothing any more, and its stop rule named no winner."""
    began, scene.lost = scene.time, 7
    await scene.watch.step(scene.document)
    scene.time += RECORD_LOSS_S - 60
    scene.lost = 9
    await scene.watch.step(scene.document)
    scene.time += RECORD_LOSS_S - 60
    await scene.watch.step(scene.document)
    assert "2 outcomes" in await distrust(scene.store, "r", began)
    scene.time += 60
    await scene.watch.step(scene.document)
    assert not await distrust(scene.store, "r", began)
    assert scene.events[-1] == ("alarm_over", "", "record_loss")


async def test_a_loss_while_the_store_is_away_is_told_once_it_is_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was forgotten, so that rollouts trusted what was left of the record."""

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    scene.lost = 7
    monkeypatch.setattr(scene.store, "load", away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await scene.watch.record_loss()
    monkeypatch.undo()
    await scene.watch.record_loss()
    assert scene.events == [("alarm", "", "record_loss")]
    stored = await scene.store.load(KIND, "")
    assert stored is not None
    assert json.loads(stored[1])[0]["message"].startswith("7 outcomes")


async def test_no_process_overwrites_the_alarms_of_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = scene.store.save_with_events

    async def late(kind: str, name: str, text: str, **rest: Any) -> list[Event] | None:
        monkeypatch.undo()
        other = [{"code": "rewards_rejected", "message": "9", "since": scene.time}]
        assert await scene.store.save(kind, name, json.dumps(other), expected=rest["expected"])
        return await save(kind, name, text, **rest)

    monkeypatch.setattr(scene.store, "save_with_events", late)
    scene.lost = 7
    await scene.watch.record_loss()
    stored = await scene.store.load(KIND, "")
    assert stored is not None
    assert [alarm["code"] for alarm in json.loads(stored[1])] == ["rewards_rejected", "record_loss"]


async def serve(scene: Scene, requests: int, failing: float, seed: int) -> None:
    """``requests`` over ten seconds, of which ``failing`` of v2's refuse the connection."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(requests):
        made = outcome(int(scene.time * 1000) + n, scene.time + n * 10.0 / requests, "v2", 0.1)
        if rng.random() < failing:
            made = made._replace(served="", status=502, error="backend_connect")
        rows.append(made)
    await scene.store.append(rows)
    scene.time += 10.0


async def failure(scene: Scene) -> str | None:
    """The message of the alarm, if it is raised."""
    alarms = {alarm.code: alarm.message for alarm in await scene.see()}
    return alarms.get("variant_failing")


@pytest.mark.long
async def test_a_variant_that_fails_raises_an_alarm_until_it_serves_again(scene: Scene) -> None:
    """T2: a lone address is never ejected, so nothing else says that the variant is dead."""
    for step in range(60):
        await serve(scene, 20, 0.0, step)
    assert await failure(scene) is None
    for step in range(12):
        await serve(scene, 20, 1.0, step)
    message = await failure(scene)
    assert message is not None
    assert message.startswith("v2 fails: ")
    assert message.endswith("Last error: backend_connect.")
    assert ("r", "variant_failing") in scene.raised
    held = []
    for step in range(60):
        await serve(scene, 20, 0.0, step)
        held.append(await failure(scene))
    assert held[0]
    assert held[-1] is None
    assert ("alarm_over", "r", "variant_failing") in scene.events


async def test_a_few_requests_that_all_fail_are_enough(scene: Scene) -> None:
    for step in range(30):
        await serve(scene, 1, 1.0, step)
        if await failure(scene):
            break
    assert 3 <= step < 15
    scene.document = load(ONLY_V1, source="test", env={})
    assert await failure(scene) is None, "it was removed"


@pytest.mark.long
async def test_the_alarm_does_not_end_where_a_stretch_does(scene: Scene) -> None:
    scene.time = (scene.time // 14_400) * 14_400 - 300.0
    said = []
    for step in range(60):
        await serve(scene, 5, 1.0, step)
        said.append(await failure(scene))
    assert all(said[10:])


@pytest.mark.long
async def test_an_ordinary_error_rate_is_no_alarm(scene: Scene) -> None:
    for seed in range(100):
        await serve(scene, 10, 0.15, seed)
        assert await failure(scene) is None
