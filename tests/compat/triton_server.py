"""A real Triton: its binary is in the PyPI package nvidia-pytriton, which `make servers` installs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.children import free_ports
from tests.compat.environments import environment
from tests.support.processes import ServerProcess


class Triton(ServerProcess):
    """A running tritonserver over models of its Python backend, by name: their config.pbtxt and their code."""

    ready_path = "/v2/health/ready"

    def __init__(self, folder: Path, models: Mapping[str, tuple[str, str]]) -> None:
        packages = next((environment("triton") / "lib").glob("python3.*/site-packages"))
        source = packages / "pytriton" / "tritonserver"
        version = packages.parent.name.removeprefix("python")
        shutil.copytree(source / "backends", folder / "backends")
        stub = source / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, folder / "backends" / "python")
        for name, (config, code) in models.items():
            (folder / "models" / name / "1").mkdir(parents=True)
            (folder / "models" / name / "1" / "model.py").write_text(code)
            (folder / "models" / name / "config.pbtxt").write_text(config)
        port, rpc_port, metrics_port = free_ports(3)
        self.address, self.rpc = f"127.0.0.1:{port}", f"127.0.0.1:{rpc_port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self._log = folder / "triton.log"
        options = {
            "model-repository": folder / "models", "backend-directory": folder / "backends",
            "http-address": "127.0.0.1", "http-port": port, "grpc-address": "127.0.0.1",
            "grpc-port": rpc_port, "metrics-address": "127.0.0.1", "metrics-port": metrics_port,
        }  # fmt: skip
        libraries = str(packages / "nvidia_pytriton.libs")
        path = f"{environment('triton') / 'bin'}:{os.environ['PATH']}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [source / "bin" / "tritonserver", *(f"--{key}={value}" for key, value in options.items())],
                env={**os.environ, "PATH": path, "PYTHONPATH": str(packages), "LD_LIBRARY_PATH": libraries},
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()[-4000:]

    def __exit__(self, *_: object) -> None:
        self.kill()
