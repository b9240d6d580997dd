"""Rewards: upserted, subtractable, in order."""

from __future__ import annotations

import asyncio
import math

import pytest

from gateway.state.base import RewardResult
from gateway.state.store import Store
from policies.types import RewardSums
from tests.support.made import T0, outcome, reward, shadowed


async def sums_of(store: Store, variant: str = "v1", metric: str = "correct") -> RewardSums:
    return (await store.reward_sums("digits")).get((variant, metric), RewardSums())


async def test_a_report_counts_once(store: Store) -> None:
    one = reward(0.5)
    assert await store.reward([one]) == ["accepted"]
    assert await store.reward([one]) == ["duplicate"]
    assert await store.reward([one._replace(time=one.time + 9, tags='{"a":1}')]) == ["duplicate"]
    assert await sums_of(store) == RewardSums(1, 0.5, 0.25)
    assert (await store.decision(one.decision)).rewards == (one,)


async def test_a_correction_replaces_and_a_retraction_takes_away(store: Store) -> None:
    one = reward(0.5)
    other = reward(2.0)
    await store.reward([one, other])
    assert await store.reward([one._replace(value=3.0)]) == ["updated"]
    assert await sums_of(store) == RewardSums(2, 5.0, 13.0)
    assert await store.reward([one._replace(value=None)]) == ["updated"]
    assert await sums_of(store) == RewardSums(1, 2.0, 4.0)
    assert await store.reward([one._replace(value=None)]) == ["duplicate"]
    assert await store.reward([one]) == ["updated"]
    assert await sums_of(store) == RewardSums(2, 2.5, 4.25)


async def test_the_version_of_rewards_moves_with_those_of_the_route_alone(store: Store) -> None:
    one, seen = reward(0.5), [await store.rewards_version("digits")]
    for value in (0.5, 1.0, None):
        await store.reward([reward(1.0, of=outcome(route="other"))])
        assert await store.rewards_version("digits") == seen[-1]
        await store.reward([one._replace(value=value)])
        seen.append(await store.rewards_version("digits"))
    assert len(set(seen)) == 4


async def test_retracting_what_was_never_reported_leaves_a_tombstone(store: Store) -> None:
    one = reward(None)
    assert await store.reward([one]) == ["accepted"]
    assert await sums_of(store) == RewardSums()
    assert (await store.decision(one.decision)).rewards == (one,)
    assert await store.reward([one._replace(value=1.0)]) == ["updated"]
    assert await sums_of(store) == RewardSums(1, 1.0, 1.0)


async def test_within_one_batch_order_counts(store: Store) -> None:
    about = outcome()
    values = [1.0, 1.0, 0.0, None, None, 0.25]
    expected: list[RewardResult] = ["accepted", "duplicate", "updated", "updated", "duplicate", "updated"]
    other = reward(7.0, metric="clicks")
    batch = [reward(v, of=about) for v in values]
    assert await store.reward([*batch, other]) == [*expected, "accepted"]
    assert await sums_of(store) == RewardSums(1, 0.25, 0.0625)
    assert await store.reward_sums("digits") == {
        ("v1", "clicks"): RewardSums(1, 7.0, 49.0),
        ("v1", "correct"): RewardSums(1, 0.25, 0.0625),
    }


async def test_a_huge_value_taken_back_leaves_no_trace(store: Store) -> None:
    small = [reward(v, metric="amount") for v in (0.1, 0.2, 0.7)]
    huge = reward(1e90, metric="amount")
    await store.reward(small[:1])
    await store.reward([huge])
    await store.reward(small[1:])
    assert (await sums_of(store, metric="amount")).total == 1e90
    await store.reward([huge._replace(value=None)])
    found = await sums_of(store, metric="amount")
    assert found.count == 3
    assert found.total == math.fsum((0.1, 0.2, 0.7))
    assert found.squares == math.fsum((0.1 * 0.1, 0.2 * 0.2, 0.7 * 0.7))


async def test_rescued_and_forced_decisions(store: Store) -> None:
    await store.reward(
        [
            reward(1.0, worst=0.0),
            reward(1.0, assigned="v2", served="v1", worst=0.0),
            reward(5.0, assigned="v2", served="v1", worst=None, metric="amount"),
            reward(1.0, assigned="v2", served="v2", forced=True),
        ]
    )
    assert await store.reward_sums("digits") == {
        ("v1", "correct"): RewardSums(1, 1.0, 1.0),
        ("v2", "correct"): RewardSums(1, 0.0, 0.0),
        ("v2", "correct|rescued"): RewardSums(1, 0.0, 0.0),
    }
    assert await store.metric_names() == ["correct"]


