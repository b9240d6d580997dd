"""What a batch of outcomes adds to the aggregates. Pure; every store applies the same deltas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.record import histogram
from gateway.record.events import (
    BLAMELESS,
    UNSEEN,
    Outcome,
    Reward,
    Shadowed,
    columns,
    grouped,
    is_client_error,
)
from gateway.state.base import BUCKET_S, Counts
from gateway.state.exact import ExactSums
from policies.types import CLIENT_ERROR_RATE

KEPT_CHANGES: Final = 4096
"""Changes of a route's cells that are remembered: minutes of the busiest route."""


class CellKey(NamedTuple):
    """One cell of the aggregates: one variant within one epoch and one bucket of time."""

    route: str
    start: int
    """Seconds since the epoch, a multiple of `BUCKET_S`."""
    epoch: int
    variant: str


class SumKey(NamedTuple):
    """One cell of the sums of rewards."""

    route: str
    start: int
    epoch: int
    variant: str
    metric: str


class Tally(NamedTuple):
    """What a batch of outcomes adds."""

    counts: dict[CellKey, Counts]
    sums: dict[SumKey, ExactSums]
    """Of `policies.types.CLIENT_ERROR_RATE`: one value for each response that the gateway sees."""


Shares = Callable[[str, int], Mapping[str, float] | None]
"""From (route, epoch) to the published probabilities; None where none were published."""

_WIDTH: Final = int(BUCKET_S)
_STRIDE: Final = histogram.TOP + 1
_FORCED: Final = Outcome._fields.index("forced")


