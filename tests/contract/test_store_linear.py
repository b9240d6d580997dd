"""Sums over rows of features, and the ensembles drawn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.record.context import pack
from gateway.record.events import Reward
from gateway.state.base import Retention
from gateway.state.linear import ExactLinear
from gateway.state.store import Store
from gateway.state.units import WEIGHT_STEPS, weight_steps
from policies.contextual.features import GRID
from policies.contextual.regression import LinearSums
from tests.support.made import T0, outcome, published, reward

SEEN = bytes(range(8))
OTHER = bytes(8)


def of(row: list[float], value: float | None, fingerprint: bytes = SEEN, **fields: Any) -> Reward:
    time = float(str(fields.pop("time", T0)))
    about = outcome(time)
    return reward(value, of=about, context=pack(fingerprint, row).hex(), **fields)


async def sums_of(store: Store, variant: str = "v1", metric: str = "correct") -> LinearSums | None:
    return (await store.linear_sums("digits", SEEN.hex())).get((variant, metric))


def same(found: LinearSums | None, wanted: LinearSums) -> None:
    assert found is not None
    assert found.count == wanted.count
    assert (found.xx == wanted.xx).all(), (found.xx, wanted.xx)
    np.testing.assert_allclose(found.xr, wanted.xr, rtol=1e-13)  # numpy's own sums are not exact
    np.testing.assert_allclose(found.rr, wanted.rr, rtol=1e-13)


async def test_rewards_of_rows_are_summed_by_variant_metric_and_features(store: Store) -> None:
    assert await store.linear_sums("digits", SEEN.hex()) == {}
    rows = [[1.0, 0.5, 0.0], [1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]
    values = [1.0, 0.25, -3.0]
    await store.reward([of(row, value, metric="amount") for row, value in zip(rows, values, strict=True)])
    await store.reward([of(rows[0], 1.0, assigned="v2", served="v2"), of(rows[0], 1.0, OTHER)])
    await store.reward([reward(1.0)])
    found = await store.linear_sums("digits", SEEN.hex())
    assert list(found) == [("v1", "amount"), ("v2", "correct")]
    same(found["v1", "amount"], LinearSums.of(rows, values))
    same(found["v2", "correct"], LinearSums.of(rows[:1], [1.0]))
    same((await store.linear_sums("digits", OTHER.hex()))["v1", "correct"], LinearSums.of(rows[:1], [1.0]))
    assert await store.linear_sums("other", SEEN.hex()) == {}
    plain = await store.reward_sums("digits")
    assert plain["v1", "correct"].count == 2, "the other sums go on as ever"


async def test_duplicates_corrections_and_retractions_leave_no_trace(store: Store) -> None:
    kept, one = of([1.0, 0.5], 0.1), of([1.0, 0.3 * GRID // 1 / GRID], 1e90)
    await store.reward([kept])
    await store.reward([one])
    assert await store.reward([one]) == ["duplicate"]
    assert await store.reward([one._replace(value=0.7)]) == ["updated"]
    row = [1.0, 0.3 * GRID // 1 / GRID]
    same(await sums_of(store), LinearSums.of([[1.0, 0.5], row], [0.1, 0.7]))
    assert await store.reward([one._replace(value=None)]) == ["updated"]
    same(await sums_of(store), LinearSums.of([[1.0, 0.5]], [0.1]))
    assert await store.reward([kept._replace(value=None)]) == ["updated"]
    assert await sums_of(store) is None


async def test_values_with_features_are_summed_by_inverse_propensity(store: Store) -> None:
    """Whatever was corrected or retracted since; without features a value has no such weight."""
    row = [1.0, 0.5]
    kept = [of(row, y, propensity=p) for y, p in ((0.25, 0.01), (1.0, 0.3), (-3.0, 1.0))]
    gone = of(row, 1e90, propensity=0.7)
    await store.reward([*kept, gone, reward(1.0)])
    await store.reward([gone._replace(value=None), kept[1]._replace(value=2.0)])
    found = await store.reward_sums("digits")
    y = np.asarray([0.25, 2.0, -3.0])
    w = np.asarray([weight_steps(one) / WEIGHT_STEPS for one in kept])
    for name, part in (("ipw", w * y), ("ipw_weight", w), ("ipw_joint", w * y + w)):
        sums = found["v1", f"correct|{name}"]
        assert (sums.count, sums.total) == (3, pytest.approx(part.sum(), rel=1e-14))
        assert sums.squares == pytest.approx(part @ part, rel=1e-14)
    assert w == pytest.approx([100, 1 / 0.3, 1], rel=1e-6)


async def test_rescued_and_forced_decisions(store: Store) -> None:
    await store.reward(
        [
            of([1.0, 1.0], 1.0, assigned="v2", served="v1", worst=0.0),
            of([1.0, 1.0], 5.0, assigned="v2", served="v1", worst=None, metric="amount"),
            of([1.0, 1.0], 1.0, forced=True),
        ]
    )
    found = await store.linear_sums("digits", SEEN.hex())
    assert list(found) == [("v2", "correct")]
    same(found["v2", "correct"], LinearSums.of([[1.0, 1.0]], [0.0]))


async def test_what_was_reported_comes_back_with_its_features(store: Store) -> None:
    one = of([1.0, 0.5], 1.0)
    await store.reward([one])
    assert (await store.decision(one.decision)).rewards == (one,)


async def test_old_buckets_are_folded_and_then_forgotten(store: Store) -> None:
    row = [1.0, 0.5]
    for k in range(6):
        await store.reward([of(row, float(k), time=T0 + 1800 * k)])
    found = await store.linear_series("digits", SEEN.hex(), since=0.0)
    assert [start for start, _ in found] == [(T0 + 1800 * k) // 60 * 60 for k in range(6)]
    assert [sums["v1", "correct"].xr[0] for _, sums in found] == [0, 1, 2, 3, 4, 5]
    assert len(await store.linear_series("digits", SEEN.hex(), since=(T0 + 3600) // 60 * 60)) == 4

    async def prune(retention: Retention, now: float) -> list[tuple[float, float]]:
        while await store.prune(retention, now=now):
            pass
        after = await store.linear_series("digits", SEEN.hex(), since=0.0)
        return [(start % 86_400, sums["v1", "correct"].xr[0]) for start, sums in after]

    by_hour = await prune(Retention(), T0 + 86_400)
    hours: dict[float, float] = {}
    for k in range(6):
        start = (T0 + 1800 * k) // 3600 * 3600 % 86_400
        hours[start] = hours.get(start, 0.0) + k
    assert dict(by_hour) == hours
    by_day = await prune(Retention(), T0 + 4 * 86_400)
    assert sum(total for _, total in by_day) == 15.0
    assert {start for start, _ in by_day} == {0.0}
    same(await sums_of(store), LinearSums.of([row] * 6, [0, 1, 2, 3, 4, 5]))
    assert await prune(Retention(aggregates=86_400.0), T0 + 9 * 86_400) == []
    assert await sums_of(store) is None


async def test_an_ensemble_is_published_with_its_epoch(store: Store) -> None:
    data = bytes(range(256)) * 40
    assert await store.ensemble("digits", 1) is None
    assert await store.publish(published(1), data)
    assert await store.ensemble("digits", 1) == data
    assert not await store.publish(published(1), b"late")
    assert await store.publish(published(2), b"two")
    assert [await store.ensemble("digits", k) for k in (1, 2)] == [data, b"two"]
    assert await store.publish(published(3))
    assert [await store.ensemble("digits", k) for k in (1, 2, 3)] == [None, b"two", None]
    assert await store.ensemble("other", 2) is None


async def test_a_wide_row(store: Store) -> None:
    rng = np.random.default_rng(3)
    rows = [[1.0, *(np.round(rng.uniform(-1, 1, 31) * GRID) / GRID).tolist()] for _ in range(20)]
    values = rng.normal(size=20).tolist()
    await store.reward([of(row, value, metric="amount") for row, value in zip(rows, values, strict=True)])
    found = (await store.linear_sums("digits", SEEN.hex()))["v1", "amount"]
    same(found, LinearSums.of(rows, values))


@given(
    st.lists(
        st.tuples(st.lists(st.integers(-GRID, GRID), min_size=3, max_size=3), st.floats(-1e100, 1e100)),
        max_size=8,
    ),
    st.integers(0, 8),
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_sums_lose_nothing(rows: list[tuple[list[int], float]], kept: int) -> None:
    """Adding more and taking it away again gives the very same sums, also through their bytes."""
    from gateway.record.context import unpack

    contexts = [unpack(pack(SEEN, [1.0, *(s / GRID for s in steps)])) for steps, _ in rows]
    values = [value for _, value in rows]
    direct, there_and_back = ExactLinear(4), ExactLinear(4)
    for row, value in list(zip(contexts, values, strict=True))[:kept]:
        direct.report(row, value)
    for row, value in zip(contexts, values, strict=True):
        there_and_back.report(row, value)
    there_and_back = ExactLinear.unpack(there_and_back.pack())
    for row, value in list(zip(contexts, values, strict=True))[kept:]:
        there_and_back.retract(row, value)
    one, other = direct.rounded, there_and_back.rounded
    assert one.count == other.count
    assert (one.xx == other.xx).all()
    assert (one.xr == other.xr).all()
    assert one.rr == other.rr


async def test_old_sums_keep_no_allocations_from_being_forgotten(store: Store) -> None:
    """As many as one step takes: what is in surplus waited until no sums were left."""
    for epoch in range(1, 4):
        await store.publish(published(epoch))
    await store.reward([of([1.0], 1.0, metric=f"m{k}") for k in range(50)])
    await store.prune(Retention(aggregates=1.0, allocations_per_route=1), now=T0 + 86_400)
    assert [one.epoch for one in await store.allocation_history("digits")] == [3]
