"""Write, export and evaluate a simulated archive: CPU seconds of all threads, memory and bytes.

Run it as ``python -m benchmarks.archive [MILLIONS]``.
"""

from __future__ import annotations

import asyncio
import io
import json
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import process_time

import numpy as np

from gateway.archive.base import Archive
from gateway.archive.open import open_archive
from gateway.archive.record import WholeRecord
from gateway.ingest.export import export
from gateway.ingest.ope_dataset import OffPolicyDataset
from gateway.record.events import Outcome, Reward
from gateway.state.base import DecisionRecord
from policies.offpolicy import evaluate

HOUR = 472_222
CHUNK = 2000
ROWS_PER_HOUR = 100_000


def main() -> None:
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    rows, figures = round(millions * 1e6), dict[str, object]()
    with tempfile.TemporaryDirectory() as folder:
        archive = open_archive(folder)
        began = process_time()
        for hour in range(rows // ROWS_PER_HOUR):
            writer = archive.writer("digits", HOUR + hour, final=True)
            for records in _simulated(HOUR + hour):
                writer.add(records)
            writer.commit()
        figures["write_s"] = process_time() - began
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        figures["bytes_per_row"] = size / rows
        figures["rss_after_write_mb"] = _rss_mb()
        for name in ("parquet", "evaluate"):
            began = process_time()
            asyncio.run(_exported(archive) if name == "parquet" else _evaluated(archive))
            figures[f"{name}_s"], figures[f"rss_after_{name}_mb"] = process_time() - began, _rss_mb()
    print(json.dumps({"rows": rows} | figures))


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


async def _exported(archive: Archive) -> None:
    await export(WholeRecord(None, archive), io.BufferedWriter(_Nowhere()), format="parquet", route="digits")


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return len(memoryview(data))  # type: ignore[arg-type]


async def _evaluated(archive: Archive) -> None:
    dataset = OffPolicyDataset("correct")
    async for records in WholeRecord(None, archive).chunks(route="digits"):
        dataset.add(records)
    assert evaluate(dataset.rows, {"v1": 0.5, "v2": 0.5}).refusal is None


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
