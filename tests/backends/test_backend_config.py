"""What a repository may say, and what is said when it is wrong; and that the documentation tells the same."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.app import App
from backends.config import ModelConfig, VersionPolicy, read_config
from backends.errors import LoadError
from backends.metrics import Metrics
from backends.registry import Registry
from backends.repository import scan, scan_model
from backends.runtime.device import place, resolve, threads_for
from backends.train import CONFIG
from tests.backends.repositories import ECHO, write_model

DOCS = Path(__file__).parents[2] / "docs" / "backend.md"
X = {"x": ("FP32", [3])}
Y = {"y": ("FP32", [3])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"platform": "theano"}, "platform: unknown platform 'theano'; use one of pytorch_module"),
        ({"max_batch_size": -1}, "max_batch_size: Input should be greater than or equal to 0"),
        ({"batching": {}}, "batching: no such key; remove it"),
        ({"dynamic_batching": {"max_delay": 3}}, "dynamic_batching.max_delay: no such key"),
        ({"input": []}, "input: Tuple should have at least 1 item"),
        (
            {"input": [{"name": "x", "data_type": "FLOAT", "dims": [1]}]},
            "input.0.data_type: unknown datatype 'FLOAT'",
        ),
        (
            {"input": [{"name": "x", "data_type": "FP32", "dims": [0]}]},
            "input.0.dims: each size must be 1 or more",
        ),
        (
            {"input": [{"name": "x", "data_type": "FP32", "dims": [1]}] * 2},
            "two tensors of 'input' have the same name",
        ),
        ({"version_policy": {}}, 'version_policy: write one of {"latest"'),
        ({"version_policy": {"all": {}, "latest": {}}}, 'version_policy: write one of {"latest"'),
        ({"precision": "bf16", "platform": "onnx"}, "precision bf16 is for platform pytorch_module"),
        ({"precision": "tf32", "executor": "thread"}, "precision tf32 holds for a whole process"),
        ({"optimization": {"cuda": {"graph": True}}}, "optimization.cuda.graph: no such key"),
        ({"name": "../evil"}, "name: String should match pattern"),
        ({"name": "other"}, "name is 'other'; write 'm', as the folder"),
    ],
)
def test_a_fault_names_file_and_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_model(tmp_path, "m", ECHO, X, Y, **change)
    found = scan_model(tmp_path / "m")
    assert found.config is None
    assert message in found.fault
    assert str(tmp_path / "m" / "config.json") in found.fault


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "m", "name": 3}', "\x00"])
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(LoadError, match=re.escape(str(path))):
        read_config(path)


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ({"latest": {}}, [10]),
        ({"latest": {"num_versions": 2}}, [9, 10]),
        ({"latest": {"num_versions": 99}}, [1, 9, 10]),
        ({"all": {}}, [1, 9, 10]),
        ({"specific": {"versions": [9, 1, 7]}}, [1, 9]),
    ],
)
def test_version_policies(policy: dict[str, Any], served: list[int]) -> None:
    assert VersionPolicy.model_validate(policy).pick([1, 9, 10]) == served


def test_scanning_takes_only_what_is_a_model(tmp_path: Path) -> None:
    write_model(tmp_path, "m", ECHO, X, Y, version_policy={"all": {}})
    for name in ("02", "-1", "x", "1.5", "0", "³"):
        (tmp_path / "m" / name).mkdir()
    (tmp_path / "m" / "7").write_text("a file")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README").write_text("")
    found = scan(tmp_path)
    assert list(found) == ["m"]
    assert list(found["m"].versions) == [1]


def test_no_version_at_all(tmp_path: Path) -> None:
    write_model(tmp_path, "m", ECHO, X, Y)
    (tmp_path / "m" / "1").rename(tmp_path / "m" / "one")
    assert "has no version to serve" in scan_model(tmp_path / "m").fault
    write_model(tmp_path, "n", ECHO, X, Y, version_policy={"specific": {"versions": [5]}})
    assert "version_policy names it" in scan_model(tmp_path / "n").missing[5]


def test_what_changed_is_told_by_files_and_configuration(tmp_path: Path) -> None:
    def mark() -> tuple[object, ...]:
        return scan_model(tmp_path / "m").versions[1].fingerprint

    folder = write_model(tmp_path, "m", ECHO, X, Y)
    first = mark()
    assert mark() == first
    write_model(tmp_path, "m", ECHO, X, Y, version_policy={"all": {}})
    (folder / "model.py").touch()
    touched = mark()
    assert touched != first
    write_model(tmp_path, "m", None, X, Y, version_policy={"latest": {}})
    assert mark() == touched, "which versions are served is no part of what a version is"
    write_model(tmp_path, "m", None, X, Y, max_batch_size=3)
    smaller = mark()
    assert smaller != touched
    (folder / "weights").write_bytes(b"")
    assert mark() != smaller


def test_instances_are_placed() -> None:
    groups = ModelConfig.model_validate(
        {**CONFIG, "instance_group": [{"count": 2}, {"count": 1, "kind": "KIND_CPU"}]}
    ).instance_group
    cpu = resolve("cpu")
    assert place(groups, [cpu]) == [cpu] * 3
    gpus = [torch.device("cuda", index) for index in range(2)]
    assert place(groups, gpus) == [gpus[0], gpus[0], gpus[1], gpus[1], cpu], "KIND_AUTO takes every GPU"
    assert place(ModelConfig.model_validate(CONFIG).instance_group, gpus) == gpus
    wanting = ModelConfig.model_validate({**CONFIG, "instance_group": [{"kind": "KIND_GPU", "gpus": [64]}]})
    with pytest.raises(LoadError, match="cuda:64"):
        place(wanting.instance_group, [cpu])


def test_small_models_get_one_thread() -> None:
    assert threads_for(28_026, 0) == 1
    assert threads_for(28_026, 3) == 3
    assert threads_for(10**9, 0) == len(os.sched_getaffinity(0))


def test_a_large_model_gets_the_cores_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert threads_for(10**9, 0) == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_documented_configuration_is_the_reference_models() -> None:
    (text,) = re.findall(r"```json\n(\{.*?\n\})\n```", DOCS.read_text(), re.DOTALL)
    documented = ModelConfig.model_validate(json.loads(text))
    assert documented == ModelConfig.model_validate(CONFIG)


def test_every_key_and_every_metric_is_documented(models: Path) -> None:
    text = DOCS.read_text()
    for name in ModelConfig.model_fields:
        assert f"`{name}" in text, name
    for key in ("max_queue_delay_microseconds", "max_queue_size", "default_timeout_microseconds"):
        assert f"{key}`" in text, key
    metrics = Metrics(Registry(models)).render().decode()
    for name in re.findall(r"# TYPE ((?:turnout_backend|nv_inference)_\w+)", metrics):
        assert f"`{name}" in text, name


def test_the_documented_class_works(tmp_path: Path) -> None:
    from backends.runtime.load import executable

    (code,) = re.findall(r"```python\n(import torch\n.*?)```", DOCS.read_text(), re.DOTALL)
    folder = write_model(
        tmp_path, "m", code, {"tokens": ("INT64", [-1])}, {"scores": ("FP32", [2])}, parameters={"width": 8}
    )
    (folder / "tokens.py").write_text("VOCABULARY = ['a', 'b']")
    found = scan_model(tmp_path / "m")
    assert found.config is not None
    executable(found.config, found.versions[1], "cpu", 1)


def test_the_application_needs_no_server(models: Path) -> None:
    assert App(Registry(models)).registry.loading
