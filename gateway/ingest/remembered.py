"""What is made of the buckets of a route, a span of time at a time, and again only of spans in which cells changed.

Statistics over the history of a route read all of it: two hours of a bandit that publishes each second are tens of
thousands of cells. Between two looks a few change: those of the last seconds, and those of decisions that were
rewarded meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf, lcm
from typing import Final, Generic, NamedTuple, TypeVar

from gateway.config.service import MetricConfig
from gateway.ingest.evidence import HOUR_S, RECENT_S, ended_before
from gateway.state.base import BUCKET_S, MAX_CLOCK_SKEW_S, Bucket
from gateway.state.folding import LADDER, cell_width
from gateway.state.store import AggregateStore

T = TypeVar("T")
SPAN_S: Final = 60.0
DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
MAX_CELLS: Final = 120
"""Cells of an epoch and a variant, one after the other, that are read together: work on thousands of objects in one
step of the interpreter (to sort them, to free them) holds up the event loop, in whatever thread it is done."""
MAX_AGE_S: Final = 3600.0
"""Seconds after which all is read again: replicas of an earlier release do not say what they change."""
_MINUTES_DAYS, _DAYS, _WEEKS = 2, 7, 13
"""Days before today whose hours are a span each (cells of a minute, or just folded); that are a span each; and weeks
before these. All before them is one span, with cells of a day."""


class Span(NamedTuple):
    """A part of the time, and the length of the buckets in it; all in seconds."""

    begin: float
    end: float
    step: float


def spans(since: float, until: float, step: float = BUCKET_S) -> list[Span]:
    """The time from ``since`` to ``until`` in spans with buckets of ``step`` seconds."""
    length = -(-SPAN_S // step) * step  # a bucket lies in one span
    return [*_cut(since, until, length, step)]


def spans_of_all(now: float) -> list[Span]:
    """All time, with buckets as `evidence.all_buckets` has them."""
    border = (now - RECENT_S) // HOUR_S * HOUR_S
    hours, days = (max(border // DAY_S - back, 0.0) * DAY_S for back in (_MINUTES_DAYS, _DAYS))
    weeks = max(days // WEEK_S - _WEEKS, 0.0) * WEEK_S
    return [
        *([Span(0.0, weeks, HOUR_S)] if weeks else []),
        *_cut(weeks, days, WEEK_S, HOUR_S),
        *_cut(days, hours, DAY_S, HOUR_S),
        *_cut(hours, border, HOUR_S, HOUR_S),
        *spans(border, now + BUCKET_S),
    ]


def windows_over(metrics: Mapping[str, MetricConfig]) -> Callable[[Span, float], object]:
    """The ``stage`` (`Remembered`) of what `evidence.of_buckets` makes: how far into a span missing values count."""
    windows = [metric.window for metric in metrics.values() if metric.missing == "zero"]

    def stage(span: Span, now: float) -> object:
        return [min(max(ended_before(now, window, span.step), span.begin), span.end) for window in windows]

    return stage


def runs(wanted: Iterable[Span], now: float) -> Iterable[list[Span]]:
    """Neighbouring spans that are read together: `MAX_CELLS` at most, or one span."""
    run: list[Span] = []
    number = 0.0
    for span in wanted:
        cells = (span.end - span.begin) / cell_width(now - span.end)
        if run and ((run[-1].end, run[-1].step) != (span.begin, span.step) or number + cells > MAX_CELLS):
            yield run
            run, number = [], 0.0
        run.append(span)
        number += cells
    if run:
        yield run


def _cut(since: float, until: float, length: float, step: float) -> Iterable[Span]:
    begin = since
    while begin < until:
        end = min((begin // length + 1) * length, until)
        yield Span(begin, end, step)
        begin = end


def pieces(since: float, until: float, now: float, step: float = BUCKET_S) -> Iterable[tuple[float, float]]:
    """The time from ``since`` to ``until`` in parts of whole buckets of ``step`` seconds, each with `MAX_CELLS` or
    little more; cells of a day are all in one part. No part ends within a cell, even if it is folded meanwhile."""
    begin = since
    while begin < until:
        limits = [age for age, _ in LADDER if age <= now - begin]
        width = cell_width(now - begin)
        end = begin + (MAX_CELLS * width if len(limits) < len(LADDER) else inf)
        border, whole = now - max(limits, default=-inf), lcm(int(step), width)
        end = min(max(min(end, border) // whole, begin // whole + 1) * whole, until)
        yield begin, end
        begin = end


class Remembered(Generic[T]):
    """What was made of each span of one route."""

    def __init__(
        self,
        make: Callable[[list[Bucket], float, float], T],
        stage: Callable[[Span, float], object] = lambda span, now: None,
    ) -> None:
        """``make``: of the buckets of a span, their length, and the time; it runs in a thread. ``stage``: of a span
        and the time, what else it depends on: once that is another, it is made again."""
        self._make, self._stage = make, stage
        self._version, self._begun = -1, 0.0
        self._parts: dict[Span, tuple[object, T]] = {}

    async def read(self, store: AggregateStore, route: str, wanted: Sequence[Span], *, now: float) -> list[T]:
        """What is made of each of the ``wanted`` spans, in their order, as their cells are now.

        They are read without histograms. Raises StoreUnavailable.
        """
        if not now - MAX_AGE_S < self._begun <= now:
            self._version, self._begun = -1, now
        version, starts = await store.changed_cells(route, since=self._version)
        known = {} if starts is None else await asyncio.to_thread(self._unchanged, starts, now)
        missing = [span for span in wanted if span not in known]
        for run in runs(missing, now):
            begin, end, step = run[0].begin, run[-1].end, run[0].step
            made = partial(self._made, run, now)
            known.update(await store.reduced_series(route, made, since=begin, until=end, step=step))
        self._version, self._parts = version, {span: known[span] for span in wanted}
        return [part for _, part in self._parts.values()]

    def _unchanged(self, starts: Iterable[int], now: float) -> dict[Span, tuple[object, T]]:
        """The parts without those that hold a bucket that changed, or are at another stage."""
        changed = {_folded(start, now) for start in starts}
        return {
            span: (stage, part)
            for span, (stage, part) in self._parts.items()
            if stage == self._stage(span, now)
            and not any(low < span.end and span.begin < high for low, high in changed)
        }

    def _made(self, run: Sequence[Span], now: float, buckets: list[Bucket]) -> dict[Span, tuple[object, T]]:
        """Of neighbouring spans."""
        parts: list[list[Bucket]] = [[] for _ in run]
        place = 0
        for bucket in buckets:
            while bucket.start >= run[place].end:
                place += 1
            parts[place].append(bucket)
        return {
            span: (self._stage(span, now), self._make(part, span.step, now))
            for span, part in zip(run, parts, strict=True)
        }


def _folded(start: int, now: float) -> tuple[float, float]:
    """The limits of what the bucket at ``start`` is read with, also if it was just folded."""
    age = now - start + MAX_CLOCK_SKEW_S
    width = max(SPAN_S, cell_width(age))
    return start // width * width, (start // width + 1) * width
