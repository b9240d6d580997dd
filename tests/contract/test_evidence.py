"""What rewards amount to: missing ones at the window's end, and units once, over every store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.config.service import MetricConfig
from gateway.ingest.comparable import periods
from gateway.ingest.evidence import (
    Rewarded,
    by_time,
    ended_before,
    observations,
    of_buckets,
    over_time,
    rewarded,
    share_observed,
)
from gateway.loops.guardrail_evidence import _add
from gateway.record.events import Outcome
from gateway.state.base import Bucket, Counts, Retention
from gateway.state.store import Store
from policies.allocation.bandit import discounted
from policies.bayes.prior import posteriors
from policies.sequential.stratified import StratifiedComparison
from policies.types import CLIENT_ERROR_RATE, MetricType, PairSums, RewardSums
from tests.support.made import T0, outcome, reward


def declared_as(kind: MetricType = "boolean", **more: Any) -> MetricConfig:
    return MetricConfig(type=kind, **{"window": 60.0, "missing": "zero", **more})


ZERO = {"correct": declared_as()}


async def read(store: Store, now: float, metrics: Any = ZERO, **limits: Any) -> dict[str, Rewarded]:
    """By variant, of the one metric that clients report."""
    found = await rewarded(store, "digits", metrics, now=now, **limits)
    return {variant: one for (variant, metric), one in found.items() if metric in metrics}


def of(number: float, good: float = 0.0) -> RewardSums:
    return RewardSums(number, good, good)


@pytest.mark.parametrize("declared", [ZERO, {"correct": declared_as(missing="ignore")}])
async def test_sums_that_a_later_release_adds_are_not_counted(declared: Any) -> None:
    """Replicas of two releases share a store during an upgrade, and the earlier one may lead."""
    counts, sums = Counts(assigned=20, served=20), {"correct": of(4, 2), "correct|sticky": of(3, 1)}
    later = sums | {"correct|units": of(2, 1), "correct|halved": of(40, 40), "correct|late units": of(9)}
    known, found = (
        of_buckets([Bucket(T0, "v1", 1, counts, given)], declared, now=T0 + 9)
        for given in (sums | {"correct|units": of(2, 1)}, later)
    )
    assert found == known


async def test_missing_counts_when_the_window_is_over_for_all_variants_alike(store: Store) -> None:
    rows = [outcome(T0 + k, assigned=v, served=v) for k in range(10) for v in ("v1", "v2")]
    await store.append(rows)
    await store.reward([reward(1.0, of=row) for row in rows[:6] if row.assigned == "v1"])
    before = await read(store, T0 + 69.9)
    assert before == {"v1": Rewarded(waiting=3)}, "values wait as well, or the newest would look best"
    after = await read(store, T0 + 70)
    assert after == {"v1": Rewarded(of(10, 3), of(10, 3), 7), "v2": Rewarded(of(10), of(10), 10)}
    assert await read(store, T0 + 9999) == after, "exactly once"
    ignored = {"correct": declared_as(missing="ignore")}
    assert await read(store, T0 + 9999, ignored) == {"v1": Rewarded(of(3, 3), of(3, 3))}


async def test_a_bucket_that_straddles_the_end_of_the_window_waits_until_it_is_whole(store: Store) -> None:
    await store.append([outcome(T0 + k) for k in range(20)])
    assert (await read(store, T0 + 75))["v1"].missing == 10
    assert (await read(store, T0 + 79.9))["v1"].missing == 10
    assert (await read(store, T0 + 80))["v1"].missing == 20


async def test_corrections_retractions_and_duplicates(store: Store) -> None:
    rows = [outcome(T0 + k) for k in range(10)]
    await store.append(rows)
    one = reward(1.0, of=rows[0])
    for report, good, missing in ((one, 1, 9), (one, 1, 9), (one._replace(value=0.0), 0, 9)):
        await store.reward([report])
        assert await read(store, T0 + 100) == {"v1": Rewarded(of(10, good), of(10, good), missing)}
    await store.reward([one._replace(value=None)])
    assert await read(store, T0 + 100) == {"v1": Rewarded(of(10), of(10), 10)}


async def test_forced_decisions_count_nowhere(store: Store) -> None:
    rows = [outcome(T0 + k, forced=k % 2 == 0) for k in range(10)]
    await store.append(rows)
    await store.reward([reward(1.0, of=rows[0]), reward(1.0, of=rows[1])])
    assert (await read(store, T0 + 100))["v1"] == Rewarded(of(5, 1), of(5, 1), 4)


def failed(time: float, served: str) -> Outcome:
    return outcome(time, assigned="v2", served=served, error="backend_reset", fallback=bool(served))


@pytest.mark.parametrize(("goal", "worst"), [("maximize", 0.0), ("minimize", 1.0)])
async def test_a_failure_earns_the_worst_reported_or_not(store: Store, goal: str, worst: float) -> None:
    """Of ten decisions of v2 four failed: two were rescued, and of one of these a value was reported."""
    rows = [outcome(T0 + k, assigned="v2", served="v2") for k in range(6)]
    rows += [failed(T0 + 6, "v1"), failed(T0 + 7, "v1"), failed(T0 + 8, ""), failed(T0 + 9, "")]
    await store.append(rows)
    await store.reward([reward(1.0, of=rows[0]), reward(0.5, of=rows[6], worst=worst)])
    found = await read(store, T0 + 100, {"correct": declared_as(goal=goal)})
    unreported = of(3 * worst, 3 * worst)
    assert found == {"v2": Rewarded(of(10, 1 + 4 * worst), of(10, 1 + 4 * worst), 8, worst=unreported)}


async def test_without_a_worst_value_a_failure_is_a_zero(store: Store) -> None:
    rows = [outcome(T0, assigned="v2", served="v2"), failed(T0 + 1, "v1"), failed(T0 + 2, "")]
    await store.append(rows)
    await store.reward([reward(7.0, of=rows[0]), reward(5.0, of=rows[1], worst=None)])
    found = await read(store, T0 + 100, {"correct": declared_as("real")})
    assert found["v2"] == Rewarded(RewardSums(3, 7.0, 49.0), RewardSums(3, 7.0, 49.0), 2)


async def test_values_of_decisions_that_the_record_lost_make_nothing_negative(store: Store) -> None:
    await store.reward([reward(1.0, of=outcome(T0)) for _ in range(3)])
    await store.append([outcome(T0)])
    assert (await read(store, T0 + 100))["v1"] == Rewarded(of(3, 3), of(3, 3))


async def test_epochs_and_limits(store: Store) -> None:
    rows = [outcome(T0 + 10 * k, epoch=1 + k // 2) for k in range(6)]
    await store.append(rows)
    await store.reward([reward(1.0, of=rows[2])])
    assert (await read(store, T0 + 500, epoch=1))["v1"].missing == 2
    assert (await read(store, T0 + 500, epoch=2))["v1"] == Rewarded(of(2, 1), of(2, 1), 1)
    assert (await read(store, T0 + 500, since=T0 + 40))["v1"].missing == 2
    assert (await read(store, T0 + 500, until=T0 + 20))["v1"].missing == 2
    assert (await read(store, T0 + 90, since=T0 + 10, until=T0 + 60))["v1"].missing == 1
    assert await read(store, T0 + 500, since=T0 + 480) == {}


@pytest.mark.slow
async def test_folding_changes_nothing(store: Store) -> None:
    long = {"correct": declared_as(window=3 * 3600.0)}
    rows = [outcome(T0 + 30 * k) for k in range(600)]
    await store.append(rows)
    await store.reward([reward(1.0, of=row) for row in rows[::3]])
    for age in (5 * 3600, 9 * 3600, 60 * 3600, 200 * 3600):
        now = T0 + age
        unfolded = await read(store, now, long)
        while await store.prune(Retention(), now=now):
            pass
        assert await read(store, now, long) == unfolded
    assert unfolded["v1"] == Rewarded(of(600, 200), of(600, 200), 400)


@pytest.mark.parametrize("window", [10.0, 3600.0, 7190.0, 7200.0, 86_400.0, 7 * 86_400.0])
def test_a_cell_that_may_be_folded_is_taken_whole_or_not_at_all(window: float) -> None:
    for now in (T0, T0 + 3, T0 + 59, T0 + 3599.5, T0 + 86_399):
        edge = ended_before(now, window)
        assert edge <= now - window
        width = 10 if window < 7140 else 60 if window < 172_740 else 3600
        assert edge % width == 0
        assert now - window - edge < width


async def test_buckets_and_sums_agree(store: Store) -> None:
    rows = [outcome(T0 + 7 * k, assigned=v, served=v) for k in range(40) for v in ("v1", "v2")]
    await store.append(rows)
    await store.reward([reward(float(k % 2), of=row) for k, row in enumerate(rows[:50])])
    for step in (10.0, 30.0):
        buckets = await store.series("digits", since=T0, until=T0 + 400, step=step)
        for now in (T0 + 100, T0 + 200.0, T0 + 1000):
            total: dict[str, Rewarded] = {}
            for bucket in of_buckets(buckets, ZERO, now=now, step=step):
                one = bucket.rewards.get("correct", Rewarded())
                total[bucket.variant] = total.get(bucket.variant, Rewarded()) + one
            if step == 10.0 or now > T0 + 900:
                shown = {v: one for v, one in total.items() if one.values.count or one.waiting}
                assert shown == await read(store, now)
    each = list(by_time(of_buckets(buckets, ZERO, now=T0 + 1000, step=30)))
    assert sum(sums["v1", "correct"].count for _, sums in each if ("v1", "correct") in sums) == 40


async def test_missing_values_of_units_enter_as_the_reported_ones_do(store: Store) -> None:
    """Two units of ten requests, of which half are reported: two observations and as many that are missing."""
    rows = [outcome(T0 + k % 10, unit=k // 10) for k in range(20)]
    await store.append(rows)
    await store.reward([reward(1.0, of=row, period="all") for row in rows[::2]])
    found = await rewarded(store, "digits", ZERO, now=T0 + 100)
    each = RewardSums(2, 5.0, 12.5)
    weighted = PairSums(each, each, RewardSums(2, 10.0, 50.0))
    assert found["v1", "correct"] == Rewarded(of(20, 10), of(4, 2), 10, weighted=weighted)
    assert observations(found) == {("v1", "correct"): of(4, 2), ("v1", CLIENT_ERROR_RATE): of(20)}
    assert share_observed([{"correct": found["v1", "correct"]}], "correct") == 0.2


async def test_missing_values_do_not_favour_the_variant_whose_units_send_less(store: Store) -> None:
    """Half of the requests of each variant are rewarded: v1's come from one unit, v2's from five."""
    rows = [outcome(T0 + k % 10, unit=1) for k in range(10)]
    rows += [outcome(T0 + k % 10, unit=2 + k // 2, assigned="v2", served="v2") for k in range(10)]
    await store.append(rows)
    await store.reward([reward(1.0, of=row, period="all") for row in rows[::2]])
    found = observations(await rewarded(store, "digits", ZERO, now=T0 + 100))
    assert {v: sums for (v, metric), sums in found.items() if metric == "correct"} == {
        "v1": of(6, 3),
        "v2": of(6, 3),
    }


async def test_limits_that_cut_through_periods_estimate_the_observations(store: Store) -> None:
    rows = [outcome(T0 + 100 * k, unit=k % 2) for k in range(20)]
    await store.append(rows)
    await store.reward([reward(1.0, of=row, period="e1") for row in rows])
    ignored = {"correct": declared_as(missing="ignore")}
    whole = await read(store, T0 + 9999, ignored)
    assert whole["v1"] == Rewarded(of(20, 20), of(2, 2))
    assert (await read(store, T0 + 9999, ignored, since=T0 + 1000))["v1"] == Rewarded(
        of(10, 10), RewardSums()
    )
    part = await read(store, T0 + 9999, ignored, since=T0 + 1000, part=True)
    assert part["v1"] == Rewarded(of(10, 10), of(1, 1))


@pytest.mark.slow
async def test_reading_while_rewards_come_in_counts_nothing_twice(store: Store) -> None:
    rows = [outcome(T0 + k / 10) for k in range(200)]
    await store.append(rows)

    async def write() -> None:
        for row in rows:
            await store.reward([reward(1.0, of=row)])

    writing = asyncio.create_task(write())
    while not writing.done():
        found = await read(store, T0 + 90)
        assert found["v1"].missing >= 0
        assert found["v1"].values.count <= 200
    await writing
    assert (await read(store, T0 + 90))["v1"] == Rewarded(of(200, 200), of(200, 200))


async def test_what_comes_for_a_folded_epoch_counts_with_its_decisions_at_once(store: Store) -> None:
    """Else a value would be of no decision, and a unit's new mean of no unit, until the next rung of the ladder."""
    minute = T0 // 3600 * 3600
    times = {1: -30, 2: 5, 3: 25, 4: 35, 5: 45, 6: 90}
    shares = {1: 0.5, 2: 0.5, 3: 0.1, 4: 0.5, 5: 0.1, 6: 0.1}
    rows = [
        outcome(minute + at, epoch=epoch, assigned=v, served=v, propensity=p, unit=7)
        for epoch, at in times.items()
        for v, p in (("v1", shares[epoch]), ("v2", 1 - shares[epoch]))
        for _ in range(5)
    ]
    of_second = [reward(0.0, of=row, unit=7, period="all") for row in rows if row.epoch == 2]
    await store.append(rows)
    await store.reward([of_second[0], of_second[5]])
    now = minute + 3 * 3600
    while await store.prune(Retention(), now=now):
        pass
    await store.reward([of_second[1]._replace(value=1.0)])
    found = await over_time(store, "digits", {"correct": declared_as(missing="ignore")}, now=now)
    told = {b.variant: (b.counts.assigned, b.rewards["correct"]) for b in found if "correct" in b.rewards}
    assert told["v1"][0] == told["v2"][0] == 10
    assert told["v1"][1].values == RewardSums(2, 1.0, 1.0)
    assert told["v1"][1].observations == RewardSums(1, 0.5, 0.25)
    assert sum("correct" in b.rewards for b in found) == 2


