"""Values count in the segments of their decision as they would as a metric of its own."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from gateway.ingest.segments import by_segment
from gateway.record.context import has_row, pack_values, segments_of
from gateway.record.events import Reward
from gateway.state.base import Retention
from gateway.state.store import Store
from gateway.state.units import SEGMENT
from policies.contextual.features import SegmentFeature
from policies.types import RewardSums
from tests.support.made import T0, outcome, reward

TIER = SegmentFeature("tier", ("free", "paid"))
LAND = SegmentFeature("land", ("de",))
PERIODS = ("", "e1", "e1~shop/2", "e2+", "all")


def context(tier: str | None, land: str | None) -> str:
    return pack_values([TIER.segments[tier], LAND.segments[land]]).hex()


async def sums_in(store: Store, segment: bytes, route: str = "digits") -> dict[tuple[str, str], RewardSums]:
    """The sums in a segment, by variant and the name that they would have as a metric's own."""
    mark = SEGMENT + segment.hex()
    found = await store.reward_sums(route, segments=True)
    return {(v, name.replace(mark, "")): one for (v, name), one in found.items() if mark in name}


def test_the_segments_of_a_decision_are_never_taken_for_a_row() -> None:
    assert segments_of(context("free", None)) == [TIER.segments["free"].hex(), LAND.segments[None].hex()]
    for size in range(1, 24):
        assert not has_row(pack_values([b"\x00" * 6] * size).hex())
    assert segments_of("") == segments_of(bytes(9).hex()) == []


def test_a_further_value_leaves_the_segments_of_the_others() -> None:
    more = SegmentFeature("tier", ("gold", "paid", "free"))
    assert {more.segments[value] for value in ("free", "paid")} == {
        TIER.segments["free"],
        TIER.segments["paid"],
    }
    assert more.segments[None] != TIER.segments[None], "other requests are in it"
    assert not set(LAND.segments.values()) & set(TIER.segments.values())


async def test_a_segment_holds_what_its_own_rewards_would(store: Store) -> None:
    """Of units and of single requests, over corrections, retractions and repetitions, rescued ones included."""
    rng = random.Random(4)
    known: list[tuple[Reward, str]] = []
    for _ in range(160):
        if known and rng.random() < 0.4:
            old, tier = rng.choice(known)
            one = old._replace(value=rng.choice([None, rng.random()]), time=old.time + rng.random())
        else:
            tier, variant = rng.choice(["free", "paid"]), rng.choice(["v1", "v2"])
            period, epoch = rng.choice(PERIODS), rng.randrange(1, 3)
            about = outcome(
                T0 + rng.randrange(40), assigned=variant, served=rng.choice(["v1", "v2"]), epoch=epoch
            )
            where = context(tier, rng.choice(["de", None]))
            one = reward(
                rng.random(), of=about, unit=rng.randrange(6), worst=0.0, period=period, context=where
            )
        known.append((one, tier))
        await store.reward([one])
        if tier == "free":
            period = one.period.partition("~")[0].removesuffix("+")
            alone = one.decision[:6] + b"alone" + one.decision[11:]
            await store.reward([one._replace(decision=alone, route="alone", context="", period=period)])
    assert await sums_in(store, TIER.segments["free"]) == await store.reward_sums("alone")
    whole = await store.reward_sums("digits")
    for aspect in ("", "|sticky", "|rescued"):
        for variant in ("v1", "v2"):
            parts = [
                (await sums_in(store, one)).get((variant, "correct" + aspect), RewardSums())
                for one in TIER.segments.values()
            ]
            assert sum(one.count for one in parts) == whole[variant, "correct" + aspect].count
            assert sum(one.total for one in parts) == pytest.approx(whole[variant, "correct" + aspect].total)
    assert await store.metric_names() == ["correct"]
    assert not any("ipw" in name or SEGMENT in name for _, name in whole)
    every = await store.reward_sums("digits", segments=True)
    for found in (
        await store.reward_sums("digits", since=T0, segments=True),
        await store.reward_sums("digits", until=T0 + 60, segments=True),
    ):
        assert {key: one.count for key, one in found.items()} == {
            key: one.count for key, one in every.items()
        }
    for inside in (True, False):
        buckets = await store.series("digits", since=T0, until=T0 + 60, step=60.0, segments=inside)
        names = {name for bucket in buckets for name in bucket.rewards}
        assert names == {name for _, name in (every if inside else whole)}


async def test_segments_are_folded_with_the_rest(store: Store) -> None:
    free = context("free", None)
    await store.reward([reward(1.0, of=outcome(T0 + 10 * n), context=free) for n in range(5)])
    before = await sums_in(store, TIER.segments["free"])
    while await store.prune(Retention(), now=T0 + 5 * 86_400):
        pass
    buckets = await store.series("digits", since=T0 - 86_400, until=T0 + 86_400, step=3600.0, segments=True)
    name = f"correct{SEGMENT}{TIER.segments['free'].hex()}"
    assert [b.rewards[name].count for b in buckets if name in b.rewards] == [5]
    assert (
        await sums_in(store, TIER.segments["free"]) == before == {("v1", "correct"): RewardSums(5, 5.0, 5.0)}
    )


async def test_a_past_day_is_read_by_hour_only_where_its_shares_moved(store: Store) -> None:
    """Each value is that of its hour, so variants differ only in a bucket that mixes hours of other shares."""
    day, free = T0 // 86_400 * 86_400, context("free", None)
    outcomes, rewards = [], []
    for hour in range(48):
        first = hour + 1 if hour < 24 else 12  # of 25 requests
        for n in range(25):
            variant, share = ("v1", first / 25) if n < first else ("v2", 1 - first / 25)
            about = outcome(
                day + 3600 * hour, assigned=variant, served=variant, epoch=hour + 1, propensity=share
            )
            outcomes.append(about)
            rewards.append(reward(float(hour), of=about, context=free))
    await store.append(outcomes)
    await store.reward(rewards)
    for age in (4, 20):
        (segment,) = await by_segment(
            store, "digits", [TIER.segments["free"]], now=day + age * 86_400, epochs=False
        )
        means: dict[tuple[float, int], set[float]] = defaultdict(set)
        for bucket in segment.buckets:
            one = bucket.rewards["correct"].values
            means[bucket.start, bucket.epoch].add(round(one.total / one.count, 6))
        assert all(len(each) == 1 for each in means.values()), "one mean of both variants"
        starts = sorted({start for start, _ in means})
        assert starts == [*(day + 3600 * hour for hour in range(24)), day + 86_400]
        while await store.prune(Retention(), now=day + age * 86_400):
            pass