async def test_a_rescued_decision_keeps_its_value_and_can_be_corrected(store: Store) -> None:
    one = reward(1.0, assigned="v2", served="v1", worst=0.0)
    await store.reward([one])
    assert (await store.decision(one.decision)).rewards == (one,)
    assert await store.reward([one._replace(value=0.5)]) == ["updated"]
    assert await sums_of(store, "v2") == RewardSums(1, 0.0, 0.0)
    await store.reward([one._replace(value=None)])
    assert await sums_of(store, "v2") == RewardSums()


async def test_sums_are_kept_by_the_time_of_the_decision(store: Store) -> None:
    for k in range(4):
        about = outcome(T0 + 10 * k, epoch=1 + k // 2)
        await store.reward([reward(1.0, of=about, time=T0 + 1000)])

    async def count(**limits: float) -> float:
        found = await store.reward_sums("digits", **limits)  # type: ignore[arg-type]
        return sum(s.count for s in found.values())

    assert await count() == 4
    assert await count(since=T0 + 20) == 2
    assert await count(until=T0 + 10) == 1
    assert await count(epoch=1) == 2
    assert await count(epoch=2, since=T0 + 30) == 1
    assert await store.reward_sums("nobody") == {}


async def test_a_replay_never_overrides_what_is_newer(store: Store) -> None:
    one = reward(1.0)
    await store.reward([one._replace(value=0.0, time=one.time + 5)])
    assert await store.reward([one], replay=True) == ["duplicate"]
    assert await sums_of(store) == RewardSums(1, 0.0, 0.0)
    # Not replayed, the later call wins whatever the clocks of the replicas say.
    assert await store.reward([one]) == ["updated"]
    assert await sums_of(store) == RewardSums(1, 1.0, 1.0)


async def test_a_reward_may_come_before_its_outcome(store: Store) -> None:
    about = outcome()
    one = reward(of=about)
    await store.reward([one])
    assert (await store.decision(about.decision)).outcome is None
    await store.append([about], [shadowed(of=about)])
    found = await store.decision(about.decision)
    assert (found.outcome, found.rewards, len(found.shadows)) == (about, (one,), 1)


async def test_all_fields_come_back(store: Store) -> None:
    one = reward(
        -2.5,
        metric="ä b",
        unit=2**64 - 1,
        epoch=2**40,
        propensity=0.1,
        forced=True,
        worst=-9.5,
        tags='{"k":"ü"}',
    )
    await store.reward([one])
    found = (await store.decision(one.decision)).rewards
    assert found == (one,)
    assert found[0].forced is True


async def test_concurrent_reports_of_the_same_count_once(store: Store) -> None:
    batch = [reward(1.0, of=outcome(T0 + i)) for i in range(20)]
    results = await asyncio.gather(*(store.reward(batch[k % 5 :] + batch[: k % 5]) for k in range(10)))
    flat = [result for part in results for result in part]
    assert flat.count("accepted") == 20
    assert flat.count("duplicate") == 180
    assert await sums_of(store) == RewardSums(20, 20.0, 20.0)


@pytest.mark.long
async def test_hundreds_of_callers_at_once(store: Store) -> None:
    results = await asyncio.gather(*(store.reward([reward(of=outcome(T0 + i))]) for i in range(300)))
    assert results == [["accepted"]] * 300
    assert await sums_of(store) == RewardSums(300, 300.0, 300.0)
    await asyncio.gather(*(store.changed() for _ in range(300)))


async def test_metric_names(store: Store) -> None:
    assert await store.metric_names() == []
    await store.reward([reward(1.0, metric=name) for name in ("b", "a", "b")])
    assert await store.metric_names() == ["a", "b"]


async def test_rewards_move_the_change_number(store: Store) -> None:
    before = await store.changed()
    await store.reward([reward()])
    after = await store.changed()
    assert after != before
    await store.append([outcome()])
    assert await store.changed() == after


async def test_sums_up_to_a_time(store: Store) -> None:
    values = [0.1, 5.0, 0.2, -5.0, 0.7]
    for k, value in enumerate(values):
        await store.reward([reward(value, of=outcome(T0 + 10 * k), metric="amount")])
    for k in range(1, 6):
        found = (await store.reward_sums("digits", until=T0 + 10 * k))["v1", "amount"]
        assert found.count == k
        assert math.isclose(found.total, math.fsum(values[:k]), rel_tol=1e-12)
