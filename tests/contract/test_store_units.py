"""A sticky unit's values are one observation, whatever becomes of the values."""

from __future__ import annotations

import random
from math import fsum

import pytest

from gateway.record.events import Outcome, Reward
from gateway.state.base import Retention
from gateway.state.store import Store
from gateway.state.units import (
    BOTH,
    JOINT,
    KNOWN,
    OF_UNITS,
    PAST,
    STICKY,
    UNIT_MOVES_S,
    UNITS,
    WEIGHT,
    WEIGHTED,
)
from policies.types import CLIENT_ERROR_RATE, RewardSums
from tests.support.made import T0, outcome, reward

Key = tuple[str, str]


def of_unit(unit: int, value: float | None, *, of: Outcome | None = None, period: str = "all") -> Reward:
    return reward(value, of=of or outcome(unit=unit), unit=unit, period=period)


async def sums_of(store: Store, aspect: str, variant: str = "v1") -> RewardSums:
    return (await store.reward_sums("digits")).get((variant, "correct" + aspect), RewardSums())


async def test_the_mean_of_a_unit_counts_once(store: Store) -> None:
    await store.reward([of_unit(7, v) for v in (1.0, 0.0, 0.0, 1.0)])
    await store.reward([of_unit(8, 1.0), reward(0.0)])
    assert await sums_of(store, "") == RewardSums(1, 0.0, 0.0)
    assert await sums_of(store, STICKY) == RewardSums(5, 3.0, 3.0)
    assert await sums_of(store, UNITS) == RewardSums(2, 1.5, 1.25)
    assert await store.metric_names() == ["correct"]


async def test_duplicates_corrections_and_retractions_of_a_unit(store: Store) -> None:
    one, other = of_unit(7, 1.0), of_unit(7, 0.5)
    assert await store.reward([one, other]) == ["accepted", "accepted"]
    assert await store.reward([one]) == ["duplicate"]
    assert await sums_of(store, UNITS) == RewardSums(1, 0.75, 0.5625)
    assert await store.reward([one._replace(value=0.0)]) == ["updated"]
    assert await sums_of(store, UNITS) == RewardSums(1, 0.25, 0.0625)
    assert await store.reward([one._replace(value=None)]) == ["updated"]
    assert await sums_of(store, UNITS) == RewardSums(1, 0.5, 0.25)
    assert await store.reward([other._replace(value=None)]) == ["updated"]
    assert await store.reward_sums("digits") == {}
    assert await store.reward([one]) == ["updated"]
    assert await sums_of(store, UNITS) == RewardSums(1, 1.0, 1.0)
    assert (await store.decision(one.decision)).rewards == (one,)


async def test_a_unit_counts_once_in_each_period_for_each_variant(store: Store) -> None:
    first, second = outcome(epoch=1), outcome(epoch=2)
    await store.reward([of_unit(7, 1.0, of=first, period="e1"), of_unit(7, 1.0, of=first, period="e1")])
    await store.reward([of_unit(7, 0.0, of=second, period="e2")])
    await store.reward([of_unit(7, 1.0, of=outcome(assigned="v2", served="v2"))])
    assert await sums_of(store, UNITS) == RewardSums(2, 1.0, 1.0)
    assert await sums_of(store, UNITS, "v2") == RewardSums(1, 1.0, 1.0)
    found = await store.reward_sums("digits", epoch=2)
    assert found["v1", "correct" + UNITS] == RewardSums(1, 0.0, 0.0)


async def test_a_correction_under_another_period_takes_the_old_one_away(store: Store) -> None:
    one, other = of_unit(7, 1.0, period="all"), of_unit(7, 0.0, period="all")
    await store.reward([one, other])
    await store.reward([one._replace(value=0.25, period="h3")])
    assert await sums_of(store, UNITS) == RewardSums(2, 0.25, 0.0625)
    await store.reward([one._replace(value=None, period="h4")])
    assert await sums_of(store, UNITS) == RewardSums(1, 0.0, 0.0)


async def test_a_value_from_before_units_were_told_joins_its_unit_when_it_is_corrected(store: Store) -> None:
    plain = reward(1.0, unit=7)
    await store.reward([plain, of_unit(7, 0.0)])
    assert await sums_of(store, "") == RewardSums(1, 1.0, 1.0)
    await store.reward([plain._replace(value=0.5, period="all")])
    assert await store.reward_sums("digits") == {
        ("v1", "correct" + STICKY): RewardSums(2, 0.5, 0.25),
        ("v1", "correct" + UNITS): RewardSums(1, 0.25, 0.0625),
        ("v1", "correct" + WEIGHTED): RewardSums(1, 0.25, 0.0625),
        ("v1", "correct" + WEIGHT): RewardSums(1, 1.0, 1.0),
        ("v1", "correct" + JOINT): RewardSums(1, 1.25, 1.5625),
    }
    await store.reward([plain._replace(value=0.75)])
    assert await sums_of(store, "") == RewardSums(1, 0.75, 0.5625)
    assert await sums_of(store, UNITS) == RewardSums(1, 0.0, 0.0)


