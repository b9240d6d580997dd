"""Event streams: how much older an event gets, and what it costs; then as many as will go through."""

from __future__ import annotations

from benchmarks import traffic
from benchmarks.bench import Bench, Meter, Options, bench
from benchmarks.load.streams import read_streams
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample

STREAMS = 100
GAP_MS = 20
FLOOD_EVENTS = 1500
"""Of each stream, sent as fast as they are taken."""

_PACED = (
    Column("events/s", "rate", 1, 0),
    Column("age p50 ms", "p50_us", 1e-3, 3, spread=True),
    Column("age p99 ms", "p99_us", 1e-3, 3, spread=True),
    Column("CPU µs/event", "cpu_us", 1, 1, spread=True),
)
_FLOOD = (Column("events/s", "rate", 1, 0, spread=True), Column("CPU µs/event", "cpu_us", 1, 2, spread=True))


def run(options: Options) -> Result:
    """100 streams at 50 events a second each, then 100 streams without pauses."""
    with bench(options, server="odd") as made:
        paced = f"{traffic.MODEL}/sse?count={int(options.seconds * 1000 / GAP_MS)}&gap={GAP_MS}"
        flood = f"{traffic.MODEL}/sse?count={FLOOD_EVENTS}&gap=0"
        sections = [
            Section(
                f"{STREAMS} streams, an event every {GAP_MS} ms each",
                _PACED,
                made.series(lambda name: one(made, name, paced), "paced"),
                ratio="cpu_us",
            ),
            Section(
                f"{STREAMS} streams without pauses, {FLOOD_EVENTS} events each",
                _FLOOD,
                made.series(lambda name: one(made, name, flood), "flood"),
                ratio="cpu_us",
            ),
        ]
        return Result("streaming", options, sections, made.missing)


def one(made: Bench, name: str, target: str) -> Sample:
    """One round of one peer; every event of every stream must arrive."""
    options, running = made.options, made.running[name]
    meter = Meter(running, options.cores.proxy)
    seen = read_streams(
        running.port,
        target,
        streams=STREAMS,
        limit=options.seconds + 20.0,
        cores=options.cores.load,
        priority=options.priority,
    )
    due = STREAMS * int(target.split("count=")[1].split("&")[0])
    return {
        "rate": seen.events / seen.duration_us * 1e6,
        "p50_us": seen.p50_us,
        "p99_us": seen.p99_us,
        "errors": seen.errors + due - seen.events,
        **meter.read(seen.events),
    }
