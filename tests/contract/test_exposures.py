"""Which units came, of a sample: the same from every store, before and after pages are merged."""

from __future__ import annotations

import numpy as np

from gateway.record.exposures import Exposure
from gateway.record.histogram import index
from gateway.state.base import Retention
from gateway.state.store import Store
from policies.sequential.srm import EVERY_UNIT, mix
from tests.support.made import T0, outcome


def mixed(unit: int) -> int:
    return int(mix(np.asarray([unit], np.uint64))[0])


async def test_sightings_are_of_one_route_one_time_and_one_sample(store: Store) -> None:
    rows = [
        outcome(
            T0 + k,
            unit=2**63 + k,
            epoch=1 + k % 2,
            assigned=f"v{(k + 1) % 3}",
            error=("", "reset", "client_left")[k % 3],
            status=(200, 404)[k % 2],
            total_ms=1.0 + k,
        )
        for k in range(50)
    ]
    rows += [outcome(T0 + 5, unit=7, forced=True), outcome(T0 + 6, unit=8, route="other")]
    await store.append(rows[30:])
    await store.append(rows[:30])
    wanted = [
        Exposure(
            r.time,
            mixed(r.unit),
            r.epoch,
            r.assigned,
            r.error == "reset",
            index(r.total_ms) if r.assigned == r.served else -1,
            r.propensity,
            client_error=k % 2 == 1 and r.error == "" and r.assigned == r.served,
        )
        for k, r in enumerate(rows[:50])
    ]
    assert {one.failed for one in wanted} == {one.client_error for one in wanted} == {True, False}
    assert min(one.latency for one in wanted) == -1
    found = await store.exposures("digits", since=T0, until=T0 + 100, below=EVERY_UNIT)
    assert found == wanted
    assert await store.exposures("digits", since=T0 + 10, until=T0 + 20, below=EVERY_UNIT) == wanted[10:20]
    half = await store.exposures("digits", since=T0, until=T0 + 100, below=1 << 63)
    assert half == [one for one in wanted if one.mix < 1 << 63]
    assert 5 < len(half) < 45
    assert await store.exposures("nobody", since=T0, until=T0 + 100, below=EVERY_UNIT) == []
    while await store.prune(Retention(), now=T0 + 86_400):
        pass
    assert await store.exposures("digits", since=T0 + 10, until=T0 + 20, below=EVERY_UNIT) == wanted[10:20]


async def test_pages_are_read_once_by_their_numbers(store: Store) -> None:
    first = [outcome(T0 + k, unit=2**63 + k) for k in range(3)]
    later = [outcome(T0 + 100 + k, unit=2**62 + k) for k in range(2)]
    await store.append(first)
    before = await store.page_numbers("digits", since=T0)
    await store.append(later)
    after = await store.page_numbers("digits", since=T0)
    assert len(before) == 1
    assert set(before) < set(after)
    (new,) = set(after) - set(before)
    assert await store.page_numbers("digits", since=T0 + 50) == [new]
    assert await store.page_numbers("other", since=T0) == []
    assert await store.page_numbers("digits", since=T0 + 200) == []
    found = await store.page_exposures("digits", [new], since=T0, below=EVERY_UNIT)
    assert [one.mix for one in found] == [mixed(row.unit) for row in later]
    found = await store.page_exposures("digits", after, since=T0 + 1, below=EVERY_UNIT)
    assert [one.time for one in found] == [row.time for row in [*first[1:], *later]]
    assert await store.page_exposures("digits", [9999], since=T0, below=EVERY_UNIT) == []


async def test_a_page_keeps_its_number_for_an_hour(store: Store) -> None:
    await store.append([outcome(T0 + k, unit=k) for k in range(3)])
    numbers = await store.page_numbers("digits", since=T0)
    while await store.prune(Retention(), now=T0 + 3600):
        pass
    assert await store.page_numbers("digits", since=T0) == numbers
    while await store.prune(Retention(), now=T0 + 3 * 3600):
        pass
    (merged,) = await store.page_numbers("digits", since=T0)
    found = await store.page_exposures("digits", [merged], since=T0, below=EVERY_UNIT)
    assert len(found) == 3