async def test_variants_are_compared_by_the_shares_of_each_second(store: Store) -> None:
    """Or equal ones would differ where the level of both and a bandit's shares move within the same ten seconds."""
    start = T0 // 3600 * 3600
    seconds = [
        (1, 0.5, 0.2),
        (2, 0.1, 0.6),
        (3, 0.101, 0.6),
    ]  # the last two differ too little to be kept apart
    for epoch, share, level in seconds:
        shares = {"v1": 1 - share, "v2": share}
        rows = [
            outcome(start + epoch, epoch=epoch, assigned=v, served=v, propensity=p)
            for v, p in shares.items()
            for _ in range(round(50 * p))
        ]
        await store.append(rows)
        for variant in shares:
            own = [row for row in rows if row.assigned == variant]
            await store.reward([reward(float(n < level * len(own)), of=row) for n, row in enumerate(own)])
    declared = {"correct": declared_as(missing="ignore")}
    found = await over_time(store, "digits", declared, now=start + 60)
    assert {bucket.epoch for bucket in found} == {1, 3}
    first, second = periods(found).weighted("correct", "v1", "v2")
    assert first.total / first.weight == pytest.approx(second.total / second.weight, abs=1e-3)
    matched: dict[str, StratifiedComparison] = {"v2": StratifiedComparison()}
    _add(matched, "v1", found, declared)
    means = [side.rewards["correct"].mean for side in matched["v2"].evidence({"correct": "boolean"}, 60.0)]
    assert means[0] == pytest.approx(means[1])


async def test_a_correction_that_comes_after_the_fold_leaves_a_posterior(store: Store) -> None:
    """It is newer than what it corrects: with a half-life the values come to more than their number."""
    hour = T0 // 3600 * 3600
    row = outcome(hour + 50)
    await store.append([row])
    await store.reward([reward(0.0, of=row)])
    now = hour + 3 * 3600
    while await store.prune(Retention(), now=now):
        pass
    await store.reward([reward(1.0, of=row)])
    read = await store.series("digits", since=hour, until=now, step=10, epochs="together")
    found = discounted(by_time(of_buckets(read, {}, now=now)), now=now, half_life=3600.0)["v1", "correct"]
    assert found.total > found.count
    assert posteriors("boolean", [found])[0].mean == pytest.approx(1.125 / 2.125, rel=0.01)
