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
            assigned=f"v{k % 3}",
            error=("", "reset", "client_left")[k % 3],
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
        )
        for r in rows[:50]
    ]
    assert {one.failed for one in wanted} == {True, False}
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
