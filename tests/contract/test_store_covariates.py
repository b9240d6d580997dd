"""Values count together with each covariate of their decision, whatever becomes of the values."""

from __future__ import annotations

import random
from math import fsum
from typing import Any

import pytest

from gateway.ingest.evidence import joined
from gateway.record.context import covariates_of, pack_values
from gateway.record.events import Reward
from gateway.state.base import Retention
from gateway.state.store import Store
from policies.contextual.features import GRID, Covariate, SegmentFeature
from policies.types import PairSums, RewardSums
from tests.support.made import T0, outcome, reward

SIZE, CART = Covariate("size", 0, 100), Covariate("cart", -1, 1)
LAND = SegmentFeature("land", ("de",))


def context(size: float | None, cart: float | None = None, land: bool = False) -> str:
    values = [(c.id, c.encode(value)[0]) for c, value in ((SIZE, size), (CART, cart)) if value is not None]
    return pack_values([LAND.segments["de"]] if land else [], values).hex()


async def pairs(store: Store, covariate: Covariate, variant: str = "v1") -> PairSums:
    found = joined(await store.reward_sums("digits")).get((variant, "correct"))
    return PairSums() if found is None else found.covariates.get(covariate.id.hex(), PairSums())


async def test_corrections_and_retractions_take_the_pair_along(store: Store) -> None:
    one = reward(3.0, context=context(75, -0.5))
    await store.reward([one, reward(1.0, context=context(25)), reward(7.0)])
    both = PairSums(RewardSums(2, 0.0, 0.5), RewardSums(2, 4.0, 10.0), RewardSums(2, 4.0, 12.5))
    assert await pairs(store, SIZE) == both
    assert await pairs(store, CART) == PairSums(*(RewardSums(1, s, s * s) for s in (-0.5, 3.0, 2.5)))
    await store.reward([one])
    assert await pairs(store, SIZE) == both
    await store.reward([one._replace(value=5.0)])
    assert (await pairs(store, SIZE)).both == RewardSums(2, 6.0, 30.5)
    await store.reward([one._replace(value=None)])
    assert await pairs(store, SIZE) == PairSums(*(RewardSums(1, s, s * s) for s in (-0.5, 1.0, 0.5)))
    assert await pairs(store, CART) == PairSums()
    assert (await store.reward_sums("digits"))["v1", "correct"] == RewardSums(2, 8.0, 50.0)
    assert await store.metric_names() == ["correct"]


async def test_both_stores_tell_what_the_values_do(store: Store) -> None:
    """Over corrections, retractions and rescued decisions; segments and units have no pairs of their own."""
    rng = random.Random(9)
    final: dict[bytes, Reward] = {}
    for _ in range(200):
        if final and rng.random() < 0.4:
            old = rng.choice(list(final.values()))
            one = old._replace(value=rng.choice([None, rng.uniform(-9, 9)]), time=old.time + rng.random())
        else:
            served = rng.choice(["v1", "v2"])
            about = outcome(T0 + rng.randrange(40), assigned=rng.choice(["v1", "v2"]), served=served)
            where = context(rng.choice([None, 120, rng.uniform(0, 100)]), rng.uniform(-1, 1), land=True)
            one = reward(rng.uniform(-9, 9), of=about, worst=-9.0, context=where)
        final[one.decision] = one
        await store.reward([one])
    for variant in ("v1", "v2"):
        for covariate in (SIZE, CART):
            values = []
            for one in final.values():
                found = dict(covariates_of(one.context))
                if one.value is not None and one.assigned == variant and covariate.id.hex() in found:
                    counted = one.value if one.assigned == one.served else -9.0
                    values.append((found[covariate.id.hex()] / GRID, counted))
            seen = await pairs(store, covariate, variant)
            assert seen.x == RewardSums(len(values), *exact([x for x, _ in values]))
            assert seen.y == RewardSums(len(values), *exact([y for _, y in values]))
            assert seen.both == RewardSums(len(values), *exact([x + y for x, y in values]))
    assert not any("|x" in name for _, name in await store.reward_sums("digits", segments=True))
    whole = joined(await store.reward_sums("digits"))
    buckets = await store.series("digits", since=T0, until=T0 + 60, step=60.0)
    for bucket in buckets:
        (part,) = joined({(bucket.variant, name): s for name, s in bucket.rewards.items()}).values()
        assert part.covariates.keys() == whole[bucket.variant, "correct"].covariates.keys()


def exact(values: list[float]) -> tuple[float, Any]:
    return fsum(values), pytest.approx(fsum(v * v for v in values))


async def test_pairs_are_folded_with_the_rest(store: Store) -> None:
    rows = [reward(float(n), of=outcome(T0 + 10 * n), context=context(10 * n)) for n in range(5)]
    await store.reward(rows)
    before = await pairs(store, SIZE)
    while await store.prune(Retention(), now=T0 + 5 * 86_400):
        pass
    assert await pairs(store, SIZE) == before
    assert before.y == RewardSums(5, 10.0, 30.0)
    await store.reward([row._replace(value=None) for row in rows])
    while await store.prune(Retention(), now=T0 + 6 * 86_400):
        pass
    assert await store.reward_sums("digits") == {}
