"""Large bodies both ways: throughput, CPU per MiB, and the memory that it takes."""

from __future__ import annotations

from pathlib import Path

from benchmarks import traffic, usage
from benchmarks.bench import Bench, Options, bench
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample
from benchmarks.servers.odd import SOURCES

CONNECTIONS = 4
_MIB = 2**20

_COLUMNS = (
    Column("MB/s", "megabytes", 1, 0, spread=True),
    Column("CPU µs/MiB", "cpu_us", 1, 0, spread=True),
    Column("of its core", "share", 100, 0, unit=" %"),
    Column("memory grew by MiB", "grew_mib", 1, 1),
)


def run(options: Options) -> Result:
    """1 and 16 MiB, up and down, four connections."""
    with bench(options, server="odd") as made:
        sections = []
        for word, size in SOURCES.items():
            for way in ("up", "down"):
                requests = _requests(made.directory / f"{way}-{word}", way, word, size)

                def measure(name: str, requests: Path = requests, size: int = size) -> Sample:
                    return _one(made, name, requests, size)

                title = f"{size // _MIB} MiB {way}"
                series = made.series(measure, title)
                sections.append(Section(title, _COLUMNS, series, ratio="cpu_us"))
        return Result("bodies", options, sections, made.missing)


def _requests(target: Path, way: str, word: str, size: int) -> Path:
    if way == "up":
        one = traffic.request(f"{traffic.MODEL}/sink", bytes(size))
    else:
        one = traffic.request(f"{traffic.MODEL}/source/{word}", b"", method="GET")
        one = one.replace(b"Content-Length: 0\r\n", b"").replace(b"Content-Type: application/json\r\n", b"")
    traffic.write_requests(target, [one])
    return target


def _one(made: Bench, name: str, requests: Path, size: int) -> Sample:
    child = made.running[name].child
    before = usage.reset_peak(child.session) if child else 0
    seen = made.closed(name, requests, CONNECTIONS, units=size / _MIB)
    return {
        **seen,
        "megabytes": seen["rate"] * size / 1e6,
        "errors": seen["errors"] + (seen["rate"] == 0),
        "grew_mib": (usage.peak(child.session) - before) / _MIB if child else 0.0,
    }
