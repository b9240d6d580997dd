"""Whatever a model does, the server lives: exits, hangs, lost memory, reloads without end, large bodies."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from backends.batching.entry import Entry, Outcome
from backends.batching.execution import run_batch
from backends.config import ModelConfig
from backends.errors import LoadError, ModelFailed, Unavailable
from backends.registry import Registry
from backends.runtime.executable import TorchExecutable
from backends.runtime.loaded import Loaded
from tests.backends.repositories import ECHO, write_model
from tests.support.processes import ModelServerProcess, children

X, Y = {"x": ("FP32", [1])}, {"y": ("FP32", [1])}
MISCHIEF = """
import asyncio, os, sys, threading, time
from backends import InvalidInput

class Odd(InvalidInput):
    @property
    def message(self):
        raise RuntimeError("even its text raises")

def spin():
    while True:
        pass

def stubborn():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            time.sleep(60)
        except BaseException:
            pass

DEEDS = {
    1: lambda: sys.exit(3), 2: lambda: exec("raise KeyboardInterrupt"),
    3: lambda: exec("raise asyncio.CancelledError", globals()), 4: lambda: exec("raise GeneratorExit"),
    5: lambda: exec("raise MemoryError"), 6: lambda: exec("raise Odd('x')", globals()),
    7: spin, 8: stubborn, 9: lambda: exec("raise StopIteration"),
    10: lambda: exec("raise InvalidInput('half a pair: ' + chr(0xD800))", globals()),
}

class Model:
    def __call__(self, x):
        deed = DEEDS.get(int(x.max()))
        if deed is not None:
            deed()
        return x + 1
"""

HUNGRY = """
import torch

class Model:
    def __call__(self, x):
        return x if not x.any() else torch.empty(2**60)
"""


def ask(client: httpx.Client, value: float, model: str = "mischief", timeout: float = 60.0) -> httpx.Response:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]}, timeout=timeout)


@pytest.fixture(scope="module")
def mischief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("mischief")
    write_model(root, "mischief", MISCHIEF, X, Y)
    write_model(root, "hasty", MISCHIEF, X, Y, batch_timeout_microseconds=3_000_000)
    write_model(root, "fine", ECHO, X, Y)
    write_model(root, "hungry", HUNGRY, X, Y)
    write_model(root, "wide", ECHO, {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])})
    write_model(root, "slow", SMALL, X, Y)
    with ModelServerProcess(root, "--allow-load") as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url) as client:
            yield client


@pytest.mark.parametrize(
    ("deed", "status"), [(1, 500), (2, 500), (3, 500), (4, 500), (5, 503), (6, 400), (9, 500), (10, 400)]
)
def test_a_model_that_raises_anything_serves_the_next_request(
    mischief: httpx.Client, deed: int, status: int
) -> None:
    """F1: SystemExit, CancelledError and the like ended the thread, and later requests hung for good."""
    assert ask(mischief, deed).status_code == status
    assert ask(mischief, 100).json()["outputs"][0]["data"] == [101]
    assert mischief.get("/v2/health/ready").status_code == 200


def test_an_endless_loop_ends_with_the_time_limit_of_a_batch(mischief: httpx.Client) -> None:
    answer = ask(mischief, 7, "hasty")
    assert (answer.status_code, "did not finish the batch in 3 s" in answer.text) == (500, True)
    again = ask(mischief, 100, "hasty")
    assert again.json()["outputs"][0]["data"] == [101], "another instance has taken its place"
    (stats,) = mischief.get("/v2/models/hasty/stats").json()["model_stats"]
    assert stats["inference_stats"]["fail"]["count"] >= 1


def test_a_model_that_hangs_beyond_interruption_is_given_up_and_named(mischief: httpx.Client) -> None:
    for _ in range(3):
        assert ask(mischief, 8, "hasty").status_code == 500
    refused = ask(mischief, 100, "hasty")
    assert refused.status_code == 503
    assert "is not served" in refused.json()["error"]
    assert mischief.get("/v2/models/hasty/ready").status_code == 503
    assert mischief.get("/v2/health/ready").status_code == 503
    rows = {row["name"]: row for row in mischief.post("/v2/repository/index").json()}
    assert (rows["hasty"]["state"], rows["fine"]["state"]) == ("UNAVAILABLE", "READY")
    assert "hangs" in rows["hasty"]["reason"]
    assert ask(mischief, 5, "fine").status_code == 200
    assert mischief.post("/v2/repository/models/hasty/load").status_code == 200
    assert ask(mischief, 100, "hasty").json()["outputs"][0]["data"] == [101]


def test_a_hanging_model_can_be_unloaded(tmp_path: Path) -> None:
    write_model(tmp_path, "mischief", MISCHIEF, X, Y, batch_timeout_microseconds=500_000)
    with ModelServerProcess(tmp_path, "--allow-load") as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url) as client, pytest.raises(httpx.ReadTimeout):
            ask(client, 8, timeout=0.2)
        unloaded = httpx.post(f"{server.url}/v2/repository/models/mischief/unload", timeout=60)
        assert unloaded.status_code == 200
        assert server.stop() == 0


class Hungry:
    """Keeps a weak reference to each batch's tensors, and runs out of memory above ``most`` rows."""

    def __init__(self, most: int, error: type[BaseException] = torch.OutOfMemoryError) -> None:
        self.most = most
        self.error = error
        self.alive: list[int] = []
        self.refs: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, inputs: dict[str, torch.Tensor]) -> Any:
        self.alive.append(sum(ref() is not None for ref in self.refs))
        activations = inputs["x"] * 2
        self.refs.append(weakref.ref(activations))
        if len(activations) > self.most:
            self._allocate(activations)
        return activations.clone()

    def _allocate(self, held: torch.Tensor) -> None:
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise self.error("CUDA out of memory. Tried to allocate 2 EiB") from error


