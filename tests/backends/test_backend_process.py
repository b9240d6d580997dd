"""Models in a device process: what it serves, and that its end is the end of nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.backends.repositories import write_model
from tests.support.processes import ModelServerProcess

MISCHIEF = """
import ctypes, os, torch

class Model(torch.nn.Module):
    def forward(self, x):
        largest = x.max()
        if largest == 7:
            os._exit(9)
        if largest == 8:
            ctypes.string_at(0)
        if largest == 9:
            raise SystemExit(3)
        if largest == 10:
            ctypes.CDLL(None).sleep(1000)
        if largest == 11 and len(x) > 2:
            raise MemoryError
        return x * 2
"""
MIXED = "class Model:\n    def __call__(self, text, bits): return text, bits"
X, Y = {"x": ("FP32", [1])}, {"y": ("FP32", [1])}


def ask(client: httpx.Client, value: float, model: str = "mischief", rows: int = 1) -> httpx.Response:
    tensor = {"name": "x", "shape": [rows, 1], "datatype": "FP32", "data": [value] * rows}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})


def doubled(client: httpx.Client, model: str = "mischief") -> bool:
    response = ask(client, 3, model)
    return response.status_code == 200 and response.json()["outputs"][0]["data"] == [6.0]


def device_processes(server: ModelServerProcess) -> set[int]:
    """The process ids of the device processes."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if (
                int(fields[1]) == server.process.pid
                and b"backends.owner.child" in command
                and fields[0] != "Z"
            ):
                found.add(int(folder.name))
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    root: Path = tmp_path_factory.mktemp("process")
    write_model(root, "mischief", MISCHIEF, X, Y, executor="process", batch_timeout_microseconds=6_000_000)
    write_model(root, "calm", MISCHIEF, X, Y, executor="process")
    tensors = {"text": ("BYTES", [-1]), "bits": ("BF16", [2])}
    outputs = {f"{name}_out": tensor for name, tensor in tensors.items()}
    write_model(root, "mixed", MIXED, tensors, outputs, executor="process")
    with ModelServerProcess(root, "--allow-load") as server:
        server.wait_ready(120)
        yield server
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log.replace("SystemExit", "").split("mischief version 1 failed")[0]


@pytest.fixture
def client(served: ModelServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("length", [2, 300_000])
def test_tensors_cross_in_shared_memory_or_through_the_socket(client: httpx.Client, length: int) -> None:
    text, bits = ["a", "x" * length], [1.5, -2.0]
    inputs = [
        {"name": "text", "shape": [1, 2], "datatype": "BYTES", "data": text},
        {"name": "bits", "shape": [1, 2], "datatype": "BF16", "data": bits},
    ]
    outputs = client.post("/v2/models/mixed/infer", json={"inputs": inputs}).json()["outputs"]
    assert [output["data"] for output in outputs] == [text, bits]


def test_many_clients_each_get_their_own(client: httpx.Client) -> None:
    def once(value: int) -> bool:
        rows = value % 3 + 1
        return ask(client, value, "calm", rows).json()["outputs"][0]["data"] == [value * 2.0] * rows  # type: ignore[no-any-return]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(once, range(100, 300)))
    assert client.get("/v2/models/calm/config").json()["executor"] == "process"


@pytest.mark.parametrize(("value", "code"), [(7, "code 9"), (8, "code -11")])
def test_a_process_that_ends_fails_only_what_it_held(
    client: httpx.Client, served: ModelServerProcess, value: int, code: str
) -> None:
    """An `os._exit` and a crash in native code ended the whole server in a thread."""
    before = device_processes(served)
    assert ask(client, value).status_code == 500
    assert doubled(client, "calm"), "other models are not affected"
    assert doubled(client), "the next request waits for the new process"
    assert len(before & device_processes(served)) == len(before) - 1
    assert code in served.log
    assert client.get("/v2/health/ready").status_code == 200


def test_a_batch_that_never_ends_costs_its_process(client: httpx.Client, served: ModelServerProcess) -> None:
    before = device_processes(served)
    response = ask(client, 10)
    assert (response.status_code, "did not finish" in response.text) == (500, True)
    assert doubled(client)
    assert len(before & device_processes(served)) == len(before) - 1


def test_what_a_model_raises_fails_alone(client: httpx.Client, served: ModelServerProcess) -> None:
    before = device_processes(served)
    response = ask(client, 9)
    assert (response.status_code, "SystemExit" in response.text) == (500, True)
    assert doubled(client)
    assert device_processes(served) == before


def test_out_of_memory_halves_the_batch(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: ask(client, 11, "calm"), range(64)))
    assert {response.status_code for response in responses} == {200}
    assert ask(client, 11, "calm", rows=4).status_code == 503


def test_an_unloaded_model_leaves_no_process(client: httpx.Client, served: ModelServerProcess) -> None:
    before = device_processes(served)
    assert client.post("/v2/repository/models/calm/unload").status_code == 200
    end = time.monotonic() + 60
    while len(device_processes(served)) != len(before) - 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert client.post("/v2/repository/models/calm/load").status_code == 200
    assert doubled(client, "calm")
    assert len(device_processes(served)) == len(before)


def test_a_faulty_model_is_named(tmp_path: Path) -> None:
    write_model(tmp_path, "m", "raise RuntimeError('no luck')", X, Y, executor="process")
    with ModelServerProcess(tmp_path) as server:
        server.announced("(not ready)")
        (row,) = httpx.post(f"{server.url}/v2/repository/index").json()
        assert (row["state"], "no luck" in row["reason"]) == ("UNAVAILABLE", True)
        assert not device_processes(server)
        assert server.stop() == 0


BF16 = """
import torch

class Model(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

    def forward(self, x):
        assert x.dtype is self.weight.dtype is torch.bfloat16
        return x * 1
"""


def test_bf16_computes_with_fewer_bits_and_processes_end_with_a_killed_server(tmp_path: Path) -> None:
    write_model(tmp_path, "m", BF16, X, Y, executor="process", precision="bf16")
    with ModelServerProcess(tmp_path) as server:
        server.wait_ready(120)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            (output,) = ask(client, 1.001, "m").json()["outputs"]
        assert (output["datatype"], output["data"]) == ("FP32", [1.0])
        (process,) = device_processes(server)
        os.kill(process, signal.SIGTERM)  # as to a whole process group: the server says when to end
        server.kill()
        end = time.monotonic() + 60
        while Path(f"/proc/{process}").exists() and "Z" not in Path(f"/proc/{process}/stat").read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
