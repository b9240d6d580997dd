"""A user's own models: a class in `model.py`, a `torch.export` file, and what is said when they are wrong."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backends.app import App
from backends.batching.entry import Spans
from backends.http.listener import Listener
from backends.registry import Registry
from backends.repository import scan_model
from backends.runtime.load import executable
from tests.backends.repositories import ECHO, SCALED, write_model, write_picky
from tests.support.processes import ModelServerProcess

UPPER = """
import numpy as np

class Model:
    def __call__(self, text):
        return {"upper": np.array([[word.upper() for word in row] for row in text], dtype=object)}
"""
X = {"x": ("FP32", [3])}
Y = {"y": ("FP32", [3])}
ONES = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 1, 1]}


class Exported(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x.sum(dim=1).to(torch.int32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("own")
    folder = write_model(root, "scaled", SCALED, X, Y, parameters={"factor": 10.0})
    save_file({"weight": torch.tensor([1.0, 2.0, 3.0])}, folder / "model.safetensors")
    write_model(root, "upper", UPPER, {"text": ("BYTES", [-1])}, {"upper": ("TYPE_STRING", [-1])})
    two = {"double": ("FP32", [3]), "sum": ("INT32", [])}
    folder = write_model(root, "exported", None, X, two, platform="pytorch_export")
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Exported(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    write_model(root, "whole", ECHO, {"x": ("INT64", [-1, 2])}, {"y": ("INT64", [-1, 2])}, max_batch_size=0)
    write_picky(root)
    return root


@pytest.fixture(scope="module")
def own(repository: Path) -> Iterator[httpx.Client]:
    with ModelServerProcess(repository) as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url) as client:
            yield client
        assert server.stop() == 0
        assert "secret detail" in server.log, "the log has what the client is not told"


def ask(client: httpx.Client, model: str, name: str, datatype: str, data: list[Any]) -> httpx.Response:
    entry = {"name": name, "datatype": datatype, "shape": list(np.shape(data)), "data": data}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [entry]})


def outputs(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def test_a_module_with_weights_and_parameters(own: httpx.Client) -> None:
    answer = ask(own, "scaled", "x", "FP32", [[1, 1, 1], [2, 0, 1]])
    assert outputs(answer) == {"y": [10, 20, 30, 20, 0, 30]}


async def test_a_model_with_helpers_beside_it(tmp_path: Path) -> None:
    code = "from .helpers import FACTOR\nclass Model:\n    def __call__(self, x): return x * FACTOR"
    for version in (1, 2):
        folder = write_model(tmp_path, "m", code, X, Y, version=version, version_policy={"all": {}})
        (folder / "helpers.py").write_text(f"FACTOR = {version * 10}")
    async with serving(tmp_path) as client:
        for version in (1, 2):
            answer = await client.post(f"/v2/models/m/versions/{version}/infer", json={"inputs": [ONES]})
            assert outputs(answer) == {"y": [version * 10] * 3}


def test_a_plain_class_over_strings(own: httpx.Client) -> None:
    assert outputs(ask(own, "upper", "text", "BYTES", [["ab", "c"]])) == {"upper": ["AB", "C"]}


def test_an_exported_program(own: httpx.Client) -> None:
    answer = ask(own, "exported", "x", "FP32", [[1, 2, 3], [4, 5, 6]])
    assert outputs(answer) == {"double": [2, 4, 6, 8, 10, 12], "sum": [6, 15]}


def test_a_model_without_a_batch_axis(own: httpx.Client) -> None:
    assert own.get("/v2/models/whole").json()["inputs"][0]["shape"] == [-1, 2]
    assert outputs(ask(own, "whole", "x", "INT64", [[1, 2], [3, 4], [5, 6]])) == {"y": [1, 2, 3, 4, 5, 6]}


def test_what_a_model_refuses_is_the_clients_fault_and_what_it_breaks_on_is_not(own: httpx.Client) -> None:
    raw = np.array([[np.nan]], dtype="<f4").tobytes()
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    refused = own.post("/v2/models/picky/infer", content=head + raw, headers=headers)
    assert (refused.status_code, refused.json()) == (400, {"error": "x has a NaN; send numbers"})
    broken = ask(own, "picky", "x", "FP32", [[-1]])
    assert broken.status_code == 500
    assert "picky version 1 failed (RuntimeError)" in broken.json()["error"]
    assert "secret" not in broken.text
    assert outputs(ask(own, "picky", "x", "FP32", [[4]])) == {"y": [8]}


@asynccontextmanager
async def serving(root: Path) -> Any:
    """The application in this process."""
    registry = Registry(root, "cpu")
    listener = Listener(App(registry, control=True))
    address = await listener.start("127.0.0.1", 0)
    await registry.load_all()
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client:
            yield client
    finally:
        await listener.stop(5)
        await registry.close()


FAULTY = {
    "syntax": ("class Model(:", "SyntaxError"),
    "empty": ("", "has no class Model"),
    "raises": ("raise OSError('gone')", "OSError: gone"),
    "leaves": ("raise SystemExit(3)", "SystemExit: 3"),
    "arguments": ("class Model:\n    def __init__(self, size): ...", "Model(**parameters) raised TypeError"),
    "no-call": ("class Model: ...", "can't be called"),
    "wrong-type": ("class Model:\n    def __call__(self, x): return x.double()", "config.json says FP32"),
    "wrong-shape": (
        "class Model:\n    def __call__(self, x): return x[:, :2]",
        "with shape [1, 2]; it should be [1, 3]",
    ),
    "wrong-name": ("class Model:\n    def __call__(self, x): return {'z': x}", "gave no output 'y'"),
    "wrong-count": (
        "class Model:\n    def __call__(self, x): return x, x",
        "gave 2 outputs; config.json lists 1",
    ),
    "not-a-tensor": ("class Model:\n    def __call__(self, x): return [1.5]", "as float"),
    "wrong-input": ("class Model:\n    def __call__(self, image): return image", "unexpected keyword"),
}


async def test_faulty_models_are_named_and_the_others_serve(tmp_path: Path) -> None:
    for case, (code, _) in FAULTY.items():
        write_model(tmp_path, case, code, X, Y)
    write_model(tmp_path, "fine", ECHO, X, Y)
    async with serving(tmp_path) as client:
        rows = {row["name"]: row for row in (await client.post("/v2/repository/index")).json()}
        for case, (_, message) in FAULTY.items():
            assert rows[case]["state"] == "UNAVAILABLE", case
            assert message in rows[case]["reason"]
            assert str(tmp_path) in rows[case]["reason"] or case in rows[case]["reason"]
            assert (await client.get(f"/v2/models/{case}/ready")).status_code == 503
        assert (await client.get("/v2/health/ready")).status_code == 503
        assert (await client.get("/v2/models/fine/ready")).status_code == 200


async def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "scaled", SCALED, X, Y)
    for content in ({"weight": torch.ones(4)}, {"wait": torch.ones(3)}):
        save_file(content, folder / "model.safetensors")
        async with serving(tmp_path) as client:
            (row,) = (await client.post("/v2/repository/index")).json()
            assert "does not fit the class Model" in row["reason"]
    (folder / "model.safetensors").write_bytes(b"garbage")
    async with serving(tmp_path) as client:
        (row,) = (await client.post("/v2/repository/index")).json()
        assert "does not fit the class Model" in row["reason"]


async def test_weights_that_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_model(tmp_path, "scaled", SCALED, X, Y)
    for name in ("model.pt", "model.safetensors"):
        (folder / name).write_bytes(b"")
        async with serving(tmp_path):
            assert ("can read model.pt:" in caplog.text) == (name == "model.pt")
        caplog.clear()


async def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    write_model(tmp_path, "module", None, X, Y)
    export = write_model(tmp_path, "export", None, X, Y, platform="pytorch_export")
    (tmp_path / "bare").mkdir()
    os.mkdir(os.fsencode(tmp_path) + b"/not-utf-8-\xff")
    async with serving(tmp_path) as client:
        reasons = {row["name"]: row["reason"] for row in (await client.post("/v2/repository/index")).json()}
        unready = await client.get("/v2/health/ready")
    assert "model.py is missing" in reasons["module"]
    assert "model.pt2 is missing" in reasons["export"]
    assert "config.json: can't be read" in reasons["bare"]
    assert "not-utf-8-?/config.json: can't be read" in reasons["not-utf-8-?"]
    assert unready.status_code == 503, "was a 500, with a trace in the log at each look"
    assert "not-utf-8-?" in unready.json()["error"]
    (export / "model.pt2").write_bytes(b"PK\3\4 not a zip")
    async with serving(tmp_path) as client:
        reasons = {row["name"]: row["reason"] for row in (await client.post("/v2/repository/index")).json()}
    assert "can't be loaded" in reasons["export"]


async def test_versions_come_and_go_without_a_gap(tmp_path: Path) -> None:
    factor = "class Model:\n    def __call__(self, x): return x * {}"
    everything: dict[str, Any] = {"version_policy": {"all": {}}}
    write_model(tmp_path, "m", factor.format(1), X, Y, **everything)
    async with serving(tmp_path) as client:

        async def ask_all() -> dict[str, float]:
            found = {}
            for version in (await client.get("/v2/models/m")).json()["versions"]:
                answer = await client.post(f"/v2/models/m/versions/{version}/infer", json={"inputs": [ONES]})
                found[version] = outputs(answer)["y"][0]
            return found

        assert await ask_all() == {"1": 1}
        write_model(tmp_path, "m", factor.format(2), X, Y, version=2, **everything)
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert await ask_all() == {"1": 1, "2": 2}

        path = write_model(tmp_path, "m", factor.format(20), X, Y, version=2, **everything) / "model.py"
        os.utime(path, ns=(1, 1))
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert await ask_all() == {"1": 1, "2": 20}

        write_model(tmp_path, "m", "broken(", X, Y, version=2, **everything)
        refused = await client.post("/v2/repository/models/m/load")
        assert refused.status_code == 422
        assert "SyntaxError" in refused.json()["error"]
        assert await ask_all() == {"1": 1, "2": 20}, "what can't be loaded leaves the old in place"

        (tmp_path / "m" / "config.json").write_text("{}")
        assert (await client.post("/v2/repository/models/m/load")).status_code == 422
        assert await ask_all() == {"1": 1, "2": 20}

        write_model(
            tmp_path, "m", factor.format(3), X, Y, version=3, version_policy={"latest": {"num_versions": 1}}
        )
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert await ask_all() == {"3": 3}
        write_model(tmp_path, "m", "broken(", X, Y, version=4, version_policy={"latest": {"num_versions": 1}})
        assert (await client.post("/v2/repository/models/m/load")).status_code == 422
        assert await ask_all() == {"3": 3}, "the version that it was to replace stays"

        # A page of any site can send this through a browser on this machine, and a rebound name is no other.
        for origin in ("http://evil.example", "null", "http://127.0.0.1"):
            page = {"origin": origin}
            for action in ("load", "unload"):
                refused = await client.post(f"/v2/repository/models/m/{action}", headers=page)
                assert (refused.status_code, "web pages" in refused.text) == (403, True)
        assert (await client.post("/v2/repository/models/m/unload")).status_code == 200
        assert (await client.get("/v2/models/m")).status_code == 503
        (row,) = (await client.post("/v2/repository/index")).json()
        assert (row["state"], row["reason"]) == ("UNAVAILABLE", "unloaded")
        assert (await client.post("/v2/repository/index", json={"ready": True})).json() == []
        for action in ("load", "unload"):
            assert (await client.post(f"/v2/repository/models/absent/{action}")).status_code == 404
        assert (await client.post("/v2/repository/models/%2e%2e/load")).status_code == 404
        overridden = await client.post("/v2/repository/models/m/load", json={"parameters": {"config": "{}"}})
        assert overridden.status_code == 400


MEETING = """
import pathlib, time, uuid

