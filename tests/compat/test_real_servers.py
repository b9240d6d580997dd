"""Real model servers behind a canary with two shadows, over HTTP and gRPC, and clients of their own.

Each server is in an environment of its own that `make test` or `make compat` makes; without it, its tests are
skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.children import free_ports
from tests.compat.canary import Asked, Kind, check
from tests.compat.environments import environment
from tests.compat.test_servers import CHAT
from tests.compat.triton_server import Triton
from tests.support.processes import ServerProcess

APPS = Path(__file__).parent / "served"
SOUND, CHANGED = "2", "3"
"""What the models multiply by."""


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` has started, and those that they have."""
    listed = subprocess.run(["ps", "-eo", "ppid=,pid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for above, child in pairs if above == parent]
    return found[1:]


class Served(ServerProcess):
    """``served/APP_app.py`` in environment ``name``."""

    def __init__(self, name: str, app: str, ready_path: str, folder: Path, factor: str) -> None:
        self.ready_path = ready_path
        ports = free_ports(3)
        self.address, self.rpc = f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
        binaries = environment(name) / "bin"
        self._log = folder / f"{app}-{ports[0]}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [binaries / "python", APPS / f"{app}_app.py", *map(str, ports)],
                cwd=folder,
                env={
                    **os.environ,
                    "FACTOR": factor,
                    "PATH": f"{binaries}:{os.environ['PATH']}",
                    "PYTHONPATH": str(APPS),
                },
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()[-4000:]

    def kill(self) -> None:
        """With all that it has started: BentoML's workers are in process groups of their own."""
        if self.process.poll() is None:
            for pid in (*descendants(self.process.pid), self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def __exit__(self, *_: object) -> None:
        self.kill()


TRITON_SCALED = """
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        return [
            triton.InferenceResponse([
                triton.Tensor("y", triton.get_input_tensor_by_name(one, "x").as_numpy() * FACTOR)
            ])
            for one in requests
        ]
"""
TRITON_CONFIG = """
name: "m"
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [2] }
output { name: "y" data_type: TYPE_FP32 dims: [2] }
"""


def triton(folder: Path, factor: str) -> Triton:
    code = TRITON_SCALED.replace("FACTOR", f"np.float32({factor})").replace(
        "import triton_", "import numpy as np\nimport triton_", 1
    )
    (place := folder / f"triton-{free_ports(1)[0]}").mkdir()
    return Triton(place, {"m": (TRITON_CONFIG, code)})


# Requests -----------------------------------------------------------------------------------------------


def post(url: str, path: str, body: Any, key: Callable[[Any], object] = lambda found: found) -> Asked:
    response = httpx.post(url + path, json=body, timeout=30)
    assert response.status_code == 200, response.text
    return response.headers, key(response.json())


def ask_stream(url: str) -> Asked:
    response = httpx.post(f"{url}/stream", json={"x": 4.0}, timeout=30)
    return response.headers, response.text


V2 = {"id": "one", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


def tensors(found: Any) -> object:
    return [(one["name"], one["shape"], one["data"]) for one in found["outputs"]]


def ask_rpc(url: str) -> Asked:
    """`ModelInfer`, with the stub of tritonclient."""
    request = service_pb2.ModelInferRequest(model_name="m", id="one")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1, 2])
    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        found, call = stub.ModelInfer.with_call(request, timeout=30)
    raw = [np.frombuffer(one, "f4").tolist() for one in found.raw_output_contents]
    values = raw or [list(one.contents.fp32_contents) for one in found.outputs]
    return dict(call.initial_metadata()), (found.outputs[0].name, values)


# Kinds --------------------------------------------------------------------------------------------------


def served(name: str, app: str, ready_path: str) -> Callable[[Path, str], ServerProcess]:
    return lambda folder, factor: Served(name, app, ready_path, folder, factor)


def on_java(name: str) -> Callable[[Path, str], ServerProcess]:
    if shutil.which("java") is None:
        return lambda _folder, _factor: pytest.skip("it needs Java; install openjdk-17-jre-headless")
    return served(name, name, "/ping")


def rpc(server: Any) -> str:
    return f"h2c://{server.rpc}"


ROWS = {"dataframe_split": {"columns": ["x"], "data": [[4.0]]}}
PREDICT = Kind(partial(post, path="/predict", body={"x": 4.0}))
V2_REST = Kind(partial(post, path="/v2/models/m/infer", body=V2, key=tensors), {"type": "v2"})
V2_RPC = Kind(ask_rpc, {"type": "v2"}, rpc)
V1 = Kind(partial(post, path="/v1/models/m:predict", body={"instances": [1.5]}))
SERVERS: dict[str, tuple[Callable[[Path, str], ServerProcess], dict[str, Kind]]] = {
    "litserve": (
        served("litserve", "litserve", "/health"),
        {"predict": Kind(partial(post, path="/predict", body={"input": 4.0}))},
    ),
    "litserve-openai": (served("litserve", "litserve_openai", "/health"), CHAT),
    "bentoml": (served("bentoml", "bentoml", "/readyz"), {"predict": PREDICT, "stream": Kind(ask_stream)}),
    "mlserver": (served("mlserver", "mlserver", "/v2/health/ready"), {"rest": V2_REST, "rpc": V2_RPC}),
    "kserve": (served("kserve", "kserve", "/v2/health/ready"), {"rest": V2_REST, "v1": V1, "rpc": V2_RPC}),
    "mlflow": (
        served("mlflow", "mlflow", "/ping"),
        {"rows": Kind(partial(post, path="/invocations", body=ROWS), {"type": "predictions"})},
    ),
    "ray": (
        served("ray", "ray", "/-/healthz"),
        {"root": Kind(partial(post, path="/", body={"x": 4.0}))},
    ),
    "sagemaker": (
        on_java("sagemaker"),
        {"invocations": Kind(partial(post, path="/invocations", body=[1.5, 2]))},
    ),
    "torchserve": (
        on_java("torchserve"),
        {"predict": Kind(partial(post, path="/predictions/m", body={"x": 4.0}))},
    ),
    "triton": (triton, {"rest": V2_REST, "rpc": V2_RPC}),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_canary_with_two_shadows(name: str, tmp_path: Path) -> None:
    start, kinds = SERVERS[name]
    servers: list[ServerProcess] = []
    for factor in (SOUND, SOUND, CHANGED):
        if name == "ray" and servers:  # it gives up if its parts need over 30 s
            servers[-1].wait_ready(180)
        servers.append(start(tmp_path, factor))
    check(tmp_path, servers, kinds)