def start_of(time: float) -> int:
    """The start of the bucket that a time lies in."""
    return int(time // BUCKET_S) * _WIDTH


class _Group(NamedTuple):
    route: str
    start: int
    epoch: int
    assigned: str
    served: str


def tally(by_column: Any, shares: Shares) -> Tally:
    """The counts and sums to add, by cell, of what `gateway.record.events.columns` made. Forced ones count nowhere.

    ``expected`` is exact where the epoch's allocation was published; else the propensities that the
    batch itself carries stand in for it.
    """
    # They were not drawn: counted, they would bias what is compared.
    if any(by_column.forced):
        rows = [row for row in zip(*by_column, strict=True) if not row[_FORCED]]
        return tally(columns(rows), shares) if rows else Tally({}, {})
    groups, codes = _grouped(by_column)
    number = len(groups)
    cells: dict[CellKey, Counts] = {}
    sums: dict[SumKey, ExactSums] = {}
    sizes = np.bincount(codes, minlength=number).tolist()
    errors = _where(codes, number, by_column.error, _is_failure)
    rescues = _where(codes, number, by_column.fallback, bool)
    unseen = _where(codes, number, by_column.status, _is_unseen)
    refused = _client_errors(groups, codes, by_column)
    for group, size, error, rescue, blind, clients in zip(
        groups, sizes, errors, rescues, unseen, refused, strict=True
    ):
        assigned = cells.setdefault(_key(group, group.assigned), Counts())
        if size > blind:
            key = SumKey(group.route, group.start, group.epoch, group.assigned, CLIENT_ERROR_RATE)
            sums.setdefault(key, ExactSums()).merge(ExactSums.of_booleans(size - blind, clients))
        assigned.assigned += size
        assigned.errors += error
        assigned.fallbacks += rescue
        assigned.unseen += blind
        if group.served:
            cells.setdefault(_key(group, group.served), Counts()).served += size
    _add_times(cells, groups, codes, by_column.total_ms, "latency")
    _add_times(cells, groups, codes, by_column.gateway_ms, "gateway")
    _add_expected(cells, groups, sizes, by_column, shares)
    return Tally(cells, sums)


def _is_failure(error: str) -> bool:
    """`Outcome.failed`."""
    return error not in BLAMELESS


def _is_unseen(status: int) -> bool:
    """`Outcome.unseen`."""
    return status == UNSEEN


def _client_errors(groups: list[_Group], codes: NDArray[np.int64], by_column: Any) -> list[int]:
    """For each group, how many of its rows are an `Outcome.client_error`."""
    statuses = {status for status in set(by_column.status) if is_client_error(status)}
    if not statuses:
        return [0] * len(groups)
    results = zip(by_column.status, by_column.error, strict=True)
    found = np.array([status in statuses and not error for status, error in results])
    counts = np.bincount(codes[found], minlength=len(groups)).tolist()
    return [n if group.served == group.assigned else 0 for group, n in zip(groups, counts, strict=True)]


def _key(group: _Group, variant: str) -> CellKey:
    return CellKey(group.route, group.start, group.epoch, variant)


def _grouped(by_column: Any) -> tuple[list[_Group], NDArray[np.int64]]:
    starts = (np.asarray(by_column.time, np.float64) // BUCKET_S).astype(np.int64) * _WIDTH
    found, codes = grouped(
        by_column.route, starts.tolist(), by_column.epoch, by_column.assigned, by_column.served
    )
    return list(map(_Group._make, found)), codes


def _where(
    codes: NDArray[np.int64], number: int, values: Sequence[Any], holds: Callable[[Any], bool]
) -> list[int]:
    """For each group, how many of its rows have a value of which ``holds`` is true."""
    kinds = {value for value in set(values) if holds(value)}
    if not kinds:
        return [0] * number
    mask = np.fromiter((value in kinds for value in values), bool, len(values))
    found: list[int] = np.bincount(codes[mask], minlength=number).tolist()
    return found


def _add_times(
    cells: dict[CellKey, Counts],
    groups: list[_Group],
    codes: NDArray[np.int64],
    times: Sequence[float],
    name: Literal["latency", "gateway"],
) -> None:
    """Adds each row's time to the histogram ``name`` of the cell of the variant that served it."""
    counts = np.bincount(codes * _STRIDE + histogram.indices(np.asarray(times, np.float64)))
    found = np.flatnonzero(counts)
    ends = np.searchsorted(found, np.arange(1, len(groups) + 1) * _STRIDE).tolist()
    start = 0
    for place, (group, end) in enumerate(zip(groups, ends, strict=True)):
        if group.served:
            mine = found[start:end]
            added = dict(zip((mine - place * _STRIDE).tolist(), counts[mine].tolist(), strict=True))
            cell = cells[_key(group, group.served)]
            setattr(
                cell, name, histogram.merge((getattr(cell, name), added)) if getattr(cell, name) else added
            )
        start = end


def _recorded(by_column: Any) -> dict[tuple[str, int], dict[str, float]]:
    found: dict[tuple[str, int], dict[str, float]] = {}
    rows = set(zip(by_column.route, by_column.epoch, by_column.assigned, by_column.propensity, strict=True))
    for route, epoch, variant, propensity in rows:
        found.setdefault((route, epoch), {})[variant] = propensity
    return found


def _add_expected(
    cells: dict[CellKey, Counts],
    groups: list[_Group],
    sizes: list[int],
    by_column: Any,
    shares: Shares,
) -> None:
    recorded: dict[tuple[str, int], dict[str, float]] | None = None
    totals: dict[tuple[str, int, int], int] = {}
    for group, size in zip(groups, sizes, strict=True):
        place = (group.route, group.start, group.epoch)
        totals[place] = totals.get(place, 0) + size
    for (route, start, epoch), size in totals.items():
        published = shares(route, epoch)
        if not published:
            recorded = recorded or _recorded(by_column)
            published = recorded[route, epoch]
        for variant, share in published.items():
            cells.setdefault(CellKey(route, start, epoch, variant), Counts()).expected += size * share


def sum_key(reward: Reward) -> SumKey:
    """Where a reward counts: under the assigned variant, at the time of the decision."""
    return SumKey(reward.route, start_of(reward.decided), reward.epoch, reward.assigned, reward.metric)


class LinearKey(NamedTuple):
    """One cell of the sums over rows of features."""

    route: str
    start: int
    """Seconds since the epoch, a multiple of `LINEAR_BUCKET_S`; `TOTAL_START` in the total over all times."""
    variant: str
    metric: str
    fingerprint: str
    """Of the declared features, in hexadecimal: rows of other columns are never mixed."""


LINEAR_BUCKET_S: Final = 60
"""Seconds of a bucket of these sums: they are wide, so there are fewer of them than of others."""
TOTAL_START: Final = -1


def linear_keys(reward: Reward, fingerprint: str) -> tuple[LinearKey, LinearKey]:
    """The bucket in which a reward with features counts, and the total."""
    where = (reward.assigned, reward.metric, fingerprint)
    start = int(reward.decided // LINEAR_BUCKET_S) * LINEAR_BUCKET_S
    return LinearKey(reward.route, start, *where), LinearKey(reward.route, TOTAL_START, *where)


def counted_value(reward: Reward) -> float | None:
    """What a reward adds to the sums; None when it stays out of them (see `Reward.worst`)."""
    if reward.forced or reward.value is None:
        return None
    return reward.value if reward.assigned == reward.served else reward.worst


class ShadowKey(NamedTuple):
    route: str
    start: int
    shadow: str


class ShadowCounts(NamedTuple):
    answers: int
    compared: int
    agreeing: int
    errors: int


def tally_shadows(shadowed: Sequence[Shadowed]) -> dict[ShadowKey, ShadowCounts]:
    """The counts to add, by cell."""
    cells: dict[ShadowKey, ShadowCounts] = {}
    for one in shadowed:
        key = ShadowKey(one.route, start_of(one.time), one.shadow)
        old = cells.get(key, ShadowCounts(0, 0, 0, 0))
        added = (1, one.agrees is not None, one.agrees is True, one.error != "")
        cells[key] = ShadowCounts(*map(int.__add__, old, map(int, added)))
    return cells


def add_counts(into: Counts, other: Counts) -> None:
    """Adds ``other`` in place."""
    into.assigned += other.assigned
    into.served += other.served
    into.errors += other.errors
    into.fallbacks += other.fallbacks
    into.expected += other.expected
    into.unseen += other.unseen
    for mine, theirs in ((into.latency, other.latency), (into.gateway, other.gateway)):
        for i, count in theirs.items():
            mine[i] = mine.get(i, 0) + count
