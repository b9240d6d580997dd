"""Models out of a real MLflow registry: by alias, taken over when the alias moves, kept when MLflow is away."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from benchmarks.children import free_ports
from tests.backends.repositories import SCALED
from tests.compat.environments import environment
from tests.docs.reader import blocks
from tests.support.processes import ModelServerProcess

API = "/api/2.0/mlflow"
CONFIG = {
    "name": "anything",
    "platform": "pytorch_module",
    "max_batch_size": 8,
    "input": [{"name": "x", "data_type": "FP32", "dims": [3]}],
    "output": [{"name": "y", "data_type": "FP32", "dims": [3]}],
}


class Mlflow:
    """A running `mlflow server`, and what a training pipeline does with it."""

    def __init__(self, folder: Path) -> None:
        binary = environment("mlflow") / "bin"
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        words = [binary / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        words += [
            "--backend-store-uri",
            f"sqlite:///{folder}/m.db",
            "--artifacts-destination",
            folder / "files",
        ]
        self.log = folder / "mlflow.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"{binary}:{os.environ['PATH']}"},
            )
        self.client = httpx.Client(base_url=self.url, timeout=60)
        wait(self.healthy, 180)
        created = self.post("experiments/create", name="e")
        self.run = self.post("runs/create", experiment_id=created["experiment_id"])["run"]["info"]
        self.post("registered-models/create", name="m")

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def post(self, call: str, **document: object) -> dict[str, dict[str, dict[str, str]]]:
        response = self.client.post(f"{API}/{call}", json=document)
        assert response.status_code == 200, response.text
        return response.json()  # type: ignore[no-any-return]

    def register(self, factor: float, code: str = SCALED) -> str:
        """A new version whose outputs are its inputs times ``factor``; its number."""
        place = f"model-{factor}"
        files = {
            "config.json": json.dumps(CONFIG),
            "model.py": code.replace("factor=1.0", f"factor={factor}"),
            "more/data.txt": "kept",
        }
        root = self.run["artifact_uri"].removeprefix("mlflow-artifacts:/")
        for name, text in files.items():
            path = f"/api/2.0/mlflow-artifacts/artifacts/{root}/{place}/{name}"
            assert self.client.put(path, content=text.encode()).status_code == 200
        source = f"runs:/{self.run['run_id']}/{place}"
        made = self.post("model-versions/create", name="m", source=source, run_id=self.run["run_id"])
        return str(made["model_version"]["version"])

    def follow_page(self, folder: Path, factor: float) -> None:
        """Register `digits` by MLflow's own client, as the page on the model server says."""
        version = folder / "models/digits/2"
        version.mkdir(parents=True)
        (version / "model.py").write_text(SCALED.replace("factor=1.0", f"factor={factor}"))
        (folder / "models/digits/config.json").write_text(json.dumps(CONFIG))
        (recipe,) = [code for code in blocks("docs/backend.md", "python") if "mlflow." in code]
        subprocess.run(
            [environment("mlflow") / "bin/python", "-c", f"import mlflow\n{recipe}"],
            cwd=folder,
            env={**os.environ, "MLFLOW_TRACKING_URI": self.url},
            check=True,
            timeout=180,
        )

    def alias(self, version: str) -> None:
        self.post("registered-models/alias", name="m", alias="champion", version=version)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.client.close()


def wait(condition: Callable[[], bool], limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_an_alias_moves_and_no_request_fails(tmp_path: Path) -> None:
    mlflow = Mlflow(tmp_path)
    try:
        first, second = mlflow.register(2.0), mlflow.register(3.0)
        broken = mlflow.register(4.0, "raise RuntimeError('not today')")
        mlflow.alias(first)
        mlflow.follow_page(tmp_path, 5.0)
        options = ("--model", "m@champion", "--model", "digits@champion", "--poll", "0.2")
        with (
            ModelServerProcess(f"mlflow:{mlflow.url}", *options) as server,
            httpx.Client(base_url=server.url, timeout=60) as client,
        ):
            server.wait_ready()
            seen: list[tuple[int, float]] = []
            done = threading.Event()

            def ask(model: str = "m") -> tuple[int, float]:
                tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 1, 1]}
                response = client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})
                return response.status_code, response.json()["outputs"][0]["data"][0]

            def keep_asking() -> None:
                while not done.is_set():
                    seen.append(ask())

            assert ask() == (200, 2.0)
            assert ask("digits") == (200, 5.0)
            asker = threading.Thread(target=keep_asking)
            asker.start()
            try:
                mlflow.alias(second)
                wait(lambda: seen[-1:] == [(200, 3.0)])
                mlflow.alias(broken)
                wait(lambda: "not today" in server.log)
            finally:
                done.set()
                asker.join(60)
            assert set(seen) == {(200, 2.0), (200, 3.0)}
            assert client.get("/v2/models/m").json()["versions"] == [second], "the first one is gone"
            rows = [row for row in client.post("/v2/repository/index").json() if row["name"] == "m"]
            states = {row["version"]: row["state"] for row in rows}
            assert states == {second: "READY", broken: "UNAVAILABLE"}
            mlflow.alias(second)
            wait(lambda: client.get("/v2/health/ready").status_code == 200)
            mlflow.stop()
            wait(lambda: "is served further" in server.log.partition("not today")[2])
            assert ask() == (200, 3.0)
            assert server.stop() == 0
    finally:
        if mlflow.process.poll() is None:
            mlflow.stop()
