"""Write, export and evaluate a simulated archive: CPU seconds of all threads, memory and bytes.

Run it as ``python -m benchmarks.archive [MILLIONS [URL]]``; without a URL, in a folder of its own.
"""

from __future__ import annotations

import asyncio
import io
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import process_time

import numpy as np

from gateway.archive.base import Archive
from gateway.archive.open import open_archive
from gateway.archive.record import WholeRecord
from gateway.ingest.export import export
from gateway.ingest.ope_dataset import OffPolicyDataset
from gateway.ingest.spilled_units import SpilledUnits
from gateway.record.events import Outcome, Reward
from gateway.state.base import DecisionRecord
from policies.offpolicy.evaluation import Evaluation, Report

HOUR = 472_222
CHUNK = 2000
ROWS_PER_HOUR = 100_000


def main() -> None:
    rows = round(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 1_000_000
    figures: dict[str, object] = {"rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        place = sys.argv[2] if len(sys.argv) > 2 else folder
        for step in (_write, _export, _evaluate):
            # Each in a process of its own: the most memory is that of the process.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                name = step.__name__.strip("_")
                figures[f"{name}_s"], figures[f"{name}_mb"] = pool.submit(
                    _measured, step, place, rows
                ).result()
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        if size:
            figures["bytes_per_row"] = size / rows
    print(json.dumps(figures))


def _measured(step: Callable[[Archive, int], None], place: str, rows: int) -> tuple[float, float]:
    """Seconds of CPU, and the most memory in MB."""
    began = process_time()
    step(open_archive(place), rows)
    return process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _write(archive: Archive, rows: int) -> None:
    for hour in range(rows // ROWS_PER_HOUR):
        writer = archive.writer("digits", HOUR + hour, final=True)
        for records in _simulated(HOUR + hour):
            writer.add(records)
        writer.commit()


def _simulated(hour: int) -> Iterator[list[DecisionRecord]]:
    random = np.random.default_rng(hour)
    for start in range(0, ROWS_PER_HOUR, CHUNK):
        times = hour * 3600.0 + (start + np.arange(CHUNK)) * (3600.0 / ROWS_PER_HOUR)
        units = random.integers(0, 1_000_000, CHUNK)
        yield [
            _record(*each) for each in zip(times.tolist(), units.tolist(), random.random(CHUNK), strict=True)
        ]


def _record(time: float, unit: int, draw: float) -> DecisionRecord:
    variant = "v2" if unit % 10 == 0 else "v1"
    propensity = 0.1 if variant == "v2" else 0.9
    decision = int(time * 1000).to_bytes(6, "big") + (unit << 20 | int(draw * 1048576)).to_bytes(10, "big")
    outcome = Outcome(
        decision, time, "digits", "split", 1, 1, unit, True, variant, variant, propensity, False, 200, "", False,
        "", 0.1, 3.0 + draw, 3.1 + draw, 276, 120, decision.hex(), "", "",
    )  # fmt: skip
    if draw >= 0.5:
        return DecisionRecord(outcome, (), ())
    of = ("digits", variant, variant, 1, propensity, unit, False)
    return DecisionRecord(outcome, (Reward(decision, "correct", float(draw < 0.3), time + 5, time, *of),), ())


def _export(archive: Archive, rows: int) -> None:
    target = io.BufferedWriter(_Nowhere())
    assert asyncio.run(export(WholeRecord(None, archive), target, format="parquet", route="digits")) == rows


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return len(memoryview(data))  # type: ignore[arg-type]


def _evaluate(archive: Archive, rows: int) -> None:
    report = asyncio.run(_evaluated(archive))
    assert report.refusal is None
    assert sum(report.left_out.values()) + report.rows == rows


async def _evaluated(archive: Archive) -> Report:
    dataset, evaluation = OffPolicyDataset("correct"), Evaluation({"v1": 0.5, "v2": 0.5}, units=SpilledUnits)
    async for records in WholeRecord(None, archive).chunks(route="digits"):
        evaluation.add(dataset.rows(records))
    return evaluation.report()


if __name__ == "__main__":
    main()
