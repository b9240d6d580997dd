"""What a proxy adds to the latency at a fixed rate, against no proxy in the same minute."""

from __future__ import annotations

from pathlib import Path

from benchmarks import traffic
from benchmarks.bench import Bench, Options, bench
from benchmarks.peers import PEERS, Running
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample

SAME_RATE = 2000.0
_SATURATE_CONNECTIONS = 64
_MOST = 12_000.0
"""Beyond this rate generator and backend, which share a core, would be what is measured."""

_COLUMNS = (
    Column("requests/s", "rate", 1, 0),
    Column("p50 ms", "p50_us", 1e-3, 2),
    Column("p99 ms", "p99_us", 1e-3, 2, spread=True),
    Column("p99.9 ms", "p999_us", 1e-3, 2),
    Column("added p50 ms", "added_p50_us", 1e-3, 2),
    Column("added p99 ms", "added_p99_us", 1e-3, 2, spread=True),
    Column("CPU µs/request", "cpu_us", 1, 1),
)


def run(options: Options) -> Result:
    """Half of each peer's own saturation rate first, then one rate for all that can bear it."""
    with bench(options) as made:
        requests = made.requests(traffic.INFER, traffic.INFER_BODY)
        names = [name for name in made.names if name != "direct"]

        def half(name: str) -> Sample:
            # Measured in the same round, since the machine itself is now faster and now slower.
            saturation = made.closed(name, requests, _SATURATE_CONNECTIONS)["rate"]
            return _one(made, requests, name, min(saturation / 2, _MOST))

        halves = made.series(half, "half of saturation", names)
        able = [name for name in names if halves[name].median("rate") > SAME_RATE]
        same = made.series(lambda name: _one(made, requests, name, SAME_RATE), "same rate", able)
        sections = [
            Section(f"Half of its own saturation rate, at most {_MOST:,.0f}", _COLUMNS, halves),
            Section(f"{SAME_RATE:,.0f} requests a second for all", _COLUMNS, same),
        ]
        return Result("latency", options, sections, made.missing)


def _one(made: Bench, requests: Path, name: str, rate: float) -> Sample:
    """One round: no proxy and then the peer, at the same moments."""
    bare = made.fixed(Running(PEERS["direct"], made.backends[0], None), requests, rate)
    seen = made.fixed(made.running[name], requests, rate)
    return {
        **seen,
        "added_p50_us": seen["p50_us"] - bare["p50_us"],
        "added_p99_us": seen["p99_us"] - bare["p99_us"],
        "lag_p99_us": bare["lag_p99_us"],
        "errors": seen["errors"] + bare["errors"],
    }