async def test_the_observation_stands_where_the_first_value_does(store: Store) -> None:
    early, late = outcome(T0), outcome(T0 + 500)
    await store.reward([of_unit(7, 1.0, of=early, period="e1")])
    await store.reward([of_unit(7, 0.0, of=late, period="e1")])
    buckets = await store.series("digits", since=T0, until=T0 + 1000, step=10)
    assert [(b.start - T0, sorted(b.rewards)) for b in buckets] == [
        (0, ["correct" + STICKY, "correct" + UNITS]),
        (500, ["correct" + STICKY]),
    ]
    assert buckets[0].rewards["correct" + UNITS] == RewardSums(1, 0.5, 0.25)


@pytest.mark.slow
async def test_folding_keeps_units_exact(store: Store) -> None:
    rows = [outcome(T0 + 37 * n, unit=n % 3) for n in range(200)]
    rewards = [of_unit(row.unit, float(n % 5), of=row) for n, row in enumerate(rows)]
    await store.append(rows)
    await store.reward(rewards)
    before = await store.reward_sums("digits")
    while await store.prune(Retention(), now=T0 + 5 * 86_400):
        pass
    assert await store.reward_sums("digits") == before
    await store.reward([r._replace(value=None) for r in rewards])
    while await store.prune(Retention(), now=T0 + 6 * 86_400):
        pass
    assert {metric for _, metric in await store.reward_sums("digits")} == {CLIENT_ERROR_RATE}


def expected(final: dict[tuple[bytes, str], Reward]) -> dict[Key, RewardSums]:
    """From what is reported in the end, all at once."""
    units: dict[tuple[int, str, str], list[float]] = {}
    weighted: dict[tuple[int, str], list[tuple[float, float]]] = {}
    values: dict[Key, list[float]] = {}
    for one in final.values():
        if one.value is None:
            continue
        name = "correct" + (STICKY if one.period else "")
        values.setdefault((one.assigned, name), []).append(one.value)
        if one.period:
            units.setdefault((one.unit, one.period, one.assigned), []).append(one.value)
        if one.period == "all":
            w = 1 - one.propensity
            weighted.setdefault((one.unit, one.assigned), []).append((w * one.value, w))
    for (_, variant), pairs in weighted.items():
        total, weight = fsum(x for x, _ in pairs), fsum(w for _, w in pairs)
        for aspect, value in ((WEIGHTED, total), (WEIGHT, weight), (JOINT, total + weight)):
            values.setdefault((variant, "correct" + aspect), []).append(value)
    for (_, period, variant), found in units.items():
        values.setdefault((variant, "correct" + UNITS), []).append(fsum(found) / len(found))
        if period.endswith("+"):
            for aspect, value in zip(
                OF_UNITS, (fsum(found), len(found), fsum(found) + len(found)), strict=True
            ):
                values.setdefault((variant, "correct" + aspect), []).append(value)
    return {k: RewardSums(len(v), fsum(v), fsum(x * x for x in v)) for k, v in values.items()}


async def test_weights_are_those_of_each_decision_whatever_the_period(store: Store) -> None:
    """Of a unit that stays while its variant's share rises; epochs of constant shares need none."""
    rows = [outcome(T0 + n, propensity=p, unit=7) for n, p in enumerate((0.25, 0.5, 1.0))]
    await store.reward([of_unit(7, 2.0, of=row, period=f"h{n}") for n, row in enumerate(rows)])
    assert await sums_of(store, WEIGHTED) == RewardSums(1, 2.5, 6.25)
    assert await sums_of(store, WEIGHT) == RewardSums(1, 1.25, 1.5625)
    assert await sums_of(store, JOINT) == RewardSums(1, 3.75, 14.0625)
    await store.reward([of_unit(7, None, of=row, period=f"h{n}") for n, row in enumerate(rows)])
    await store.reward([of_unit(7, 1.0, of=rows[0], period="e1")])
    assert await sums_of(store, WEIGHT) == RewardSums()


