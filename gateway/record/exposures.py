"""Which units came, what they were given and how it ended: read from pages of the record, a sample of units at a
time.

The sample is by a hash of the unit (`policies.sequential.srm.mix`), so a unit is in it always or never,
whatever worker, replica or page it appears in. Only the columns that say so are read: a fraction of a
microsecond an outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from gateway.record import histogram
from gateway.record.events import BLAMELESS
from gateway.record.page import columns_of
from policies.sequential.srm import EVERY_UNIT, mix

_COLUMNS: Final = ("time", "route", "epoch", "unit", "assigned", "served", "forced", "error", "total_ms")


class Sighting(NamedTuple):
    """One decision, for one unit of the sample."""

    time: float
    mix: int
    """The unit's place in the sample; a request without a unit is one by itself."""
    epoch: int
    assigned: str
    failed: bool
    """Whether the assigned variant failed, whoever answered."""
    latency: int
    """Bucket of `gateway.record.histogram`; -1 where another variant answered, or none."""


def sightings(
    pages: Iterable[bytes], route: str, *, since: float, until: float, below: int = EVERY_UNIT
) -> list[Sighting]:
    """Of the units whose mix is less than ``below``, in order of time; forced decisions are left out.

    ``since`` (inclusive) and ``until`` bound the time of the decision, in seconds since the epoch.
    """
    found: list[Sighting] = []
    for page in pages:
        columns = columns_of(page, _COLUMNS)
        times = np.asarray(columns["time"], np.float64)
        mixes = mix(np.asarray(columns["unit"], np.uint64))
        chosen = (times >= since) & (times < until) & ~np.asarray(columns["forced"], bool)
        if below < EVERY_UNIT:
            chosen &= mixes < np.uint64(below)
        routes, epochs, assigned = columns["route"], columns["epoch"], columns["assigned"]
        served, errors = columns["served"], columns["error"]
        buckets = histogram.indices(np.asarray(columns["total_ms"], np.float64)).tolist()
        found += [
            Sighting(
                columns["time"][k],
                int(mixes[k]),
                epochs[k],
                assigned[k],
                errors[k] not in BLAMELESS,
                buckets[k] if served[k] == assigned[k] else -1,
            )
            for k in np.flatnonzero(chosen).tolist()
            if routes[k] == route
        ]
    return sorted(found)
