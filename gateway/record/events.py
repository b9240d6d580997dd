"""What the record keeps: one Outcome for each request, one Reward for each reported value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLAMELESS: Final = frozenset(("", "client_left", "draining", "internal"))
"""What an outcome's ``error`` may be without counting against the variant."""


class Outcome(NamedTuple):
    """One request, as the gateway saw it: the decision, and what came of it.

    Made once per request on the hot path, so it is a tuple. Times are milliseconds unless named
    otherwise; ``time`` is seconds since the epoch at which the decision was made.
    """

    decision: bytes
    """16 bytes, unique and ordered by time: 48 bits of milliseconds, 40 random, 40 counting."""
    time: float
    route: str
    policy: str
    """single | split | canary | shadow | bandit"""
    revision: int
    epoch: int
    unit: int
    """The 64-bit hash of the unit (salted by the route); for requests without one, of the decision itself."""
    sticky: bool
    """Whether the unit came from the request (a header, say) rather than from chance."""
    assigned: str
    served: str
    """The variant whose answer the client got; "" when none of them answered (or a fixed answer did)."""
    propensity: float
    """The exact probability with which ``assigned`` was drawn; 1.0 where it was forced."""
    forced: bool
    """Chosen by the client's x-variant, hence no part of any statistic."""
    status: int
    """The status the client got; 499 when it left first."""
    error: str
    """"" or the error code (`gateway.errors`) of the *assigned* variant's failure; it stays when fallback
    hid it."""
    fallback: bool
    """Answered by another than the assigned variant."""
    attempts: str
    """"" for a single good attempt; else JSON: [[variant, address, error or status, milliseconds], ...]."""
    gateway_ms: float
    """Time inside the gateway: total less the time spent waiting for backends."""
    backend_ms: float
    """From the request's last byte sent to the answer's head, of the attempt that served."""
    total_ms: float
    """From the request's first byte to the answer's last."""
    request_bytes: int
    answer_bytes: int
    request_id: str
    principal: str
    """The id of the API key; "" when there is no auth."""
    features: str
    """"" or canonical JSON of the declared features that the policy saw."""

    @property
    def failed(self) -> bool:
        """Whether this counts as an error of the assigned variant."""
        return self.error not in BLAMELESS


def columns(rows: Sequence[tuple[Any, ...]]) -> Any:
    """The outcomes turned on their side: an `Outcome` whose fields are tuples of all rows' values.

    What handles many rows handles them by the column: it costs a fraction. Plain tuples of an
    outcome's fields will do as rows; the hot path makes no more than these. Needs at least one.
    """
    return Outcome._make(zip(*rows, strict=True))


def grouped(*by_column: Sequence[Any]) -> tuple[list[tuple[Any, ...]], NDArray[np.int64]]:
    """The distinct rows of some columns, in the order of their first appearance; and for each of the n rows
    (at least one) its place among them.

    In a batch of requests most columns have one value, and two that stand side by side are often alike:
    only the others are looked at row by row.
    """
    rows = len(by_column[0])
    varying = [
        c for i, c in enumerate(by_column) if c.count(c[0]) < rows and (not i or c != by_column[i - 1])
    ]
    keys = varying[0] if len(varying) == 1 else tuple(zip(*varying, strict=True))
    if not varying:
        return [tuple(c[0] for c in by_column)], np.zeros(rows, np.int64)
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    codes: NDArray[np.int64]
    if len(places) <= 256:  # the usual case, at half the cost
        codes = np.frombuffer(bytes(map(places.__getitem__, keys)), np.uint8).astype(np.int64)
    else:
        codes = np.fromiter(map(places.__getitem__, keys), np.int64, rows)
    first = np.full(len(places), rows)
    np.minimum.at(first, codes, np.arange(rows))
    return [tuple(c[row] for c in by_column) for row in first.tolist()], codes


class Reward(NamedTuple):
    """One value of one metric for one decision, as it comes out of an opened decision id."""

    decision: bytes
    metric: str
    value: float | None
    """None retracts what was reported before."""
    time: float
    """When it was reported; seconds since the epoch."""
    decided: float
    """When the decision was made; seconds since the epoch (sums are kept by decision time)."""
    route: str
    assigned: str
    served: str
    epoch: int
    propensity: float
    unit: int
    forced: bool
    worst: float | None = None
    """What a rescued decision (assigned ≠ served) counts as for the assigned variant: the metric's
    worst possible value where it is bounded, None (left out of the sums) where it is not. Fallback
    so neither credits the rescuer nor hides the failure; the record itself keeps ``value``."""
    tags: str = ""
    """"" or canonical JSON."""
    context: str = ""
    """"" or the features that the decision was made from (`gateway.record.context`), in hexadecimal."""
    period: str = ""
    """For a sticky unit the period within which all its values count as one observation
    (`gateway.state.units`); "" where the request had no unit, and each value counts by itself."""


class Shadowed(NamedTuple):
    """One answer of a shadow, compared with the primary's."""

    decision: bytes
    time: float
    route: str
    shadow: str
    primary: str
    status: int
    error: str
    """"" | the error code of the shadow's failure | "dropped" never appears here: drops are counters."""
    latency_ms: float
    primary_ms: float
    agrees: bool | None
    """None when nothing could be compared (an error, a body over the limit, no comparison for the type)."""
    difference: float | None
    """The numeric distance where the comparison has one."""
    detail: str
    """"" or JSON for a disagreement worth looking at: what differed, bounded in size."""
