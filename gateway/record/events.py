"""The rows of the record: an Outcome per request, a Reward per reported value, a Shadowed per shadow response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

from gateway.errors import CODES

BLAMELESS: Final = frozenset(("", *(code.name for code in CODES.values() if code.blame != "backend")))
"""Values of an outcome's ``error`` that do not count against the variant."""
UNSEEN: Final = 0
"""Status of a decision whose response the gateway does not see."""
CLIENT_LEFT: Final = 499
"""Status of a request whose client left before the response, or cancelled the call."""


class Outcome(NamedTuple):
    """One request: the decision and its result.

    A tuple, because one is made for each request on the hot path.
    """

    decision: bytes
    """16 bytes, unique and ordered by time: 48 bits of milliseconds, 40 random, 40 of a counter."""
    time: float
    """Seconds since the epoch at which the decision was made."""
    route: str
    policy: str
    """single | split | canary | shadow | bandit"""
    revision: int
    epoch: int
    unit: int
    """64-bit hash of the unit, salted by the route; without a unit, 64 bits of the decision."""
    sticky: bool
    """Whether the request has a unit (in a header, for example)."""
    assigned: str
    served: str
    """The variant that served the response; "" if none did, or a fixed response, or it is unseen."""
    propensity: float
    """Exact probability with which ``assigned`` was drawn; 1.0 if it was forced."""
    forced: bool
    """Whether the client chose the variant by x-variant, or weights of an HTTPRoute were just changing: the request is
    excluded from all statistics."""
    status: int
    """Status of the response; 499 if the client left before it, 0 (`UNSEEN`) for a decision by ``POST /-/decide``."""
    error: str
    """Error code (`gateway.errors`) of the assigned variant's failure, also if fallback served the request; "" if
    none."""
    fallback: bool
    """Whether another variant than the assigned one served the response."""
    attempts: str
    """JSON: [[variant, address, error or status, milliseconds], ...]; "" for a single successful attempt."""
    gateway_ms: float
    """Time inside the gateway: ``total_ms`` less the time spent waiting for backends."""
    backend_ms: float
    """From the end of the request to the head of the response, of the attempt that served."""
    total_ms: float
    """From the request's first byte to the response's last."""
    request_bytes: int
    answer_bytes: int
    request_id: str
    principal: str
    """Id of the API key; "" without authentication."""
    features: str
    """Canonical JSON of the declared features that the policy used; "" if none."""
    backend_request_id: str = ""
    """X-Request-Id of the response of the variant that served; "" if it has none."""

    @property
    def rewarded_as(self) -> str:
        """The variant that rewards are for: the client uses the one assigned where the gateway sees no response."""
        return self.assigned if self.status == UNSEEN else self.served

    @property
    def failed(self) -> bool:
        """Whether this counts as an error of the assigned variant."""
        return self.error not in BLAMELESS

    @property
    def client_error(self) -> bool:
        """Whether the assigned variant served a response that is charged to the client, such as 404 or 422."""
        return is_client_error(self.status) and not self.error and self.served == self.assigned


def is_client_error(status: int) -> bool:
    """Whether a variant's response with ``status`` is charged to the client, unless it counts as its own error."""
    return status >= 400 and status != CLIENT_LEFT


class Batch(Sequence[Any]):
    """Outcomes by column, on which work is several times faster than row by row.

    As a sequence it yields rows: plain tuples of an outcome's fields, which is also what the hot path makes. Several
    threads may read it.
    """

    __slots__ = ("_held",)

    def __init__(self, held: Sequence[tuple[Any, ...]] | Outcome = ()) -> None:
        """Take rows, or an `Outcome` whose fields are lists with the values of all rows."""
        self._held: Any = held

    @classmethod
    def joined(cls, batches: Sequence[Sequence[Any]]) -> Batch:
        """The rows of at least one batch."""
        first, *others = batches
        if not others and isinstance(first, Batch):
            return first
        by_column = [list(column) for column in columns(first)]
        for batch in others:
            for column, more in zip(by_column, columns(batch), strict=True):
                column += more
        return cls(Outcome._make(by_column))

    @property
    def columns(self) -> Any:
        """An `Outcome` whose fields are sequences with the values of all rows, of which there is at least one."""
        held = self._held
        if not isinstance(held, Outcome):
            held = self._held = Outcome._make(zip(*held, strict=True))
        return held

    def __len__(self) -> int:
        held = self._held
        return len(held.decision if isinstance(held, Outcome) else held)

    @overload
    def __getitem__(self, place: int) -> Outcome: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: int | slice) -> Outcome | Self:
        taken = Outcome._make(column[place] for column in self.columns)
        return type(self)(taken) if isinstance(place, slice) else taken

    def __iter__(self) -> Iterator[Any]:
        held = self._held
        return zip(*self.columns, strict=True) if isinstance(held, Outcome) else iter(held)


def same(values: Sequence[Any]) -> bool:
    """Whether all of at least one value are equal."""
    return values[0] == values[-1] and values.count(values[0]) == len(values)


def columns(rows: Sequence[tuple[Any, ...]]) -> Any:
    """The columns of at least one outcome, as `Batch.columns`."""
    return (rows if isinstance(rows, Batch) else Batch(rows)).columns


def grouped(*by_column: Sequence[Any]) -> tuple[list[tuple[Any, ...]], NDArray[np.int64]]:
    """Distinct rows of some columns, in the order of their first appearance, and for each row its index there.

    Needs at least one row. In a batch of requests most columns have a single value, and adjacent ones are often
    equal: only the others are compared row by row.
    """
    rows = len(by_column[0])
    varying = [c for i, c in enumerate(by_column) if not same(c) and (not i or c != by_column[i - 1])]
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
    """One reported value of one metric for one decision, with the facts that its decision id carries."""

    decision: bytes
    metric: str
    value: float | None
    """None retracts an earlier value."""
    time: float
    """Seconds since the epoch at which it was reported."""
    decided: float
    """Seconds since the epoch at which the decision was made; sums are kept by this time."""
    route: str
    assigned: str
    served: str
    epoch: int
    propensity: float
    unit: int
    forced: bool
    worst: float | None = None
    """Value for the assigned variant if another one served the response: the metric's worst possible value, or None
    (left out of the sums) if it is not bounded. So fallback neither credits the variant that served nor hides the
    failure; the record itself keeps ``value``."""
    tags: str = ""
    """Canonical JSON; "" if none."""
    context: str = ""
    """Features of the decision (`gateway.record.context`) in hexadecimal; "" if none."""
    period: str = ""
    """Period within which all values of a sticky unit count as one observation (`gateway.state.units`); "" if the
    request had no unit, and each value is an observation."""


class Shadowed(NamedTuple):
    """One response of a shadow, compared with the primary's."""

    decision: bytes
    time: float
    route: str
    shadow: str
    primary: str
    status: int
    error: str
    """Error code of the shadow's failure; "" if none. Dropped copies have no row, only counters."""
    latency_ms: float
    primary_ms: float
    agrees: bool | None
    """None if the responses were not compared: an error, a body over the limit, an unknown type."""
    difference: float | None
    """Numeric distance, if the comparison has one."""
    detail: str
    """JSON of what differed, bounded in size; "" if the responses agree."""
