"""On a real GPU: the same results as on the CPU, overlapped, and life after an illegal access."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from tests.backends.repositories import write_model
from tests.support.processes import ModelServerProcess

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

LOOKUP = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.arange(1000.0)[:, None])

    def forward(self, x):
        return torch.nn.functional.embedding(x, self.table).sum(dim=1) * 2
"""
BRANCHES = LOOKUP.replace("return", "assert x.max().item() < 1000\n        return")


@pytest.mark.parametrize("code", [LOOKUP, BRANCHES], ids=["graphs", "eager"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_model_on_the_gpu(tmp_path: Path, code: str, precision: str) -> None:
    write_model(tmp_path, "m", code, {"x": ("INT64", [2])}, {"y": ("FP32", [1])}, precision=precision)
    with ModelServerProcess(tmp_path, "--device", "cuda") as server:
        server.wait_ready(300)
        with httpx.Client(base_url=server.url, timeout=60) as client:

            def ask(value: int, rows: int) -> httpx.Response:
                tensor = {"name": "x", "shape": [rows, 2], "datatype": "INT64", "data": [value] * 2 * rows}
                return client.post("/v2/models/m/infer", json={"inputs": [tensor]})

            def right(value: int) -> bool:
                rows = value % 5 + 1
                return ask(value, rows).json()["outputs"][0]["data"] == [value * 4.0] * rows  # type: ignore[no-any-return]

            assert client.get("/v2/models/m/config").json()["executor"] == "process"
            with ThreadPoolExecutor(16) as pool:
                assert all(pool.map(right, [number % 60 for number in range(500)]))
            assert ("without CUDA graphs" in server.log) == (code == BRANCHES)
            if code == LOOKUP:
                assert ask(10**6, 1).status_code == 500, "an illegal access, or a device-side assertion"
            assert right(3)
            assert client.get("/v2/health/ready").status_code == 200
        assert server.stop() == 0
