"""The model server on a device: `python -m benchmarks.encoder --device cuda` (or `cpu`, for a trial).

`bench-encoder` is a transformer encoder over 128 tokens. Each mode is served and measured by wrk in a closed loop;
the ceiling is the same network in a plain loop in this process, with its inputs on the device already, at the
largest batch. `process` is the default on GPUs: slots, overlapped copies, CUDA graphs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.children import Child, free_ports
from benchmarks.load.wrk import closed_loop
from benchmarks.machine import cores, facts
from benchmarks.traffic import write_requests

TOKENS = 128
MODES: dict[str, dict[str, Any]] = {
    "thread": {"executor": "thread"},
    "process, no graphs": {"executor": "process", "optimization": {"cuda": {"graphs": False}}},
    "process": {"executor": "process"},
    "process, tf32": {"executor": "process", "precision": "tf32"},
    "process, bf16": {"executor": "process", "precision": "bf16"},
}
CODE = """
import torch

class Model(torch.nn.Module):
    def __init__(self, width=512, layers=6):
        super().__init__()
        torch.manual_seed(1)
        self.embed = torch.nn.Embedding(30000, width)
        layer = torch.nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens):
        return self.encoder(self.embed(tokens)).mean(dim=1)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    mode: str
    batch: int
    connections: int
    rows_per_s: float
    p50_ms: float
    p99_ms: float
    ceiling: float
    """Rows per second of the plain loop at this batch size, in the precision of the mode."""
    errors: int


def write_model(root: Path, mode: str, batch: int, width: int, layers: int) -> None:
    """The repository with `bench-encoder` in ``mode``."""
    folder = root / "bench-encoder" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(CODE)
    document = {
        "name": "bench-encoder",
        "platform": "pytorch_module",
        "max_batch_size": batch,
        "input": [{"name": "tokens", "data_type": "TYPE_INT64", "dims": [TOKENS]}],
        "output": [{"name": "vector", "data_type": "TYPE_FP32", "dims": [width]}],
        "parameters": {"width": width, "layers": layers},
        **MODES[mode],
    }
    (root / "bench-encoder" / "config.json").write_text(json.dumps(document))


def requests(count: int = 50) -> Iterator[bytes]:
    """Whole HTTP requests of one row in binary form."""
    random = np.random.default_rng(1)
    tensor = {"name": "tokens", "datatype": "INT64", "shape": [1, TOKENS]}
    document = {"inputs": [{**tensor, "parameters": {"binary_data_size": TOKENS * 8}}]}
    head = json.dumps({**document, "parameters": {"binary_data_output": True}}).encode()
    for _ in range(count):
        content = head + random.integers(0, 30000, TOKENS).tobytes()
        yield (
            "POST /v2/models/bench-encoder/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(content)}\r\n\r\n"
        ).encode() + content


def ceiling(device: str, mode: str, batch: int, width: int, layers: int, seconds: float) -> float:
    """Rows per second of a plain loop."""
    import torch

    from backends.runtime.cuda import use_precision

    precision = str(MODES[mode].get("precision", "fp32"))
    use_precision(precision)
    if device == "cpu":  # as the server does with few parameters; more threads only wait on a shared machine
        torch.set_num_threads(1)
    names: dict[str, Any] = {}
    exec(CODE, names)
    model = names["Model"](width, layers).eval().to(device)
    if precision == "bf16":
        model = model.to(torch.bfloat16)
    tokens = torch.randint(0, 30000, (batch, TOKENS), device=device)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    with torch.inference_mode():
        for _ in range(3):
            model(tokens)
        wait()
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            for _ in range(5):
                model(tokens)
            wait()
            rounds += 5
    return rounds * batch / (time.perf_counter() - start)


def measure(root: Path, given: argparse.Namespace, mode: str, batch: int) -> Iterator[Row]:
    """One server at several numbers of connections."""
    (port,) = free_ports(1)
    device = "cuda" if given.device == "auto" else given.device
    top = ceiling(device, mode, batch, given.width, given.layers, given.seconds)
    write_model(root, mode, batch, given.width, given.layers)
    command = [
        sys.executable,
        "-m",
        "backends.cli",
        "--models",
        str(root),
        "--port",
        str(port),
        "--device",
        given.device,
    ]
    file = root / ".requests"
    write_requests(file, requests())
    with Child("turnout", command, cores=cores().proxy, log=root / ".log") as child:
        child.wait_listening(port, 60)
        while not httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").is_success:
            time.sleep(0.1)
        for connections in given.connections:
            closed_loop(port, file, connections=connections, seconds=1, cores=cores().load)
            seen = closed_loop(port, file, connections=connections, seconds=given.seconds, cores=cores().load)
            yield Row(
                mode, batch, connections, round(seen.rate, 1), round(seen.p50_us / 1e3, 2),
                round(seen.p99_us / 1e3, 2), round(top, 1), seen.errors,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, cpu, or auto (every GPU)")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 32, 128])
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--json", type=Path, help="also write the table here")
    given = parser.parse_args()
    table = []
    print(f"{'mode':20s} batch  conns  rows/s  of ceiling  p50 ms  p99 ms  errors")
    for mode in given.modes:
        for batch in given.batches:
            with tempfile.TemporaryDirectory() as folder:
                for row in measure(Path(folder), given, mode, batch):
                    table.append(row)
                    print(
                        f"{row.mode:20s} {row.batch:5d} {row.connections:6d} {row.rows_per_s:7.0f}"
                        f" {row.rows_per_s / row.ceiling:11.0%} {row.p50_ms:7.2f} {row.p99_ms:7.2f}"
                        f" {row.errors:7d}",
                        flush=True,
                    )
    if given.json:
        given.json.write_text(
            json.dumps({"machine": facts(), "rows": [asdict(row) for row in table]}, indent=2)
        )


if __name__ == "__main__":
    main()
