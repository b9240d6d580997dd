"""What a route has over all time is the sum of its cells, whatever came, was corrected, folded or forgotten."""

from __future__ import annotations

import math
from random import Random

import pytest

from gateway.record.events import Outcome
from gateway.state import open_store
from gateway.state.base import Bucket, Retention
from gateway.state.store import Store
from policies.types import CLIENT_ERROR_RATE
from tests.support.made import T0, outcome, published, reward

HOUR = 3600.0
DAY = 24 * HOUR


async def _check(store: Store, now: float) -> None:
    """The totals are those of all cells: reading these with a limit goes another way."""
    whole, cells = await store.counts("digits"), await store.counts("digits", since=0.0)
    for variant, counts in cells.items():
        found = whole[variant]
        assert math.isclose(found.expected, counts.expected, abs_tol=1e-6)
        found.expected = counts.expected
        assert found == counts
    assert all(v in cells or not (c.assigned or c.served) for v, c in whole.items())
    assert await store.decided("digits") == await store.decided("digits", since=0.0)
    sums, by_cell = await store.reward_sums("digits"), await store.reward_sums("digits", since=0.0)
    assert sums.keys() == by_cell.keys()
    for key, one in sums.items():
        assert one.count == by_cell[key].count
        assert math.isclose(one.total, by_cell[key].total, rel_tol=1e-12, abs_tol=1e-9)
        assert math.isclose(one.squares, by_cell[key].squares, rel_tol=1e-12, abs_tol=1e-9)
    for until in (now - 3 * DAY, now - 3600.0, now):
        assert await store.decided("digits", until=until) == await store.decided(
            "digits", since=0.0, until=until
        )
        before = await store.reward_sums("digits", since=0.0, until=until)
        assert {k: s.count for k, s in (await store.reward_sums("digits", until=until)).items()} == {
            k: s.count for k, s in before.items()
        }
    reported = {metric.partition("|")[0] for _, metric in sums} - {CLIENT_ERROR_RATE}
    assert await store.metric_names() == sorted(reported)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.long
async def test_totals_are_the_sums_of_the_cells(store: Store, seed: int) -> None:
    chance, now = Random(seed), T0
    kept = Retention(outcomes=5 * DAY, rewards=1000 * DAY, aggregates=10 * DAY)
    known: list[Outcome] = []
    for day in range(14):
        made = [
            outcome(
                now + chance.random() * 7200,
                assigned=(variant := chance.choice(["v1", "v2"])),
                served=chance.choice([variant, "v1"]),
                epoch=1 + day * 3 + chance.randrange(3),
                error=chance.choice(["", "", "", "backend_error"]),
                total_ms=chance.lognormvariate(2, 1),
                status=chance.choice([200, 200, 500, 0]),
            )
            for _ in range(8)
        ]
        known += made
        await store.append(made)
        about = [*made, *chance.sample(known, 4)]  # of days ago too
        await store.reward(
            [
                reward(
                    chance.choice([None, 0.1, 1e3, chance.gauss(0, 1)]),
                    of=one,
                    metric=chance.choice(["correct", "amount"]),
                    time=now,
                    unit=int.from_bytes(one.decision[-2:]) % 5,
                    period=chance.choice(["", "all", f"e{one.epoch}", "all~x"]),
                    worst=0.0,
                )
                for one in about
            ]
        )
        now += DAY
        await _check(store, now)
        while await store.prune(kept, now=now):
            pass
        await _check(store, now)
    while await store.prune(kept, now=now + 900 * DAY):
        pass
    assert await store.counts("digits") == {}
    assert await store.reward_sums("digits") == {}
    assert await store.metric_names() == []
    # Corrections of what was forgotten, and new values, still add up.
    await store.reward([reward(None, of=known[0]), reward(2.0, of=known[1], metric="new"), reward(3.0)])
    await _check(store, now + 900 * DAY)


async def test_a_variant_without_requests_keeps_those_that_it_is_expected_to_get(store: Store) -> None:
    await store.publish(published())
    await store.append([outcome(T0, assigned="v2", served="v2"), outcome(T0 + 5 * DAY)])
    now, kept = T0 + 6 * DAY, Retention(aggregates=2 * DAY)
    while await store.prune(kept, now=now):
        pass
    assert (await store.counts("digits"))["v2"].expected == 0.75
    await _check(store, now)
    while await store.prune(kept, now=now + 30 * DAY):
        pass
    assert await store.counts("digits") == {}


async def _alike(sqlite_url: str, redis_url: str, seed: int) -> tuple[list[Bucket], list[Bucket]]:
    """The cells of both stores after hours of a bandit whose rewards and outcomes come late, between folds."""
    chance, known = Random(seed), list[Outcome]()
    now = T0 + chance.randrange(8640) * 10
    share, epoch = 0.5, 1
    stores = [open_store(url) for url in (sqlite_url, redis_url)]
    for store in stores:
        await store.open()
    kept = Retention(outcomes=1000 * DAY, rewards=1000 * DAY, aggregates=100 * DAY)
    for _ in range(60):
        made = []
        for _ in range(chance.randrange(12)):
            if chance.random() < 0.6:
                epoch, share = epoch + 1, min(max(share + chance.gauss(0, 0.1), 0.05), 0.95)
            now += chance.expovariate(1 / 40)
            variant = "v1" if chance.random() < share else "v2"
            mine = share if variant == "v1" else 1 - share
            made.append(outcome(now, assigned=variant, served=variant, epoch=epoch, propensity=mine))
        late = made[: chance.randrange(len(made) + 1)] if chance.random() < 0.2 else []
        known += made
        about = chance.sample(known, min(len(known), 8))
        rewards = [reward(chance.choice([None, 0.25, 3.0]), of=one, time=now) for one in about]
        if chance.random() < 0.1:
            now += chance.choice([HOUR, 2 * HOUR, 2 * DAY])
        for store in stores:
            await store.append([one for one in made if one not in late])
            await store.reward(rewards)
            await store.append(late)
            while await store.prune(kept, now=now):
                pass
    found = [
        await store.series("digits", since=0.0, until=now + 1, step=1, histograms=False) for store in stores
    ]
    for store in stores:
        await store.close()
    return found[0], found[1]


@pytest.mark.redis
@pytest.mark.parametrize("seed", [2, 6])
@pytest.mark.long
async def test_both_stores_fold_alike(sqlite_url: str, redis_url: str, seed: int) -> None:
    in_sqlite, in_redis = await _alike(sqlite_url, redis_url, seed)
    assert [(b.start, b.variant, b.epoch, b.counts.assigned, b.rewards) for b in in_sqlite] == [
        (b.start, b.variant, b.epoch, b.counts.assigned, b.rewards) for b in in_redis
    ]