class Model:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def __call__(self, x):
        if x.any():
            (self.folder / str(uuid.uuid4())).touch()
            end = time.monotonic() + 60
            while len(list(self.folder.iterdir())) < 2:
                assert time.monotonic() < end, "the other one waits for this one to end"
                time.sleep(0.01)
        return x.clone()
"""


async def test_instances_work_side_by_side(tmp_path: Path) -> None:
    (place := tmp_path / "place").mkdir()
    write_model(
        tmp_path / "models", "m", MEETING, X, Y,
        max_batch_size=1, instance_group=[{"count": 2}], parameters={"folder": str(place)},
    )  # fmt: skip
    async with serving(tmp_path / "models") as client:
        asking = (client.post("/v2/models/m/infer", json={"inputs": [ONES]}) for _ in range(2))
        assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200, 200]


async def test_a_reload_under_load_fails_no_request(tmp_path: Path) -> None:
    code = "class Model:\n    def __call__(self, x): return x * {}"
    write_model(tmp_path, "m", code.format(1), X, Y)
    async with serving(tmp_path) as client:
        seen: list[float] = []
        done = asyncio.Event()

        async def ask_on() -> None:
            while not done.is_set():
                answer = await client.post("/v2/models/m/infer", json={"inputs": [ONES]})
                seen.append(outputs(answer)["y"][0])

        asking = [asyncio.create_task(ask_on()) for _ in range(8)]
        for factor in (20, 300, 4000):
            write_model(tmp_path, "m", code.format(factor), X, Y)
            assert (await client.post("/v2/repository/models/m/load")).status_code == 200
            await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*asking)
    assert sorted(set(seen)) == [1, 20, 300, 4000]
    assert seen[-1] == 4000


KEEPER = """
import numpy as np

class Model:
    kept = np.empty((1, 1), dtype=object)

    def __call__(self, x):
        self.kept[:] = x
        return self.kept
"""


@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_outputs_are_copies_of_what_a_model_keeps(tmp_path: Path, datatype: str) -> None:
    """The first response was written while the next batch ran."""
    code = KEEPER if datatype == "BYTES" else KEEPER.replace("object", "np.float32")
    write_model(tmp_path, "keeper", code, {"x": (datatype, [1])}, {"y": (datatype, [1])}, max_batch_size=1)
    found = scan_model(tmp_path / "keeper")
    assert found.config is not None
    model = executable(found.config, found.versions[1], "cpu", 1)
    inputs = [np.array([[value]], object if datatype == "BYTES" else "<f4") for value in (b"1", b"2")]
    first, second = (model.run([(one,)], 1, ((1,),), Spans())[0] for one in inputs)
    assert (first.tolist(), second.tolist()) == tuple(one.tolist() for one in inputs)
