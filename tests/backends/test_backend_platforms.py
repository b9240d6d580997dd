"""Every platform beside a class and an exported program: real files of real libraries, right and wrong."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from backends.config import PLATFORMS
from backends.registry import MAX_FAULT_CHARS
from backends.runtime.loading import _LOADERS
from tests.backends.repositories import write_model
from tests.support.processes import ModelServerProcess

if (
    TYPE_CHECKING
):  # imported when first used: they take seconds, and each process of pytest collects all files
    import xgboost
    from sklearn.linear_model import LogisticRegression

X = {"x": ("FP32", [3])}
ROWS = np.arange(12, dtype="<f4").reshape(4, 3)


class Affine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + 1


AFFINE = (ROWS * [1, 2, 3] + 1).ravel().tolist()


def write_onnx(path: Path) -> None:
    shape = [None, 3]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "one"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3]),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def write_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Affine()), str(path))


@pytest.fixture(scope="module")
def classifier() -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(ROWS, [0, 1, 0, 1])


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    import xgboost

    data = xgboost.DMatrix(ROWS, label=[0, 1, 2, 3])
    return xgboost.train({"max_depth": 2, "nthread": 1, "base_score": 0.5}, data, 3)


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, classifier: LogisticRegression, booster: xgboost.Booster
) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("platforms")
    y = {"y": ("FP32", [3])}
    write_onnx(write_model(root, "onnx", None, X, y, platform="onnx") / "model.onnx")
    write_torchscript(write_model(root, "torchscript", None, X, y, platform="torchscript") / "model.pt")
    outputs = {"predict": ("INT64", []), "predict_proba": ("FP64", [2])}
    folder = write_model(root, "sklearn", None, X, outputs, platform="sklearn")
    dump(classifier, folder / "model.skops")
    folder = write_model(root, "xgboost", None, X, {"y": ("FP32", [])}, platform="xgboost")
    booster.save_model(folder / "model.ubj")
    with ModelServerProcess(root) as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url) as connected:
            yield connected


def ask(client: httpx.Client, model: str) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [4, 3], "data": ROWS.ravel().tolist()}
    answer = client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


@pytest.mark.parametrize("model", ["onnx", "torchscript"])
def test_graphs(client: httpx.Client, model: str) -> None:
    assert ask(client, model) == {"y": AFFINE}


def test_an_estimator_by_its_methods(client: httpx.Client, classifier: LogisticRegression) -> None:
    outputs = ask(client, "sklearn")
    assert outputs["predict"] == classifier.predict(ROWS).tolist()
    np.testing.assert_allclose(outputs["predict_proba"], classifier.predict_proba(ROWS).ravel())


def test_a_booster(client: httpx.Client, booster: xgboost.Booster) -> None:
    np.testing.assert_allclose(ask(client, "xgboost")["y"], booster.inplace_predict(ROWS), rtol=1e-6)


@pytest.mark.slow
def test_an_aotinductor_package(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "aot", None, X, {"y": ("FP32", [3])}, platform="pytorch_aot")
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Affine(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(folder / "model.pt2"),
            inductor_configs={  # these keep the compiler's work small
                "aot_inductor.compile_wrapper_opt_level": "O0",
                "aot_inductor.precompile_headers": False,
                "cpp.vec_isa_ok": False,
            },
        )
    with ModelServerProcess(tmp_path) as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url) as connected:
            assert ask(connected, "aot") == {"y": AFFINE}


def dump(what: object, path: Path) -> None:
    import skops.io

    skops.io.dump(what, path)


class Untrusted:
    """A type that skops does not know."""


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    y = {"y": ("FP32", [3])}
    files = {
        "onnx": "model.onnx",
        "torchscript": "model.pt",
        "sklearn": "model.skops",
        "xgboost": "model.ubj",
    }
    for platform, file in files.items():
        write_model(tmp_path, f"{platform}-absent", None, X, y, platform=platform)
        broken = write_model(tmp_path, f"{platform}-broken", None, X, y, platform=platform)
        (broken / file).write_bytes(b"\0garbage")
    write_onnx(
        write_model(tmp_path, "renamed", None, X, {"z": ("FP32", [3])}, platform="onnx") / "model.onnx"
    )
    folder = write_model(tmp_path, "untrusted", None, X, {"predict": ("INT64", [])}, platform="sklearn")
    dump(Untrusted(), folder / "model.skops")
    with ModelServerProcess(tmp_path) as server:
        while "still being loaded" in httpx.get(f"{server.url}/v2/health/ready", timeout=60).text:
            time.sleep(0.05)
        rows = {row["name"]: row["reason"] for row in httpx.post(f"{server.url}/v2/repository/index").json()}
        assert server.stop() == 0
    for platform, file in files.items():
        assert f"{file} is missing; platform {platform} needs it" in rows[f"{platform}-absent"]
        assert "can't be loaded" in rows[f"{platform}-broken"], rows
        assert len(rows[f"{platform}-broken"]) <= MAX_FAULT_CHARS
        assert "\n" not in rows[f"{platform}-broken"]
    assert "has no output 'z'; it has y" in rows["renamed"]
    assert "types that skops does not trust" in rows["untrusted"]
    assert "Untrusted" in rows["untrusted"]


def test_every_platform_has_a_loader_and_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "backend.md").read_text()
    for platform in PLATFORMS:
        assert f"`{platform}`" in text, platform
        assert platform in _LOADERS or platform == "ensemble", platform