def run(model: Hungry, requests: int) -> list[Outcome]:
    config = ModelConfig.model_validate(
        {
            "name": "m",
            "platform": "pytorch_module",
            "max_batch_size": 64,
            "input": [{"name": "x", "data_type": "FP32", "dims": [1]}],
            "output": [{"name": "y", "data_type": "FP32", "dims": [1]}],
        }
    )
    executable = TorchExecutable(config, Loaded(model), torch.device("cpu"))
    outcomes: dict[Entry, Outcome] = {}
    entries = [Entry((np.full((1, 1), number, "<f4"),), 1, ((1,),), 0) for number in range(requests)]
    report = run_batch("m version 1", executable, entries)
    outcomes.update(report.answered)
    outcomes.update(report.failed)
    return [outcomes[entry] for entry in entries]


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_a_batch_without_memory_is_freed_before_its_halves_run() -> None:
    """F2: the caught error kept the frames, and so each failed batch's tensors, during the retries."""
    model = Hungry(2)
    outcomes = run(model, 8)
    assert [outcome[0].item() for outcome in outcomes if isinstance(outcome, list)] == [
        2.0 * number for number in range(8)
    ]
    assert model.alive == [0] * 7, "no tensor of a failed batch lives while another runs"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError, ""),
        (MemoryError, ""),
        (
            RuntimeError,
            "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you",
        ),
        (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.usefixtures("_no_collector")
def test_memory_that_ran_out_is_503(error: type[Exception], text: str) -> None:
    """F8: MemoryError and the CPU allocator's RuntimeError were a 500."""

    class Poor(Hungry):
        def _allocate(self, held: torch.Tensor) -> None:
            raise error(text)

    (outcome,) = run(Poor(0), 1)
    assert isinstance(outcome, Unavailable)
    (other,) = run(Hungry(0, RuntimeError if error is not RuntimeError else ValueError), 1)
    assert isinstance(other, Unavailable if error is not RuntimeError else ModelFailed)


def test_the_cpu_allocators_own_error_is_503(mischief: httpx.Client) -> None:
    answer = ask(mischief, 1, "hungry")
    assert (answer.status_code, "no memory is left" in answer.text) == (503, True)


def test_a_missing_version_is_named(tmp_path: Path) -> None:
    """F10: `specific: [1, 9]` without a folder 9 served 1 and said nothing."""
    write_model(tmp_path, "m", ECHO, X, Y, version_policy={"specific": {"versions": [1, 9]}})
    with ModelServerProcess(tmp_path) as server:
        while httpx.get(f"{server.url}/v2/models/m").status_code != 200:  # pytest-timeout bounds it
            time.sleep(0.05)
        rows = httpx.post(f"{server.url}/v2/repository/index").json()
        assert [(row["version"], row["state"]) for row in rows] == [("1", "READY"), ("9", "UNAVAILABLE")]
        assert "version_policy names it" in rows[1]["reason"]
        assert "9 is missing" in httpx.get(f"{server.url}/v2/health/ready").json()["error"]


async def test_thirty_megabytes_of_json_hold_nobody_up(mischief: httpx.Client) -> None:
    """F4: health took 2.1 s to answer meanwhile. Judged against a body of a tenth of it, which is served."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=mischief.base_url, timeout=60, limits=limits) as client:

        async def slowest_beside(size: int) -> tuple[httpx.Response, float]:
            count = size // 9
            data = ",".join(["0.12345"] * count)
            body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, {count}], "data": [{data}]}}]}}'
            request = asyncio.create_task(client.post("/v2/models/wide/infer", content=body.encode()))
            slowest = 0.0
            while not request.done():
                start = time.monotonic()
                assert (await client.get("/v2/health/live")).status_code == 200
                slowest = max(slowest, time.monotonic() - start)
            return await request, slowest

        small, beside_small = await slowest_beside(3_000_000)
        large, beside_large = await slowest_beside(30 * 2**20)
        assert small.status_code == 200, small.text
        assert (large.status_code, "binary" in large.text) == (413, True)
        assert beside_large < 5 * max(beside_small, 0.05)


async def test_large_json_is_parsed_elsewhere(tmp_path: Path) -> None:
    """It held all other requests for up to a second, as its own process does here while it is stopped."""
    write_model(tmp_path, "wide", ECHO, {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])})
    with ModelServerProcess(tmp_path) as server:
        server.wait_ready()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def ask_for(count: int, **more: Any) -> httpx.Response:
                values = list(range(count))
                tensor = {"name": "x", "datatype": "FP32", "shape": [1, count], "data": values}
                return await client.post("/v2/models/wide/infer", json={"inputs": [tensor], **more})

            def parsers() -> list[int]:
                return children(server.process.pid, "backends.json_process")

            assert (await ask_for(10)).json()["outputs"][0]["data"] == list(range(10))
            assert parsers() == []
            large = (await ask_for(100_000, id="mine")).json()
            assert (large["id"], large["outputs"][0]["data"]) == ("mine", list(range(100_000)))
            (parser,) = parsers()

            wrong = await ask_for(100_000, more=1)
            assert (wrong.status_code, "unknown key 'more'" in wrong.text) == (400, True)

            os.kill(parser, signal.SIGSTOP)
            waiting = asyncio.create_task(ask_for(100_000))
            for _ in range(20):
                assert (await ask_for(10)).status_code == 200
            assert not waiting.done()
            os.kill(parser, signal.SIGKILL)
            assert (await waiting).status_code == 503
            assert "retry-after" in (await waiting).headers
            assert (await ask_for(100_000)).status_code == 200
            assert parsers() not in ([], [parser])


FAT = """
import torch
WEIGHTS = torch.full((1 << 22,), 1.0)
class Node:
    def __init__(self): self.me, self.held = self, torch.full((1 << 20,), 1.0)
class Model:
    def __init__(self): self.node = Node()
    def __call__(self, x): return x
"""


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["pytorch_module", "pytorch_export"])
def test_reloads_leave_the_memory_flat(tmp_path: Path, platform: str) -> None:
    """F3: globals of `model.py` stayed in `sys.modules`, and a program in its frozen cycles."""
    code = FAT if platform == "pytorch_module" else None
    folder = write_model(tmp_path, "m", code, X, Y, platform=platform)
    if code is None:

        class Program(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(1 << 22))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * self.weight[0]

        batch = torch.export.Dim("batch", min=1, max=8)
        program = torch.export.export(Program(), (torch.zeros(2, 1),), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / "model.pt2")
    file = next(path for path in folder.iterdir() if path.is_file())
    with ModelServerProcess(tmp_path, "--allow-load") as server:
        server.wait_ready()
        status = Path(f"/proc/{server.process.pid}/statm")
        with httpx.Client(base_url=server.url, timeout=60) as client:

            def reload(times: int) -> int:
                for _ in range(times):
                    os.utime(file, ns=(time.time_ns(), time.time_ns()))
                    assert client.post("/v2/repository/models/m/load").status_code == 200
                return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

            first = reload(4)
            # Two copies may be there at a time, and the allocator keeps some; a leak would be 10 copies.
            assert reload(10) - first < 5 * (16 << 20)
            assert json.loads(client.get("/v2/health/ready").content)["ready"]


class Cyclic:
    def __init__(self) -> None:
        self.me = self


async def test_loads_that_fail_or_change_nothing_keep_no_garbage(tmp_path: Path) -> None:
    write_model(tmp_path, "m", ECHO, X, Y)
    write_model(tmp_path, "bad", "raise ValueError", X, Y)
    registry = Registry(tmp_path, "cpu")
    await registry.load_all()
    request, failed = Cyclic(), Cyclic()
    of_request, of_failed = weakref.ref(request), weakref.ref(failed)
    await registry.load("m")
    del request
    gc.collect()
    assert of_request() is None
    gc.freeze()  # as another load does while this one runs
    del failed
    with pytest.raises(LoadError):
        await registry.load("bad")
    assert of_failed() is None
    await registry.close()


SMALL = """
import time, torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        if x.max() == 7:
            while True:
                pass
        if x.max() == 8:
            time.sleep(0.2)
        if x.max() == 9:
            raise SystemExit(3)
        return x + self.one
"""


def test_a_small_model_on_the_event_loop_cannot_hold_it(tmp_path: Path) -> None:
    """The first batch is the endless one: on a busy machine, any other may take long enough for a thread."""
    write_model(tmp_path, "small", SMALL, X, Y, executor="loop")
    write_model(tmp_path, "exits", SMALL, X, Y, executor="loop")
    with ModelServerProcess(tmp_path) as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url) as client:

            def executor() -> str:
                return str(client.get("/v2/models/small/config").json()["executor"])

            assert executor() == "loop"
            start = time.monotonic()
            looping = ask(client, 7, "small")
            assert (looping.status_code, "time limit" in looping.text) == (500, True)
            assert time.monotonic() - start < 15
            assert executor() == "thread", "what holds the loop loses its place there"
            assert ask(client, 9, "exits").status_code == 500
            for model in ("small", "exits"):
                assert ask(client, 1, model).json()["outputs"][0]["data"] == [2]
        assert server.stop() == 0


def test_slow_batches_move_a_model_to_a_thread(mischief: httpx.Client) -> None:
    for _ in range(3):
        assert ask(mischief, 8, "slow").status_code == 200
    assert mischief.get("/v2/models/slow/config").json()["executor"] == "thread"
    assert ask(mischief, 1, "slow").json()["outputs"][0]["data"] == [2]


@pytest.mark.parametrize(
    ("wish", "dims", "code", "got"),
    [
        ("auto", [1], SMALL, "loop"),
        ("thread", [1], SMALL, "thread"),
        ("auto", [-1], SMALL, "thread"),
        ("auto", [1], ECHO, "thread"),
        ("loop", [-1], ECHO, "loop"),
    ],
)
async def test_who_runs_on_the_loop(tmp_path: Path, wish: str, dims: list[int], code: str, got: str) -> None:
    write_model(tmp_path, "m", code, {"x": ("FP32", dims)}, {"y": ("FP32", dims)}, executor=wish)
    registry = Registry(tmp_path, "cpu")
    await registry.load_all()
    assert registry.find("m").executor == got
    await registry.close()
