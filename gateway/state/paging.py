"""How outcomes are cut into pages, and which of them a filter lets through. Pure; for every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from operator import gt, itemgetter
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.record.events import Batch, Outcome, columns, same
from gateway.state.base import OutcomeFilter

MAX_PAGE_SPAN_MS: Final = 3_600_000
"""From a page's first decision to its last at most, so that a look-up needs to see few pages."""
MAX_PAGE_ROWS: Final = 1024
"""In one page at most."""

CLOCK_SLACK_MS: Final = 1000
"""Between the time of an outcome and that of its decision, at most."""
COARSE_BYTES: Final = 4
"""Of a decision's time, in its marks: steps of 65.5 s."""
SLICE_BYTES: Final = 5
"""Of a decision's time, before scattered marks: steps of 256 ms, so that those of a batch lie together."""
_OF_MARK: Final = (6, 7, 8, 9, 10, 11, 13, 15)
"""The bytes of a decision that are its scattered mark."""
MARK_BYTES: Final = len(_OF_MARK)
_OF_BLOCK: Final = (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14)
"""The bytes of a decision that are the same in all of a block."""


def milliseconds(decision: bytes) -> int:
    """The time that a decision begins with."""
    return int.from_bytes(decision[:6], "big")


def distinct(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """At least one outcome, without all but the last of those with the same decision."""
    decisions = columns(outcomes).decision
    if len(set(decisions)) == len(decisions):
        return outcomes
    return list(dict(zip(decisions, outcomes, strict=True)).values())


def parts(outcomes: Sequence[Outcome]) -> Iterator[Batch]:
    """The outcomes in order of decision, in runs of at most `MAX_PAGE_ROWS` rows and `MAX_PAGE_SPAN_MS`."""
    if not outcomes:
        return
    ordered = _ordered(outcomes)
    decisions, start = ordered.columns.decision, 0
    while start < len(decisions):
        limit = milliseconds(decisions[start]) + MAX_PAGE_SPAN_MS
        end = min(start + MAX_PAGE_ROWS, len(decisions))
        if milliseconds(decisions[end - 1]) > limit:
            end = next(i for i in range(start, end) if milliseconds(decisions[i]) > limit)
        yield ordered[start:end] if end - start < len(decisions) else ordered
        start = end


def _ordered(outcomes: Sequence[Outcome]) -> Batch:
    by_column = columns(outcomes)
    decisions = by_column.decision
    if not any(map(gt, decisions, islice(decisions, 1, None))):
        return Batch(by_column)
    order = itemgetter(*sorted(range(len(decisions)), key=decisions.__getitem__))
    return Batch(Outcome._make(c if same(c) else order(c) for c in by_column))


def just_behind(decision: bytes) -> bytes:
    """The least decision after one: what is ``before`` it goes up to that one."""
    return min(int.from_bytes(decision, "big") + 1, (1 << 128) - 1).to_bytes(16, "big")


Scan = Callable[[OutcomeFilter], Awaitable[tuple[list[Outcome], bytes | None]]]


async def every_step(scan: Scan, query: OutcomeFilter) -> list[Outcome]:
    """What `Store.outcomes` returns."""
    found: list[Outcome] = []
    before = query.before
    while True:
        step, before = await scan(replace(query, before=before, limit=query.limit - len(found)))
        found += step
        if before is None or len(found) >= query.limit:
            return found


class Marks(NamedTuple):
    """What remembers that decisions are in the record.

    Neither part has the lower bits of a decision's milliseconds: a mark that is set already is a reason to look, not a
    proof.
    """

    blocks: dict[bytes, int]
    """Of the gateway's own decisions, which are numbered: a bit for each, 256 in a block (`COARSE_BYTES` of the time,
    the process, the upper part of the number)."""
    scattered: dict[bytes, bytes]
    """Of those whose id another proxy drew (`gateway.record.stamp`): by `SLICE_BYTES` of the time, 64 random bits of
    each."""


def marks(decisions: Iterable[bytes]) -> Marks:
    """Marks of distinct decisions."""
    given = list(decisions)
    rows = np.frombuffer(b"".join(given), np.uint8).reshape(-1, 16)
    # The version and the variant of a UUID; the number of a process gets there after a billion decisions.
    drawn = (rows[:, 12] & 0xF0 == 0x40) & (rows[:, 14] & 0xC0 == 0x80)
    if not drawn.any():
        return Marks(_by_block(given), {})
    numbered = [decision for decision, other in zip(given, drawn.tolist(), strict=True) if not other]
    return Marks(_by_block(numbered), _by_slice(rows[drawn]))


def _by_slice(rows: NDArray[np.uint8]) -> dict[bytes, bytes]:
    """`Marks.scattered`."""
    times: NDArray[np.int64] = rows[:, :SLICE_BYTES].astype(np.int64) @ 256 ** np.arange(SLICE_BYTES)[::-1]
    order = np.argsort(times, kind="stable")
    slices, starts = np.unique(times[order], return_index=True)
    data = rows[order][:, _OF_MARK].tobytes()
    ends = [*(starts * MARK_BYTES).tolist(), len(data)]
    return {
        time.to_bytes(SLICE_BYTES, "big"): data[start:end]
        for time, (start, end) in zip(slices.tolist(), pairwise(ends), strict=True)
    }


def _by_block(decisions: list[bytes]) -> dict[bytes, int]:
    """`Marks.blocks`; the place in a block is the number's last byte."""
    decisions.sort()
    rows = np.frombuffer(b"".join(decisions), np.uint8).reshape(-1, 16)
    moved = (rows[1:, _OF_BLOCK] != rows[:-1, _OF_BLOCK]).any(axis=1)
    starts = [0, *(np.flatnonzero(moved) + 1).tolist(), len(decisions)] if decisions else []
    blocks: dict[bytes, int] = {}
    for start, end in pairwise(starts):
        places = np.zeros(256, np.uint8)
        places[rows[start:end, 15]] = 1
        block = decisions[start][:COARSE_BYTES] + decisions[start][6:15]
        bits = int.from_bytes(np.packbits(places, bitorder="little").tobytes(), "little")
        blocks[block] = blocks.get(block, 0) | bits
    return blocks


def matches(outcome: Outcome, query: OutcomeFilter) -> bool:
    """Whether the filter lets the outcome through (its limit aside). A variant matches the assigned or
    the served one; ``since`` is inclusive, ``until`` exclusive."""
    return (
        (query.before is None or outcome.decision < query.before)
        and (query.route is None or outcome.route == query.route)
        and (query.variant is None or query.variant in (outcome.assigned, outcome.served))
        and (query.status is None or outcome.status == query.status)
        and (not query.errors_only or outcome.error != "")
        and (query.error is None or outcome.error == query.error)
        and (query.fallback is None or outcome.fallback == query.fallback)
        and (query.forced is None or outcome.forced == query.forced)
        and (query.min_ms is None or outcome.total_ms >= query.min_ms)
        and (query.unit is None or outcome.unit == query.unit)
        and (query.request_id is None or outcome.request_id == query.request_id)
        and (query.principal is None or outcome.principal == query.principal)
        and (query.since is None or outcome.time >= query.since)
        and (query.until is None or outcome.time < query.until)
    )
