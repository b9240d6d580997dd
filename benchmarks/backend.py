"""What the bundled model server costs on one core, next to FastAPI: `python -m benchmarks.backend`.

Requests of the reference model `digits`, JSON and binary, in a closed loop by wrk at several numbers of
connections. All servers are up at the same time, on one core, and take turns in every round; wrk has another
core. `--against DIR` adds the server of another checkout, such as an older one, `--triton ENVIRONMENT` a real
Triton with the network in its Python backend, and `--api-server-count N` this server with N API servers. `--images`
sends images of 602 kB to a model that hardly looks at them. A larger model on a GPU: `python -m benchmarks.encoder`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from backends.reference.digits import held_out
from backends.train import ensure
from benchmarks.children import Child, free_ports
from benchmarks.load.wrk import closed_loop
from benchmarks.machine import cores, facts
from benchmarks.traffic import write_requests
from benchmarks.usage import process_cpu_us, usage

CONNECTIONS = (1, 8, 32, 128)
FORMS = ("json", "binary")
VERSIONS = (1, 2)
IMAGE = (3, 224, 224)
IMAGES = {
    "name": "images",
    "platform": "pytorch_module",
    "max_batch_size": 32,
    "input": [{"name": "pixels", "data_type": "TYPE_FP32", "dims": IMAGE}],
    "output": [{"name": "corner", "data_type": "TYPE_FP32", "dims": []}],
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: medians over the rounds, times in microseconds."""

    server: str
    version: int
    form: str
    connections: int
    requests_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    """User and system time per request, of all processes of the server."""
    main_us: float
    """Of the process that has the models, alone."""
    ratio: float
    """Of `cpu_us` to the first server's, median over the rounds."""
    errors: int


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    child: Child
    port: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float
    main_us: float
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


def requests(version: int, form: str, rows: int = 1, count: int = 200) -> Iterator[bytes]:
    """Whole HTTP requests, each with other images."""
    images = held_out().pixels
    for number in range(count):
        yield request(f"digits/versions/{version}", images[number : number + rows], form)


def image_requests(rows: int) -> Iterator[bytes]:
    """Whole HTTP requests for the model `images`."""
    chance = np.random.default_rng(1)
    for _ in range(4):
        yield request("images", chance.random((rows, *IMAGE), dtype=np.float32), "binary")


def request(model: str, pixels: np.ndarray, form: str) -> bytes:
    """A whole HTTP request."""
    content, field = body(pixels, form)
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"{field}Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def write_image_model(root: Path) -> None:
    """The model `images`."""
    folder = root / "images" / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.json").write_text(json.dumps(IMAGES))
    (folder / "model.py").write_text(
        "class Model:\n    def __call__(self, pixels):\n        return pixels[:, 0, 0, 0].clone()\n"
    )


def start(stack: ExitStack, models: Path, scratch: Path, given: argparse.Namespace) -> list[Server]:
    """All servers, ready."""
    own = [sys.executable, "-m", "backends.cli", "--models", str(models), "--port"]
    peer = [sys.executable, "-m"]
    commands = {"turnout": own}
    if not given.images:
        commands["fastapi"] = [*peer, "benchmarks.peers.fastapi_digits"]
    if given.against is not None:
        commands["other"] = ["env", "-C", str(given.against), *own]
    if given.triton is not None:
        commands["triton"] = [*peer, "benchmarks.peers.triton_digits", str(given.triton.resolve())]
    if given.api_server_count > 1:
        commands["api"] = [*own[:-1], "--api-server-count", str(given.api_server_count), "--port"]
    running = []
    for (name, command), port in zip(commands.items(), free_ports(len(commands)), strict=True):
        environment = {
            "MODELS": str(models),
            **({"PYTHONPATH": str(given.against)} if name == "other" else {}),
        }
        log = scratch / f"{name}.log"
        child = Child(name, [*command, str(port)], cores=cores().proxy, log=log, env=environment)
        stack.enter_context(child)
        child.wait_listening(port, 60)
        while name != "fastapi" and not httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").is_success:
            time.sleep(0.1)
        running.append(Server(name, child, port))
    return running


def measure(server: Server, file: Path, connections: int, seconds: int) -> Sample:
    """One turn of one server."""
    session = server.child.session
    before, main = usage(session).cpu_us, process_cpu_us(session)
    seen = closed_loop(server.port, file, connections=connections, seconds=seconds, cores=cores().load)
    cpu, main = usage(session).cpu_us - before, process_cpu_us(session) - main
    count = max(seen.requests, 1)
    return Sample(seen.rate, seen.p50_us, seen.p99_us, cpu / count, main / count, seen.errors)


def row(case: tuple[int, str, int], server: Server, samples: list[Sample], first: list[Sample]) -> Row:
    """The medians of one server under one condition."""

    def mid(name: str) -> float:
        return round(float(median(getattr(sample, name) for sample in samples)), 1)

    ratio = median(sample.cpu_us / other.cpu_us for sample, other in zip(samples, first, strict=True))
    errors = sum(sample.errors for sample in samples)
    return Row(
        server.name,
        *case,
        mid("rate"),
        mid("p50_us"),
        mid("p99_us"),
        mid("cpu_us"),
        mid("main_us"),
        round(ratio, 2),
        errors,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=2, help="of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="*", default=CONNECTIONS)
    parser.add_argument("--rows", type=int, default=1, help="of one request")
    parser.add_argument("--images", action="store_true", help="in binary form, instead of digits")
    parser.add_argument("--api-server-count", type=int, default=1, metavar="N")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout to run as well")
    parser.add_argument("--triton", type=Path, help="an environment with Triton, such as .venv/compat/triton")
    parser.add_argument("--json", type=Path, help="also write the table here")
    given = parser.parse_args()
    table = []
    print("server   version form   conns  requests/s  p50 ms  p99 ms  CPU us  main us  ratio  errors")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        scratch = Path(folder)
        ensure(scratch / "models")
        kinds = [(1, "images")] if given.images else [(v, form) for v in VERSIONS for form in FORMS]
        if given.images:
            write_image_model(scratch / "models")
        servers = start(stack, scratch / "models", scratch, given)
        for case in [(*kind, many) for kind in kinds for many in given.connections]:
            file = scratch / f"{case[0]}-{case[1]}"
            if not file.exists():
                sent = image_requests(given.rows) if given.images else requests(*case[:2], given.rows)
                write_requests(file, sent)
            rounds: dict[str, list[Sample]] = {server.name: [] for server in servers}
            for number in range(given.rounds + 1):
                for server in servers:
                    sample = measure(server, file, case[2], given.seconds)
                    if number:  # the first round warms up
                        rounds[server.name].append(sample)
            for server in servers:
                line = row(case, server, rounds[server.name], rounds[servers[0].name])
                table.append(line)
                print(
                    f"{line.server:8s} {line.version:7d} {line.form:6s} {line.connections:5d}"
                    f" {line.requests_per_s:11.0f} {line.p50_us / 1e3:7.2f} {line.p99_us / 1e3:7.2f}"
                    f" {line.cpu_us:7.1f} {line.main_us:8.1f} {line.ratio:6.2f} {line.errors:7d}",
                    flush=True,
                )
    if given.json:
        given.json.write_text(
            json.dumps({"machine": facts(), "rows": [asdict(line) for line in table]}, indent=2)
        )


if __name__ == "__main__":
    main()
