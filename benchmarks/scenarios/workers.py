"""One to four workers on all cores. With two cores the load and the backend share them: see the docs."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

from benchmarks import traffic
from benchmarks.bench import Options, bench
from benchmarks.machine import Cores
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Series
from benchmarks.scenarios.closed import COLUMNS

CONNECTIONS = 64
WORKERS = (1, 2, 3, 4)

_COLUMNS = (*COLUMNS[:4], Column("of all cores", "share", 100, 0, unit=" %"))


def run(options: Options) -> Result:
    """Every peer that has workers, with each number of them; nothing is pinned to a core of its own."""
    every = tuple(sorted(os.sched_getaffinity(0)))
    free = replace(options, cores=Cores(every, every, every))
    names = tuple(name for name in options.peers if name not in ("direct", "starlette"))
    sections, missing = [], {}
    for workers in WORKERS:
        series, gone = _with_workers(replace(free, peers=names), workers)
        missing.update(gone)
        sections.append(Section(f"{workers} worker{'s' * (workers > 1)}", _COLUMNS, series, ratio="cpu_us"))
    return Result("workers", options, sections, missing)


def _with_workers(options: Options, workers: int) -> tuple[dict[str, Series], dict[str, str]]:
    with bench(options, workers=workers) as made:
        requests = made.requests(traffic.INFER, traffic.INFER_BODY)
        measure = partial(made.closed, requests=requests, connections=CONNECTIONS)
        return made.series(measure, f"{workers} workers"), made.missing
