"""What the bundled model server does on one core, alone: `python -m benchmarks.backend [--json FILE]`.

One-row requests of the reference model `digits`, JSON and binary, in a closed loop by wrk at several
numbers of connections. The server (both its threads) has one core, wrk another.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np

from backends.reference.digits import held_out
from backends.train import ensure
from benchmarks.children import Child, free_ports
from benchmarks.load.wrk import closed_loop
from benchmarks.machine import cores, facts
from benchmarks.traffic import write_requests
from benchmarks.usage import usage

CONNECTIONS = (1, 8, 32, 128)
FORMS = ("json", "binary")
ROWS = (1, 16)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; times in microseconds."""

    version: int
    form: str
    rows: int
    connections: int
    requests_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    """User and system time of the server's process per request."""
    batch_rows: float
    """Mean rows of a batch."""
    errors: int


def body(pixels: np.ndarray, form: str) -> tuple[bytes, str]:
    """A request's body, and the header field that goes with it."""
    tensor: dict[str, object] = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape)}
    document: dict[str, object] = {"inputs": [tensor]}
    if form == "json":
        tensor["data"] = pixels.ravel().tolist()
        return json.dumps(document).encode(), ""
    raw = pixels.tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    document["parameters"] = {"binary_data_output": True}
    head = json.dumps(document).encode()
    return head + raw, f"Inference-Header-Content-Length: {len(head)}\r\n"


def requests(version: int, form: str, rows: int, count: int = 200) -> Iterator[bytes]:
    """Whole HTTP requests, each with other images."""
    images = held_out().pixels
    for number in range(count):
        content, field = body(np.take(images, range(number, number + rows), axis=0, mode="wrap"), form)
        head = (
            f"POST /v2/models/digits/versions/{version}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"{field}Content-Length: {len(content)}\r\n\r\n"
        )
        yield head.encode() + content


@contextmanager
def serving(models: Path, scratch: Path) -> Iterator[tuple[Child, int]]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "backends.cli", "--models", str(models), "--port", str(port)]
    with Child("backend", command, cores=cores().proxy, log=scratch / "backend.log") as child:
        child.wait_listening(port)
        while httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code != 200:
            time.sleep(0.1)
        yield child, port


def measure(child: Child, port: int, scratch: Path, row: tuple[int, str, int, int], seconds: int) -> Row:
    version, form, rows, connections = row
    file = scratch / f"{version}-{form}-{rows}"
    if not file.exists():
        write_requests(file, requests(version, form, rows))
    closed_loop(port, file, connections=connections, seconds=1, cores=cores().load)
    cpu, (count, batches) = usage(child.session).cpu_us, done(port, version)
    seen = closed_loop(port, file, connections=connections, seconds=seconds, cores=cores().load)
    cpu = usage(child.session).cpu_us - cpu
    later, more = done(port, version)
    return Row(
        *row,
        requests_per_s=round(seen.rate, 1),
        p50_us=seen.p50_us,
        p99_us=seen.p99_us,
        cpu_us=round(cpu / max(seen.requests, 1), 1),
        batch_rows=round((later - count) / max(more - batches, 1), 1),
        errors=seen.errors,
    )


def done(port: int, version: int) -> tuple[int, int]:
    """Rows answered and batches run so far."""
    stats = httpx.get(f"http://127.0.0.1:{port}/v2/models/digits/versions/{version}/stats").json()[
        "model_stats"
    ]
    return stats[0]["inference_count"], stats[0]["execution_count"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write the table here")
    given = parser.parse_args()
    cases = [(version, form, 1, many) for version in (1, 2) for form in FORMS for many in CONNECTIONS]
    cases += [(2, form, 16, 32) for form in FORMS]
    table = []
    print("version form   rows conns  requests/s  p50 ms  p99 ms  CPU us  rows/batch  errors")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        ensure(scratch / "models")
        with serving(scratch / "models", scratch) as (child, port):
            for case in cases:
                row = measure(child, port, scratch, case, given.seconds)
                table.append(row)
                print(
                    f"{row.version:7d} {row.form:6s} {row.rows:4d} {row.connections:5d} {row.requests_per_s:11.0f}"
                    f" {row.p50_us / 1e3:7.2f} {row.p99_us / 1e3:7.2f} {row.cpu_us:7.0f} {row.batch_rows:11.1f}"
                    f" {row.errors:7d}",
                    flush=True,
                )
    if given.json:
        given.json.write_text(
            json.dumps({"machine": facts(), "rows": [asdict(row) for row in table]}, indent=2)
        )


if __name__ == "__main__":
    main()
