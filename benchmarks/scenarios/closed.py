"""The main table: a closed loop at several concurrencies, CPU per request of each peer."""

from __future__ import annotations

from benchmarks import traffic
from benchmarks.bench import Options, bench
from benchmarks.load.wrk import closed_loop
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample, interleave

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
                seconds=_WARM_SECONDS,
                cores=options.cores.load,
            )
        sections = []
        for connections in options.concurrency:

            def measure(name: str, connections: int = connections) -> Sample:
                return made.closed(name, requests, connections)

            title = f"Concurrency {connections}"
            series = interleave(made.names, options.rounds, measure, title=title, before=made.only)
            sections.append(Section(title, COLUMNS, series, ratio="cpu_us"))
        return Result("closed", options, sections, made.missing)
