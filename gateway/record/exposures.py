"""Exposures of a sample of units, read from pages of the record: the variant assigned, and how the request ended.

The sample is by a hash of the unit (`policies.sequential.srm.mix`), so a unit is in it always or never, whatever
worker, replica or page it appears in. Only the columns needed are decoded, which takes a fraction of a
microsecond per outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from gateway.record import histogram
from gateway.record.events import BLAMELESS, UNSEEN, is_client_error
from gateway.record.page import columns_of
from policies.sequential.srm import EVERY_UNIT, mix

_COLUMNS: Final = (
    "time",
    "route",
    "epoch",
    "unit",
    "assigned",
    "served",
    "forced",
    "status",
    "error",
    "total_ms",
    "propensity",
)


class Exposure(NamedTuple):
    """One decision, for one unit of the sample."""

    time: float
    mix: int
    """Hash of the unit, which orders the sample; a request without a unit is a unit of its own."""
    epoch: int
    assigned: str
    failed: bool
    """Whether the assigned variant failed, even if another one served the response."""
    latency: int
    """Bucket of `gateway.record.histogram`; -1 if the assigned variant did not serve the response."""
    propensity: float = 1.0
    """Probability with which the variant was assigned."""
    seen: bool = True
    """Whether the gateway saw the response."""
    client_error: bool = False
    """Whether the assigned variant served a response that is charged to the client."""


def exposures(
    pages: Iterable[tuple[object, bytes]], route: str, *, since: float, until: float, below: int = EVERY_UNIT
) -> list[Exposure]:
    """Exposures of the units whose hash is less than ``below``, in order of time; without forced decisions.

    ``pages``: with their places (`DamagedPage`).

    ``since`` (inclusive) and ``until`` (exclusive) bound the time of the decision, in seconds since the epoch.
    """
    found: list[Exposure] = []
    for place, page in pages:
        columns = columns_of(page, _COLUMNS, place)
        times = np.asarray(columns["time"], np.float64)
        mixes = mix(np.asarray(columns["unit"], np.uint64))
        chosen = (times >= since) & (times < until) & ~np.asarray(columns["forced"], bool)
        if below < EVERY_UNIT:
            chosen &= mixes < np.uint64(below)
        routes, epochs, assigned = columns["route"], columns["epoch"], columns["assigned"]
        served, errors, statuses = columns["served"], columns["error"], columns["status"]
        buckets = histogram.indices(np.asarray(columns["total_ms"], np.float64)).tolist()
        found += [
            Exposure(
                columns["time"][k],
                int(mixes[k]),
                epochs[k],
                assigned[k],
                errors[k] not in BLAMELESS,
                buckets[k] if served[k] == assigned[k] else -1,
                columns["propensity"][k],
                statuses[k] != UNSEEN,
                is_client_error(statuses[k]) and not errors[k] and served[k] == assigned[k],
            )
            for k in np.flatnonzero(chosen).tolist()
            if routes[k] == route
        ]
    return sorted(found)
