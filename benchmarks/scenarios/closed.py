"""The main table: a closed loop at several concurrencies, CPU per request of each peer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import traffic
from benchmarks.bench import Bench, Options, bench
from benchmarks.load.wrk import closed_loop
from benchmarks.result import Column, Result, Section

_WARM_SECONDS = 1

COLUMNS = (
    Column("requests/s", "rate", 1, 0, spread=True),
    Column("p50 ms", "p50_us", 1e-3, 2),
    Column("p99 ms", "p99_us", 1e-3, 2),
    Column("CPU µs/request", "cpu_us", 1, 1, spread=True),
    Column("of its core", "share", 100, 0, unit=" %"),
)


def run(options: Options) -> Result:
    """Each peer at each concurrency, round by round."""
    with bench(options) as made:
        requests = made.requests(traffic.INFER, traffic.INFER_BODY)
        for name in made.names:
            closed_loop(
                made.running[name].port,
                requests,
                connections=8,
                seconds=min(_WARM_SECONDS, options.seconds),
                cores=options.cores.load,
            )
        sections = concurrencies(made, requests, options.concurrency, COLUMNS)
        return Result("closed", options, sections, made.missing)


def concurrencies(
    made: Bench,
    requests: Path,
    numbers: Sequence[int],
    columns: Sequence[Column],
    labels: Mapping[str, str] | None = None,
) -> list[Section]:
    """A table of closed loops for each number of connections."""
    sections = []
    for number in numbers:
        title = f"Concurrency {number}"
        series = made.series(partial(made.closed, requests=requests, connections=number), title)
        sections.append(Section(title, columns, series, ratio="cpu_us", labels=labels))
    return sections