@pytest.mark.parametrize("seed", range(3))
async def test_any_history_ends_in_the_sums_of_what_is_reported_in_the_end(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    decisions = [
        (
            outcome(
                T0 + 3 * n,
                assigned=rng.choice(("v1", "v2")),
                epoch=1 + n // 30,
                propensity=rng.choice((0.25, 0.5, 1.0)),
            ),
            rng.randrange(6),
        )
        for n in range(60)
    ]
    final: dict[tuple[bytes, str], Reward] = {}
    for _ in range(12):
        batch = []
        for _ in range(rng.randrange(1, 25)):
            about, unit = rng.choice(decisions)
            about = about._replace(served=about.assigned)
            period = (
                rng.choice(("", "all"))
                if unit == 0
                else "all"
                if unit < 4
                else f"e{about.epoch}" + "+" * (unit > 4)
            )
            value = rng.choice((None, 0.1, 0.2, 0.7, 1.0, 1e15))
            one = reward(value, of=about, unit=unit, period=period)
            batch.append(one)
            known = final.get((one.decision, one.metric))
            if known is None or known.value != value:  # else it is a duplicate
                final[one.decision, one.metric] = one
        await store.reward(batch)
    found, wanted = await store.reward_sums("digits"), expected(final)
    assert found.keys() == wanted.keys()
    for key, sums in found.items():
        assert sums.count == wanted[key].count
        assert sums.total == pytest.approx(wanted[key].total, rel=1e-14)
        assert sums.squares == pytest.approx(wanted[key].squares, rel=1e-14)


async def test_a_unit_that_comes_for_years_moves_its_observation_along(store: Store) -> None:
    """Its first cell is forgotten some day, and the observation must not be forgotten with it."""
    later = T0 + UNIT_MOVES_S + 100
    await store.reward([of_unit(7, 1.0, of=outcome(T0))])
    await store.reward([of_unit(7, 0.0, of=outcome(T0 + UNIT_MOVES_S - 100))])
    assert (await sums_of_until(store, T0 + 10)).count == 1
    await store.reward([of_unit(7, 0.5, of=outcome(later))])
    assert (await sums_of_until(store, T0 + 10)).count == 0
    assert await sums_of(store, UNITS) == RewardSums(1, 0.5, 0.25)


async def sums_of_until(store: Store, until: float) -> RewardSums:
    found = await store.reward_sums("digits", until=until)
    return found.get(("v1", "correct" + UNITS), RewardSums())


def in_experiment(value: float | None, unit: int, name: str, *, of: Outcome, period: str = "e1") -> Reward:
    return of_unit(unit, value, of=of, period=f"{period}~{name}")


async def past_of(store: Store, variant: str = "v1") -> list[RewardSums]:
    return [await sums_of(store, aspect, variant) for aspect in (PAST, KNOWN, BOTH)]


async def test_the_past_of_a_unit_stands_next_to_its_observation(store: Store) -> None:
    """The past is what was reported outside the experiment before the unit's first value in it."""
    during = [outcome(T0 + 60, epoch=2, assigned="v2", served="v2") for _ in range(3)]
    await store.reward([in_experiment(v, 7, "", of=outcome(T0)) for v in (1.0, 0.0)])
    await store.reward([in_experiment(1.0, 8, "one", of=outcome(T0), period="e0")])
    assert await past_of(store) == [RewardSums()] * 3
    first = in_experiment(1.0, 7, "one", of=during[0], period="e2")
    await store.reward([first, in_experiment(0.0, 8, "one", of=during[1], period="e2")])
    assert await past_of(store, "v2") == [RewardSums(1, x, x * x) for x in (0.5, 1.0, 1.5)], "8 has no past"
    await store.reward(
        [in_experiment(1.0, 7, "", of=outcome(T0)), of_unit(7, 1.0, of=outcome(T0), period="e0")]
    )
    other = in_experiment(0.0, 7, "one", of=during[2], period="e2")
    await store.reward([other])
    assert await past_of(store, "v2") == [RewardSums(1, x, x * x) for x in (0.5, 0.5, 1.0)]
    await store.reward([first._replace(value=None), other._replace(value=None)])
    assert await past_of(store, "v2") == [RewardSums()] * 3
    again = in_experiment(0.25, 7, "two", of=outcome(T0 + 99, epoch=3), period="e3")
    await store.reward([again])
    mean = 2 / 3
    assert (await past_of(store))[0] == RewardSums(1, mean, mean * mean)


@pytest.mark.parametrize("seed", range(3))
async def test_all_is_taken_away_again_from_any_history_with_a_past(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    final: dict[bytes, Reward] = {}
    for step in range(10):
        batch = []
        for _ in range(rng.randrange(1, 20)):
            known = rng.choice(list(final.values())) if final and rng.random() < 0.3 else None
            about = outcome(T0 + 40 * step, epoch=1 + step // 4, assigned=rng.choice(("v1", "v2")))
            about = about._replace(served=about.assigned)
            name = rng.choice(("", "~", "~one", "~two"))
            new = of_unit(
                rng.randrange(4), rng.choice((0.1, 0.7, 1e15)), of=about, period=f"e{about.epoch}{name}"
            )
            one = new if known is None else known._replace(value=rng.random())
            final[one.decision] = one
            batch.append(one)
        await store.reward(batch)
    await store.reward([one._replace(value=None) for one in final.values()])
    assert await store.reward_sums("digits") == {}
